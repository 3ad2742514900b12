"""Settings come from the environment, whole or not at all."""

import pytest

from threadkeep.config import Settings
from threadkeep.errors import SettingsError


def test_settings_survive_the_way_to_another_process(monkeypatch):
    made = Settings.load(
        s3_tags={"team": "agents", "env": "prod"},
        s3_access_key="id",
        s3_secret_key="secret",
        redis_cluster=True,
        s3_checksum=None,
        lease_seconds=7.5,
    )
    for name, value in made.to_environ().items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == made


def test_every_setting_says_what_it_is_for():
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lease_seconds": 0}, "THREADKEEP_LEASE_SECONDS"),
        ({"s3_tags": "novalue"}, "THREADKEEP_S3_TAGS: must look like name=value"),
        ({"s3_prefix": "/x"}, "THREADKEEP_S3_PREFIX: must not be empty"),
        ({"s3_access_key": "only"}, "set together"),
        ({"s3_sse_kms_key": "k"}, "needs s3_sse=aws:kms"),
        ({"soft_time_limit": 200}, "soft_time_limit must be below"),
        ({"hard_time_limit": 200}, "at least twice hard_time_limit"),
        ({"retry_backoff_max": 200}, "a third of visibility_timeout"),
        ({"no_such_setting": 1}, "THREADKEEP_NO_SUCH_SETTING"),
        ({"key_prefix": "a:b"}, "THREADKEEP_KEY_PREFIX"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes, says):
    with pytest.raises(SettingsError, match=says) as caught:
        Settings.load(**changes)
    assert "Nothing was started" in str(caught.value)


def test_settings_do_not_show_their_secrets():
    made = Settings.load(
        redis_url="redis://:hush@h/0",
        broker_url="amqp://u:hush@h//",
        database_url="postgresql://u:hush@h/d",
        s3_access_key="id",
        s3_secret_key="hush",
        s3_session_token="hush",
    )
    assert "hush" not in repr(made)
    assert "hush" not in str(made)


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().key_prefix = "x"
