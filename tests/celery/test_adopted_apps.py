"""An app that adopts Threadkeep's tasks stays the user's, and a check names what in it endangers a promise."""

import os
import subprocess
import sys

import pytest
from celery import Celery
from kombu import Exchange, Queue

from threadkeep.config import Settings
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.conf import FLUSH, check

STAYS_THE_USERS = """
import sys
import celery
from celery import Celery, shared_task
from threadkeep.config import Settings

settings = Settings.load(broker_url="redis://127.0.0.1:1/0", redis_url="redis://127.0.0.1:1/0")

def use_threadkeep():
    from threadkeep import AsyncThreadkeep, Threadkeep
    import threadkeep.tasks
    Threadkeep(settings)
    AsyncThreadkeep(settings)

if sys.argv[1] == "before":
    use_threadkeep()
app = Celery("shop")
if sys.argv[1] == "after":
    use_threadkeep()

@shared_task
def report(): ...

assert celery.current_app._get_current_object() is app
assert report.app is app
assert "threadkeep.flush_thread" in app.tasks
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_users_app_stays_the_current_one(when, pytestconfig):
    environment = {**os.environ, "PYTHONPATH": str(pytestconfig.rootpath)}
    subprocess.run([sys.executable, "-W", "error", "-c", STAYS_THE_USERS, when], env=environment, check=True)


SOUND = Settings.load(broker_url="redis://127.0.0.1:1/0")
RABBIT = Settings.load(broker_url="amqp://127.0.0.1:1//")


@pytest.mark.parametrize("settings", [SOUND, RABBIT], ids=["redis", "rabbitmq"])
class TestCheckIsSilent:
    def test_about_our_own_app(self, settings):
        assert check(make_app(settings)) == []

    def test_about_an_adopted_app_with_the_recommended_configuration(self, user_app):
        assert check(user_app) == []


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"broker_transport_options": {"visibility_timeout": 30}}, "visibility_timeout is below 240 s"),
        ({"broker_transport_options": {"socket_timeout": None}}, "socket_timeout is not set"),
        ({"broker_transport_options": {"global_keyprefix": ""}}, "global_keyprefix is not set"),
        ({"worker_cancel_long_running_tasks_on_connection_loss": True}, "a Redis broker then loses tasks"),
        ({"worker_prefetch_multiplier": 4}, "worker_prefetch_multiplier is not 1"),
        ({"accept_content": ["json", "pickle"]}, "accept_content allows more than JSON"),
    ],
)
def test_check_names_what_endangers_a_redis_broker(changed, named):
    assert_only(problem_of(SOUND, changed), named)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (
            {"task_queues": [Queue(FLUSH, Exchange(FLUSH), queue_arguments={"x-queue-type": "quorum"})]},
            f"queue {FLUSH} is a quorum queue without a dead-letter exchange",
        ),
        ({"broker_transport_options": {"confirm_publish": False}}, "confirm_publish is not set"),
        ({"worker_prefetch_multiplier": 0}, "worker_prefetch_multiplier is not 1"),
        ({"accept_content": ["pickle"]}, "accept_content allows more than JSON"),
    ],
)
def test_check_names_what_endangers_a_rabbitmq_broker(changed, named):
    assert_only(problem_of(RABBIT, changed), named)


def test_check_is_alarmed_by_celerys_defaults():
    plain = Celery("plain", broker="redis://127.0.0.1:1/0", set_as_current=False)
    assert len(check(plain)) == 3


def problem_of(settings: Settings, changed: dict) -> list[str]:
    app = make_app(settings)
    for name, value in changed.items():
        before = app.conf.get(name)
        app.conf[name] = {**before, **value} if isinstance(value, dict) else value
    return check(app)


def assert_only(problems: list[str], named: str) -> None:
    assert len(problems) == 1, problems
    assert named in problems[0]
