"""The cold store when the network or the server fails: each fault is made on the wire, before SeaweedFS."""

import os
import signal
import threading
import time

import pytest
from botocore.exceptions import EndpointConnectionError

from threadkeep.errors import ArchiveMoved, StoreRefused, StoreUnavailable
from threadkeep.model import fresh_mark
from threadkeep.storage.cold import open_cold
from threadkeep.storage.s3_multipart import abort_uploads
from threadkeep.testing.buckets import Bucket
from threadkeep.testing.cold_samples import REF, make_meta, put_over
from threadkeep.testing.wire import Answer, Delay, DropReply, FaultyProxy, Garble, Reset, Truncate

BODY = bytes(range(256)) * 400
SECRET = "a-secret-of-its-own"


def bucket_of(server, *, versioned=False):
    access = {"endpoint": server.endpoint, "access_key": server.access_key, "secret_key": server.secret_key}
    return Bucket.create(f"faults-{fresh_mark()}", **access, versioned=versioned)


@pytest.fixture(scope="module")
def bucket(seaweed_server):
    made = bucket_of(seaweed_server)
    yield made
    made.client.close()


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "versioned"])
def moto_bucket(request, moto_server):
    made = bucket_of(moto_server, versioned=request.param)
    yield made
    made.client.close()


@pytest.fixture
def proxy(bucket):
    with FaultyProxy(bucket.endpoint) as running:
        yield running


@pytest.fixture(params=["boto3", "obstore"])
def engine(request):
    return request.param


@pytest.fixture
def opened(engine):
    """Opens stores of a bucket behind an endpoint, and closes them."""
    stores = []

    def open_behind(bucket, endpoint, **overrides):
        stores.append(
            open_cold(bucket.settings(s3_endpoint=endpoint, s3_prefix=fresh_mark(), s3_engine=engine, **overrides))
        )
        return stores[-1]

    yield open_behind
    for store in stores:
        store.close()


@pytest.fixture
def store(opened, bucket, proxy):
    """A store that tries each request three times."""
    return opened(bucket, proxy.endpoint)


@pytest.fixture
def once(opened, bucket, proxy):
    """A store that tries each request once."""
    return opened(bucket, proxy.endpoint, s3_attempts=1, s3_read_timeout=0.5)


# --- a reply that is lost ---------------------------------------------------------------------------------


@pytest.mark.parametrize("replacing", [False, True], ids=["create", "replace"])
def test_a_put_whose_reply_was_lost_meets_its_own_success(store, proxy, replacing):
    """The SDK sends it again, and the second is refused: looking shows that the first did it."""
    based_on = put_over(store, REF, 1).etag if replacing else None
    proxy.requests.clear()
    proxy.inject(DropReply(), method="PUT")
    meta = make_meta(2)
    with pytest.raises(ArchiveMoved):
        store.put(REF, BODY, meta=meta, based_on=based_on)
    assert store.get(REF) == (store.head(REF), BODY)
    assert store.head(REF).meta == meta
    assert proxy.count("PUT") == 2


def test_a_put_of_unknown_outcome_says_so_and_may_be_repeated(once, proxy):
    proxy.inject(DropReply(), method="PUT")
    meta = make_meta(1)
    with pytest.raises(StoreUnavailable):
        once.put(REF, BODY, meta=meta, based_on=None)
    with pytest.raises(ArchiveMoved):
        once.put(REF, BODY, meta=meta, based_on=None)
    assert once.head(REF).meta == meta


def test_a_put_that_takes_too_long_is_of_unknown_outcome(once, proxy):
    proxy.inject(Delay(30), method="PUT")
    meta = make_meta(1)
    with pytest.raises(StoreUnavailable, match="Timeout"):
        once.put(REF, BODY, meta=meta, based_on=None)
    assert once.head(REF).meta == meta


class TimeIsUpError(Exception):
    """What a signal handler raises, as Celery's does for the soft time limit."""


def test_an_interruption_comes_through_and_is_not_tried_again(store, proxy):
    """The SDK would take it for a fault of the network, swallow it and send the request once more."""

    def interrupt(number, frame):
        raise TimeIsUpError

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        proxy.inject(Delay(30), method="HEAD")
        threading.Thread(target=interrupt_when, args=(lambda: proxy.count("HEAD"),)).start()
        with pytest.raises(TimeIsUpError):
            store.head(REF)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert proxy.count("HEAD") == 1


def interrupt_when(ready):
    while not ready():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGUSR1)


# --- a server that cannot now -----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Answer(503, "SlowDown"), Answer(500), DropReply()], ids=["503", "500", "reset"])
def test_a_passing_fault_is_tried_again_by_the_sdk_alone(store, proxy, fault):
    put_over(store, REF, 1)
    proxy.requests.clear()
    proxy.inject(fault, method="HEAD", times=2)
    assert store.head(REF).meta.rev == 1
    assert proxy.count("HEAD") == 3


