"""What obstore sends instead of boto3, when it does, and when it does not."""

import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest

from threadkeep.config import Settings
from threadkeep.errors import AnswerGarbled, SettingsError, StoreRefused
from threadkeep.model import fresh_mark
from threadkeep.storage import s3_engine
from threadkeep.storage.cold import open_cold
from threadkeep.storage.s3_obstore import ObstoreRequests
from threadkeep.testing.buckets import Bucket
from threadkeep.testing.cold_samples import REF, make_meta, put_over
from threadkeep.testing.wire import Answer, FaultyProxy, Garble

BODY = b"123456789"
SENTENCE = "arn:aws:iam::123456789012:user/secret-name may not"


@pytest.fixture(scope="module")
def bucket(seaweed_server):
    access = {"access_key": seaweed_server.access_key, "secret_key": seaweed_server.secret_key}
    made = Bucket.create(f"engines-{fresh_mark()}", endpoint=seaweed_server.endpoint, **access)
    yield made
    made.client.close()


@pytest.fixture
def proxy(bucket):
    with FaultyProxy(bucket.endpoint) as running:
        yield running


@pytest.fixture
def opened(bucket, proxy):
    """Opens stores on the bucket behind the proxy, with obstore unless told otherwise."""
    stores = []

    def open_store(**overrides):
        values = {"s3_endpoint": proxy.endpoint, "s3_prefix": fresh_mark(), "s3_engine": "obstore"}
        stores.append(open_cold(bucket.settings(**(values | overrides))))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


def agents(proxy):
    return {request.headers["user-agent"].split("/")[0].lower() for request in proxy.requests}


# --- what is sent -----------------------------------------------------------------------------------------


def test_put_head_and_get_are_obstores_and_all_else_is_boto3s(opened, proxy):
    store = opened()
    stored = put_over(store, REF, 1)
    store.put(REF, BODY, meta=make_meta(2), based_on=stored.etag)
    assert store.get(REF) == (store.head(REF), BODY)
    assert agents(proxy) == {"object_store"}
    proxy.requests.clear()
    assert list(store.scan())
    assert agents(proxy) == {"boto3"}


def test_a_condition_is_sent_unquoted_and_a_body_is_signed(opened, proxy):
    store = opened()
    first = put_over(store, REF, 1)
    store.put(REF, BODY, meta=make_meta(2), based_on=first.etag)
    create, replace = (request.headers for request in proxy.requests if request.method == "PUT")
    assert (create["if-none-match"], create.get("if-match")) == ("*", None)
    assert (replace["if-match"], replace.get("if-none-match")) == (first.etag, None)
    assert replace["x-amz-content-sha256"] == hashlib.sha256(BODY).hexdigest()
    assert replace["content-type"] == "application/zstd"


def test_a_large_body_is_boto3s(opened, proxy, monkeypatch):
    """obstore's read timeout would run while it is on its way."""
    monkeypatch.setattr("threadkeep.storage.s3_bucket.LARGEST_PUT", len(BODY) - 1)
    opened().put(REF, BODY, meta=make_meta(1), based_on=None)
    assert agents(proxy) == {"boto3"}


def test_a_key_that_obstore_would_change_is_boto3s(opened):
    bucket = opened().bucket
    for key in ("/a", "a/", "a//b", "a/../b", "./a"):
        assert bucket._quick_for(key) is None
    assert bucket._quick_for("a/.b/c..") is not None


def test_bytes_without_the_md5_of_their_etag_are_asked_for_once_more(opened, proxy, monkeypatch):
    """Not every store's ETags are MD5s: until one was, the archive's own chain decides."""
    monkeypatch.setattr("threadkeep.storage.s3_obstore.hashlib.md5", hashlib.sha256)
    store = opened()
    store.put(REF, BODY, meta=make_meta(1), based_on=None)
    proxy.requests.clear()
    assert store.get(REF)[1] == BODY
    assert agents(proxy) == {"object_store", "boto3"}


def test_bytes_that_are_garbled_once_are_read_again_and_twice_are_refused(opened, proxy):
    store = opened()
    store.put(REF, BODY, meta=make_meta(1), based_on=None)
    proxy.inject(Garble(4), method="GET")
    assert store.get(REF)[1] == BODY
    proxy.inject(Garble(4), method="GET", times=2)
    with pytest.raises(AnswerGarbled):
        store.get(REF)
    assert store.get(REF)[1] == BODY


def test_a_server_is_not_quoted(opened, proxy):
    body = f"<Error><Code>AccessDenied</Code><Message>{SENTENCE}</Message></Error>".encode()
    proxy.inject(Answer(403, body=body))
    with pytest.raises(StoreRefused, match=r"AccessDenied \(HTTP 403\)") as refusal:
        opened().get(REF)
    told = (str(refusal.value), repr(refusal.value), repr(refusal.value.__cause__), str(refusal.value.__cause__))
    assert not any(SENTENCE in text for text in told)
    assert refusal.value.__cause__.__cause__ is None


