"""One boto3 client per process, made at first use."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from threadkeep.storage import s3_client
from threadkeep.storage.s3_client import LazyClient, S3Access


class FakeClient:
    closed = 0

    def close(self):
        self.closed += 1


@pytest.fixture
def made(monkeypatch):
    clients = []

    def connect(access):
        clients.append(FakeClient())
        return clients[-1]

    monkeypatch.setattr(s3_client, "connect", connect)
    return clients


@pytest.fixture
def lazy():
    return LazyClient(S3Access("bucket"))


def test_nothing_is_made_before_it_is_needed(made, lazy):
    lazy.close()
    assert made == []


def test_threads_that_come_at_once_share_one_client(made, lazy):
    together = Barrier(8)

    def get(_):
        together.wait()
        return lazy.get()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(get, range(8))) == {made[0]}
    assert len(made) == 1


def test_a_forked_process_makes_its_own_and_leaves_its_parents_alone(made, lazy, monkeypatch):
    parents = lazy.get()
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    assert lazy.get() is not parents
    lazy.close()
    assert (parents.closed, made[1].closed) == (0, 1)


def test_a_fork_while_another_thread_made_the_client_does_not_block(made, lazy, monkeypatch):
    lazy._locks[os.getpid()] = held = s3_client.threading.Lock()
    held.acquire()
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    assert lazy.get() is made[0]


def test_after_closing_the_next_use_makes_another(made, lazy):
    lazy.get()
    lazy.close()
    assert lazy.get() is made[1]
    assert made[0].closed == 1


def test_secrets_do_not_show():
    access = S3Access("bucket", access_key="the-id", secret_key="the-secret", session_token="the-token")
    assert not any(secret in repr(access) for secret in ("the-id", "the-secret", "the-token"))


def test_the_client_is_set_up_as_asked():
    """Retries in one layer; no checksum trailers, which other stores refuse."""
    config = s3_client.connect(
        S3Access("bucket", region="eu-north-1", attempts=5, access_key="a", secret_key="b")
    ).meta.config
    assert config.retries == {"mode": "standard", "total_max_attempts": 5}
    assert config.request_checksum_calculation == "when_required"
    assert config.tcp_keepalive is True


@pytest.mark.parametrize(
    ("access", "url"),
    [
        (S3Access("bucket", region="eu-north-1"), "https://bucket.s3.eu-north-1.amazonaws.com/k"),
        (S3Access("bucket", endpoint="http://seaweed:8333"), "http://seaweed:8333/bucket/k"),
        (S3Access("bucket", endpoint="http://s3.lan", addressing="virtual"), "http://bucket.s3.lan/k"),
        (
            S3Access("bucket", region="eu-north-1", addressing="path"),
            "https://s3.eu-north-1.amazonaws.com/bucket/k",
        ),
    ],
)
def test_the_bucket_enters_the_url_as_asked(access, url, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    client = s3_client.connect(access)
    client.meta.events.register("before-send.s3", _keep_back)
    with pytest.raises(KeptBackError, match=f"^{re.escape(url)}$"):
        client.head_object(Bucket="bucket", Key="k")


class KeptBackError(Exception):
    """Instead of a request to the URL."""


def _keep_back(request, **_):
    raise KeptBackError(request.url)