@pytest.mark.parametrize("fault", [Answer(503, "SlowDown"), Answer(500), DropReply()], ids=["503", "500", "reset"])
def test_a_lasting_fault_costs_as_many_requests_as_attempts_are_set(store, proxy, fault):
    proxy.inject(fault, times=100)
    with pytest.raises(StoreUnavailable):
        store.put(REF, BODY, meta=make_meta(1), based_on=None)
    assert proxy.count("PUT") == 3


# --- an object that is extended by parts ------------------------------------------------------------------

REQUESTS = {
    "begun": ("POST", "uploads"),
    "copied": ("PUT", "partNumber=1"),
    "sent": ("PUT", "partNumber=2"),
    "completed": ("POST", "uploadId"),
}


def extended(store, *, on=None):
    """Extend an object of 5 MiB; what there is then, and how many uploads are left of it."""
    large = BODY * 60
    first = store.put(REF, large, meta=make_meta(1), based_on=None)
    if on:
        on()
    done = store.extend(REF, b"new", meta=make_meta(2), based_on=first.etag, keep=len(large))
    stored, body = store.get(REF)
    assert (stored.etag, stored.meta.rev, body == large + b"new") == (done.etag, 2, True)
    return done, abort_uploads(store.bucket, store.keys.thread(REF))


@pytest.mark.parametrize("engine", ["boto3"], indirect=True)
@pytest.mark.parametrize("which", REQUESTS)
@pytest.mark.parametrize(
    "fault", [Answer(503, "SlowDown"), Answer(500), Answer(200)], ids=["503", "500", "found_out_after_200"]
)
def test_a_passing_fault_of_any_part_is_tried_again_and_leaves_no_upload(store, proxy, which, fault):
    method, containing = REQUESTS[which]
    _, left = extended(store, on=lambda: proxy.inject(fault, method=method, containing=containing, times=2))
    assert left == 0


@pytest.mark.parametrize("engine", ["boto3"], indirect=True)
@pytest.mark.parametrize("which", ["begun", "copied", "sent"])
def test_a_part_whose_reply_was_lost_is_sent_again(store, proxy, which):
    method, containing = REQUESTS[which]
    _, left = extended(store, on=lambda: proxy.inject(DropReply(), method=method, containing=containing))
    assert left == (which == "begun"), "nobody knows the name of an upload of which the answer was lost"


@pytest.mark.parametrize("engine", ["boto3"], indirect=True)
def test_an_extension_whose_reply_was_lost_meets_its_own_success(store, proxy):
    with pytest.raises(ArchiveMoved):
        extended(store, on=lambda: proxy.inject(DropReply(), method="POST", containing="uploadId"))
    assert store.head(REF).meta.rev == 2
    assert abort_uploads(store.bucket, store.keys.thread(REF)) == 0


@pytest.mark.parametrize("engine", ["boto3"], indirect=True)
@pytest.mark.parametrize("which", REQUESTS)
def test_a_lasting_fault_of_a_part_leaves_all_as_it_was(store, proxy, which):
    method, containing = REQUESTS[which]
    with pytest.raises(StoreUnavailable):
        extended(store, on=lambda: proxy.inject(Answer(503), method=method, containing=containing, times=4))
    assert store.head(REF).meta.rev == 1
    assert abort_uploads(store.bucket, store.keys.thread(REF)) == 0


@pytest.mark.parametrize("engine", ["boto3"], indirect=True)
def test_a_part_that_finds_nobody_is_sent_again(store, monkeypatch):
    sent, session = [], type(store.bucket.client._endpoint.http_session)
    send = session.send

    def refused_at_first(self, request):
        sent.append(request.url)
        if "partNumber=2" in request.url and sum("partNumber=2" in url for url in sent) < 3:
            raise EndpointConnectionError(endpoint_url=request.url)
        return send(self, request)

    monkeypatch.setattr(session, "send", refused_at_first)
    _, left = extended(store)
    assert left == 0
    assert sum("partNumber=2" in url for url in sent) == 3


@pytest.mark.parametrize("engine", ["boto3"], indirect=True)
def test_an_interruption_of_a_part_comes_through(store, proxy):
    def interrupt(number, frame):
        raise TimeIsUpError

    def started():
        return sum("partNumber=2" in seen.target for seen in proxy.requests)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        proxy.inject(Delay(30), method="PUT", containing="partNumber=2")
        threading.Thread(target=interrupt_when, args=(started,)).start()
        with pytest.raises(TimeIsUpError):
            extended(store)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert started() == 1


# --- a body that comes damaged ----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Truncate(0), Truncate(50_000), Reset(50_000), Garble(50_000)], ids=repr)
def test_a_damaged_body_is_never_handed_on(store, proxy, fault):
    put = store.put(REF, BODY, meta=make_meta(1), based_on=None)
    proxy.inject(fault, method="GET")
    try:
        seen = [store.get(REF)]
    except StoreUnavailable:
        seen = []
    for stored, body in [*seen, store.get(REF)]:
        assert (stored.etag, body) == (put.etag, BODY)
    assert any(request.fault for request in proxy.requests)