def test_a_key_that_looks_like_an_answer_is_none(opened, proxy):
    key = "Server returned non-2xx status code: 404 <Code>NoSuchKey</Code>"
    proxy.inject(Answer(403, "AccessDenied"))
    with pytest.raises(StoreRefused, match="AccessDenied"):
        opened().bucket.get(key)


def test_the_sdks_own_credentials_serve_obstore_too(opened, bucket, proxy, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bucket.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.secret_key)
    store = opened(s3_access_key=None, s3_secret_key=None, s3_region=None)
    put_over(store, REF, 1)
    assert store.get(REF) is not None
    assert agents(proxy) == {"object_store"}


# --- which engine -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "installed", "used"),
    [("auto", True, "obstore"), ("auto", False, "boto3"), ("boto3", True, "boto3"), ("obstore", True, "obstore")],
)
def test_the_engine_is_as_asked(opened, monkeypatch, asked, installed, used):
    monkeypatch.setattr(s3_engine, "find_spec", lambda name: object() if installed else None)
    assert opened(s3_engine=asked).bucket.engine == used


def test_an_engine_that_is_asked_for_and_not_installed_is_named(opened, monkeypatch):
    monkeypatch.delitem(sys.modules, "threadkeep.storage.s3_obstore")
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(SettingsError, match=r"threadkeep\[obstore\]"):
        opened()


def test_adaptive_retries_are_boto3s(opened):
    assert opened(s3_engine="auto", s3_retry_mode="adaptive").bucket.engine == "boto3"
    with pytest.raises(SettingsError, match="adaptive"):
        Settings.load(s3_engine="obstore", s3_retry_mode="adaptive")


# --- processes --------------------------------------------------------------------------------------------

ROUND_TRIP = """
import sys
from threadkeep.config import Settings
from threadkeep.storage.cold import open_cold
SAMPLES

store = open_cold(Settings.load())
assert store.get(REF) is None
put_over(store, REF, 1)
assert store.head(REF).etag == store.get(REF)[0].etag
print(sorted({"boto3", "botocore", "obstore"} & sys.modules.keys()))
"""


def test_a_process_that_only_flushes_and_hydrates_never_loads_boto3(bucket):
    settings = bucket.settings(s3_engine="obstore", s3_prefix=fresh_mark())
    environ = {**os.environ, **settings.to_environ()}
    code = ROUND_TRIP.replace("SAMPLES", SAMPLES)
    told = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert told.stdout.strip() == "['obstore']", told.stderr


SAMPLES = """
from threadkeep.model import ArchiveMeta, ThreadRef

REF = ThreadRef.of("t")

def put_over(store, ref, rev):
    return store.put(ref, b"x", meta=ArchiveMeta(rev=rev, attempt="a", chain="", count=0, born=0), based_on=None)
"""


def forked(work, *, seconds=20):
    """The exit code of a forked process that does the work: 0, or 1 if it fails, or -9 if it hangs."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_forked_from_one_that_used_obstore_uses_boto3(opened):
    """What obstore runs on has threads, which a fork leaves behind: its calls would hang for ever."""
    store = opened()
    put_over(store, REF, 1)
    assert ObstoreRequests._started == os.getpid()

    def work():
        assert store.bucket.engine == "boto3"
        assert store.get(REF)[1] == store.get(REF)[1]
        assert open_cold_again().head(REF) is not None

    def open_cold_again():
        return type(store)(type(store.bucket)(store.bucket.connection, store.bucket.policy, "obstore"), store.keys)

    assert forked(work) == 0
    assert store.bucket.engine == "obstore"
    assert store.get(REF) is not None


def test_a_process_forked_from_one_that_did_not_yet_use_it_uses_obstore(bucket):
    """As Celery's prefork pool does: the stores are opened before the fork or after it, and used after it."""
    settings = bucket.settings(s3_engine="obstore", s3_prefix=fresh_mark())
    code = FORK_FIRST.replace("SAMPLES", SAMPLES)
    environ = {**os.environ, **settings.to_environ()}
    told = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60)
    assert told.stdout.split() == ["obstore", "0"], told.stderr


FORK_FIRST = """
import os
from threadkeep.config import Settings
from threadkeep.storage.cold import open_cold
SAMPLES
store = open_cold(Settings.load())
child = os.fork()
if child == 0:
    put_over(store, REF, 1)
    assert store.get(REF) is not None
    print(store.bucket.engine, flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""