def test_a_connection_that_breaks_in_the_answer_that_nothing_is_there_is_a_passing_fault(store, proxy):
    proxy.inject(Reset(20), method="GET")
    with pytest.raises(StoreUnavailable):
        store.get(REF)
    assert store.get(REF) is None


def test_an_answer_that_is_not_of_s3_is_a_passing_fault(once, proxy):
    proxy.inject(Answer(200, body=b"<html>a proxy's error page"), method="GET", containing="list-type")
    with pytest.raises(StoreUnavailable):
        list(once.scan())


# --- answers, and what they become ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [(412, "PreconditionFailed"), (409, "ConditionalRequestConflict"), (404, "NoSuchKey")],
)
def test_losers_are_told_so_whatever_the_store_calls_it(once, proxy, status, code):
    proxy.inject(Answer(status, code), method="PUT")
    with pytest.raises(ArchiveMoved):
        once.put(REF, BODY, meta=make_meta(1), based_on="0" * 32)


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (403, "AccessDenied", "s3:PutObject"),
        (403, "ExpiredToken", "THREADKEEP_S3_SESSION_TOKEN"),
        (404, "NoSuchBucket", "THREADKEEP_S3_BUCKET"),
        (400, "InvalidStorageClass", "THREADKEEP_S3_STORAGE_CLASS"),
        (400, "KMS.NotFoundException", "THREADKEEP_S3_SSE_KMS_KEY"),
        (400, "SomethingNew", "doctor"),
        (501, "NotImplemented", "lacks"),
    ],
)
def test_a_refusal_names_what_to_change(store, proxy, status, code, remedy):
    proxy.inject(Answer(status, code), times=9)
    with pytest.raises(StoreRefused, match=remedy) as refusal:
        store.put(REF, BODY, meta=make_meta(1), based_on="0" * 32)
    assert code in str(refusal.value)
    assert proxy.count("PUT") <= 3


def test_errors_hold_no_secrets(opened, bucket, proxy):
    store = opened(bucket, proxy.endpoint, s3_secret_key=SECRET, s3_session_token=SECRET, s3_attempts=1)
    for fault in (Answer(403, "AccessDenied"), Answer(500), DropReply(), None):
        if fault:
            proxy.inject(fault)
        with pytest.raises((StoreRefused, StoreUnavailable)) as failure:
            store.get(REF)
        for text in (str(failure.value), repr(failure.value), str(failure.value.__cause__)):
            assert SECRET not in text
            assert bucket.access_key not in text
    assert SECRET not in repr(store.bucket.connection.access)


def test_no_credentials_at_all_are_refused(opened, bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    store = opened(bucket, bucket.endpoint, s3_access_key=None, s3_secret_key=None)
    with pytest.raises(StoreRefused, match="THREADKEEP_S3_ACCESS_KEY"):
        store.head(REF)
    assert store.probe().reachable is False


def test_an_endpoint_that_is_no_url_is_refused(opened, bucket):
    with pytest.raises(StoreRefused, match="THREADKEEP_S3_ENDPOINT"):
        opened(bucket, "no url").head(REF)


# --- stores that lack something ---------------------------------------------------------------------------


def test_a_store_without_versions_can_be_purged_all_the_same(once, proxy):
    once.put_aside(REF, b"aside", meta=make_meta(1))
    proxy.inject(Answer(501, "NotImplemented"), method="GET", containing="versions", times=9)
    put_over(once, REF, 1)
    assert once.purge_conflicts(REF) == 1
    assert once.conflicts(REF) == []
    assert once.purge_history(REF, keep="0" * 32) == 0
    assert once.head(REF).meta.rev == 1


def test_the_probe_sees_through_a_store_that_ignores_conditions(opened, moto_bucket):
    with FaultyProxy(moto_bucket.endpoint, without_headers=["if-match", "if-none-match"]) as careless:
        facts = opened(moto_bucket, careless.endpoint).probe()
    assert (facts.conditional_create, facts.conditional_replace) == (False, False)
    assert facts.writable is True


def test_the_probe_reports_a_bucket_that_may_only_be_read(once, proxy):
    proxy.inject(Answer(403, "AccessDenied"), method="PUT", times=9)
    facts = once.probe()
    assert (facts.reachable, facts.bucket, facts.writable) == (True, True, False)
    assert "s3:PutObject" in facts.problem


def test_a_copy_of_what_came_in_between_is_not_taken_for_the_conflict(opened, moto_bucket, monkeypatch):
    """moto ignores the condition of a copy, as some stores do. With versions, the right one is copied."""
    store = opened(moto_bucket, moto_bucket.endpoint)
    put_over(store, REF, 1)
    stale = store.head(REF)
    put_over(store, REF, 2)
    with monkeypatch.context() as patch:
        patch.setattr(store, "head", lambda ref: stale)
        key = store.set_aside(REF, etag=stale.etag)
    assert (key is not None) == (stale.version_id is not None)
    assert [copy.meta.rev for copy in store.conflicts(REF)] == ([1] if key else [])
