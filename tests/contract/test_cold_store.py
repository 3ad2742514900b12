"""The cold store contract over HTTP: SeaweedFS and moto, versioned or not, in both layouts; and in memory."""

import pytest

from threadkeep.errors import ArchiveFrozen, ArchiveMoved, StoreRefused, StoreUnavailable
from threadkeep.local.ports import free_port
from threadkeep.model import ThreadRef, fresh_mark
from threadkeep.storage import cold
from threadkeep.storage.cold import S3ColdStore, open_cold
from threadkeep.storage.cold_keys import ColdKeys
from threadkeep.storage.cold_revisions import S3RevisionStore
from threadkeep.storage.s3_multipart import abort_uploads
from threadkeep.testing.buckets import Bucket
from threadkeep.testing.cold import LARGE, ColdStoreContract, body_of_size
from threadkeep.testing.cold_samples import REF, body_of, make_meta, put_over
from threadkeep.testing.memory import MemoryColdStore
from threadkeep.testing.remote_cold import RemoteColdStoreContract

SCENES = {
    f"{server}-{'versioned' if versioned else 'plain'}-{engine}": (server, versioned, engine)
    for server, versioned, engine in [
        ("seaweed", False, "boto3"),
        ("seaweed", True, "boto3"),
        ("seaweed", True, "obstore"),
        ("moto", False, "boto3"),
        ("moto", False, "obstore"),
        ("moto", True, "boto3"),
    ]
}
"""Each server, bucket and engine, in pairs; not all of all."""


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    """As if these servers completed uploads atomically; a test that writes one thing after the other sees no more."""
    monkeypatch.setattr(cold, "completes_atomically", lambda _: True)


@pytest.fixture(scope="module", params=SCENES)
def scene(request):
    return SCENES[request.param]


@pytest.fixture(scope="module")
def server_name(scene):
    return scene[0]


@pytest.fixture(scope="module")
def versioned(scene):
    return scene[1]


@pytest.fixture(scope="module")
def engine(scene):
    return scene[2]


@pytest.fixture(scope="module")
def server(request, server_name):
    return request.getfixturevalue(f"{server_name}_server")


@pytest.fixture(scope="class")
def bucket(server, versioned):
    access = {"endpoint": server.endpoint, "access_key": server.access_key, "secret_key": server.secret_key}
    made = Bucket.create(f"cold-{fresh_mark()}", **access, versioned=versioned)
    yield made
    made.client.close()


@pytest.fixture(scope="class")
def connection(bucket, engine):
    """One client for all tests of a class: making one takes 150 ms."""
    store = open_cold(bucket.settings(s3_engine=engine))
    yield store.bucket
    store.close()


@pytest.fixture
def prefix():
    return f"deep/{fresh_mark()}"


@pytest.fixture
def raw(bucket):
    return bucket


@pytest.fixture
def opened(bucket, prefix, engine):
    """Opens stores on the bucket, with settings of choice, and closes them."""
    stores = []

    def open_store(**overrides):
        stores.append(open_cold(bucket.settings(**({"s3_prefix": prefix, "s3_engine": engine} | overrides))))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


class S3Contract(RemoteColdStoreContract):
    layout = "on"

    @pytest.fixture
    def store(self, connection, prefix):
        kind = S3ColdStore if self.layout == "on" else S3RevisionStore
        return kind(connection, ColdKeys(prefix))

    @pytest.fixture
    def extending(self, server_name):
        """Moto completes uploads whatever stands in If-Match."""
        return self.layout == "on" and server_name == "seaweed"

    @pytest.fixture
    def broken(self, opened):
        def opened_broken(breakage):
            faults = {
                "credentials": {"s3_secret_key": "not-the-secret"},
                "bucket": {"s3_bucket": f"absent-{fresh_mark()}"},
                "endpoint": {"s3_endpoint": f"http://127.0.0.1:{free_port()}", "s3_attempts": 1},
            }
            return opened(conditional_writes=self.layout, **faults[breakage])

        return opened_broken


class TestS3ColdStore(S3Contract):
    def test_it_is_what_conditional_writes_open(self, opened):
        assert isinstance(opened(), S3ColdStore)

    def test_the_longest_id_has_an_object_of_its_own(self, store, server_name, versioned):
        if server_name == "seaweed" and versioned:
            with pytest.raises(StoreUnavailable):  # it appends `.versions`: at most 235 bytes of an id are left
                self.keeps(store, ThreadRef.of("i" * 236))
        else:
            super().test_the_longest_id_has_an_object_of_its_own(store)

    def test_a_late_look_at_a_grave_gives_uploads_up_again(self, store):
        client, key = store.bucket.client, store.keys.thread(REF)
        upload = client.create_multipart_upload(Bucket=store.bucket.name, Key=key)["UploadId"]
        client.upload_part(Bucket=store.bucket.name, Key=key, UploadId=upload, PartNumber=1, Body=b"private")
        assert store.purge_late(REF, before=10) == 0
        assert abort_uploads(store.bucket, key) == 0

    def test_an_upload_that_somebody_else_gives_up_meanwhile_is_given_up(self, store, monkeypatch):
        client, key = store.bucket.client, store.keys.thread(REF)
        client.create_multipart_upload(Bucket=store.bucket.name, Key=key)
        abort = client.abort_multipart_upload

        def twice(**upload):
            abort(**upload)
            return abort(**upload)

        monkeypatch.setattr(client, "abort_multipart_upload", twice)
        assert abort_uploads(store.bucket, key) == 1
        assert abort_uploads(store.bucket, key) == 0

    def test_an_extension_yields_to_who_writes_before_it_is_complete(self, store, extending, monkeypatch):
        if not extending:
            assert not store.extends(LARGE)
            return
        first = store.put(REF, body_of_size(LARGE), meta=make_meta(1), based_on=None)
        other = []

        send = store.bucket.multipart.send

        def write_first(operation, *request, **more):
            if operation == "CompleteMultipartUpload":
                other.append(store.put(REF, b"another", meta=make_meta(2), based_on=first.etag))
            return send(operation, *request, **more)

        monkeypatch.setattr(store.bucket.multipart, "send", write_first)
        with pytest.raises(ArchiveMoved):
            store.extend(REF, b"late", meta=make_meta(3), based_on=first.etag, keep=LARGE)
        assert store.head(REF).etag == other[0].etag
        assert abort_uploads(store.bucket, first.key) == 0

    def test_with_the_history_go_the_parts_of_a_flush_that_was_killed(self, store, raw, prefix):
        stored = put_over(store, REF, 1)
        made = store.bucket.client.create_multipart_upload(Bucket=store.bucket.name, Key=stored.key)
        upload = {"Bucket": store.bucket.name, "Key": stored.key, "UploadId": made["UploadId"]}
        store.bucket.client.upload_part(**upload, PartNumber=1, Body=b"private")
        store.purge_history(REF, keep=stored.etag)
        assert abort_uploads(store.bucket, stored.key) == 0
        assert store.head(REF).etag == stored.etag


class TestS3RevisionStore(S3Contract):
    """It does not look at what a put is based on; the highest revision counts, and a lower one is refused."""

    layout = "off"
    scanned = 150

    def test_it_is_what_no_conditional_writes_open(self, opened):
        assert isinstance(opened(conditional_writes="off"), S3RevisionStore)

    def remembers(self, *, versioned):
        return True

    def test_a_scan_goes_on_behind_any_thread_there_or_not(self, store, server_name, versioned):
        if server_name == "seaweed" and versioned:  # where it starts, it has the folder `1` before `1-`; its keys not
            self.goes_on(store, ("1", "2-", "é"))
        else:
            super().test_a_scan_goes_on_behind_any_thread_there_or_not(store)

    def test_a_create_yields_to_what_is_there(self, store):
        store.put(REF, b"late", meta=make_meta(9), based_on=None)
        with pytest.raises(ArchiveMoved):
            store.put(REF, b"later, but older", meta=make_meta(2), based_on=None)
        assert store.get(REF)[1] == b"late"

    def test_a_replacement_yields_to_another_object(self, store):
        first = put_over(store, REF, 1)
        put_over(store, REF, 3)
        with pytest.raises(ArchiveMoved):
            store.put(REF, b"slow", meta=make_meta(2), based_on=first.etag)
        assert store.head(REF).meta.rev == 3

    def test_a_replacement_of_nothing_creates_nothing(self, store):
        """It creates: an ETag means nothing here."""
        store.put(REF, b"first", meta=make_meta(1), based_on="0" * 32)
        assert store.get(REF)[1] == b"first"

    def test_a_repeat_after_success_finds_its_own_attempt(self, store):
        meta = make_meta(1)
        first = store.put(REF, b"mine", meta=meta, based_on=None)
        again = store.put(REF, b"mine", meta=meta, based_on=None)
        assert (again.key, again.etag) == (first.key, first.etag)
        assert store.head(REF).meta == meta

    def test_of_sixteen_writers_at_once_one_wins(self, store):
        metas = [make_meta(rev) for rev in range(2, 18)]
        assert len(self.race(store, REF, metas, based_on=None)) >= 1
        assert store.get(REF) == (store.head(REF), body_of(metas[-1]))

    def test_of_one_revision_by_two_attempts_the_greater_attempt_wins(self, store):
        for attempt in ("bb", "cc"):
            store.put(REF, attempt.encode(), meta=make_meta(5, attempt=attempt), based_on=None)
        with pytest.raises(ArchiveMoved):
            store.put(REF, b"aa", meta=make_meta(5, attempt="aa"), based_on=None)
        assert store.get(REF)[1] == b"cc"

    def test_a_late_write_whose_writer_was_killed_goes_with_what_came_late(self, store, raw, prefix):
        tombstone = put_over(store, REF, 9, tombstone=True)
        raw.write(ColdKeys(prefix).revision(REF, 3, "aa"), b"private")
        assert store.purge_late(REF, before=9) == 1
        assert raw.keys(f"{prefix}/") == [tombstone.key]

    def test_a_late_write_to_an_erased_thread_leaves_nothing(self, store, raw, prefix):
        tombstone = put_over(store, REF, 9, tombstone=True)
        with pytest.raises(ArchiveMoved):
            store.put(REF, b"private", meta=make_meta(3), based_on=None)
        assert raw.keys(f"{prefix}/") == [tombstone.key]
        assert raw.count_versions(f"{prefix}/") == 1

    def test_a_repair_that_comes_late_to_an_erased_thread_leaves_nothing(self, store, raw, prefix, monkeypatch):
        """It looked, then slept through the erasure, then wrote."""
        damaged = put_over(store, REF, 5)
        tombstone = put_over(store, REF, 9, tombstone=True)
        store.purge_history(REF, keep=tombstone.etag)
        monkeypatch.setattr(store, "head", lambda ref: damaged)
        with pytest.raises(ArchiveMoved):
            store.put_back(REF, b"private", meta=make_meta(4), over=damaged)
        assert raw.keys(f"{prefix}/") == [tombstone.key]
        assert raw.count_versions(f"{prefix}/") == 1

    def old_versions(self, replaced, *, versioned):
        return replaced

    def key_for_strangers(self, keys):
        return keys.revision(REF, 5, "aa")


class TestMemoryColdStore(ColdStoreContract):
    @pytest.fixture(params=[False, True], ids=["plain", "versioned"])
    def versioned(self, request):
        return request.param

    @pytest.fixture
    def extending(self):
        return True

    @pytest.fixture
    def store(self, prefix, versioned):
        return MemoryColdStore(prefix, versioned=versioned)

    @pytest.fixture
    def raw(self, store):
        class Raw:
            def write(self, key, body):
                return bool(store.write(key, body, None))

            def keys(self, prefix):
                return sorted(key for key in store.versions if key.startswith(prefix))

            def count_versions(self, prefix):
                return sum(len(store.versions[key]) for key in self.keys(prefix))

        return Raw()


@pytest.mark.parametrize("engine", ["boto3", "obstore"])
@pytest.mark.parametrize("layout", ["on", "off"])
def test_wrong_credentials_are_refused(seaweed_server, layout, engine):
    access = {"access_key": seaweed_server.access_key, "secret_key": seaweed_server.secret_key}
    made = Bucket.create(f"cold-{fresh_mark()}", endpoint=seaweed_server.endpoint, **access, versioned=False)
    store = open_cold(made.settings(s3_secret_key="not-the-secret", conditional_writes=layout, s3_engine=engine))
    RemoteColdStoreContract().check_refusal(store)
    store.close()
    made.client.close()


# --- what an object is asked to be kept like --------------------------------------------------------------


@pytest.fixture
def told(opened, bucket):
    """Puts a thread under settings of choice; returns what a HEAD of its object tells."""

    def put_and_tell(**overrides):
        store = opened(**overrides)
        key = put_over(store, REF, 1).key
        return bucket.client.head_object(Bucket=bucket.name, Key=key, ChecksumMode="ENABLED")

    return put_and_tell


def test_an_object_says_that_it_is_zstd_and_is_not_decoded_on_the_way(told):
    """With a ContentEncoding, HTTP clients would decompress it, some of them its first frame only."""
    answer = told()
    assert answer["ContentType"] == "application/zstd"
    assert "ContentEncoding" not in answer


@pytest.mark.parametrize("checksum", ["CRC32", "SHA256", None])
def test_a_checksum_travels_with_the_upload(told, opened, checksum, server_name, engine):
    answer = told(s3_checksum=checksum)
    sent = checksum and (engine, checksum) != ("obstore", "CRC32")  # there the signature's SHA-256 stands for it
    if server_name == "seaweed":
        assert [name for name in answer if name.startswith("Checksum")] == ([f"Checksum{checksum}"] if sent else [])
    assert opened(s3_checksum=checksum).get(REF) is not None


@pytest.mark.parametrize("scene", [name for name in SCENES if "moto" in name], indirect=True, scope="module")
class TestPlacement:
    """Only moto knows KMS keys and frozen storage classes."""

    def test_encryption_with_the_stores_own_key(self, told):
        assert told(s3_sse="AES256")["ServerSideEncryption"] == "AES256"

    def test_encryption_with_a_kms_key(self, told, opened):
        arn = "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000"
        policy = {"s3_sse": "aws:kms", "s3_sse_kms_key": arn}
        answer = told(**policy)
        assert (answer["ServerSideEncryption"], answer["SSEKMSKeyId"]) == ("aws:kms", arn)
        store = opened(**policy)
        assert store.set_aside(REF, etag=store.head(REF).etag) is not None

    def test_a_storage_class(self, told):
        assert told(s3_storage_class="STANDARD_IA")["StorageClass"] == "STANDARD_IA"

    def test_tags(self, opened, bucket):
        key = put_over(opened(s3_tags="team=agents,cost center=a+b"), REF, 1).key
        tags = bucket.client.get_object_tagging(Bucket=bucket.name, Key=key)["TagSet"]
        assert {tag["Key"]: tag["Value"] for tag in tags} == {"team": "agents", "cost center": "a+b"}

    def test_an_object_in_a_glacier_is_frozen_not_lost(self, opened):
        store = opened(s3_storage_class="GLACIER")
        stored = put_over(store, REF, 1)
        assert store.head(REF).meta.rev == 1
        with pytest.raises(ArchiveFrozen, match="GLACIER"):
            store.get(REF)
        with pytest.raises(ArchiveFrozen):
            store.set_aside(REF, etag=stored.etag)

    def test_a_storage_class_that_cannot_be_read_back_shows_in_the_probe(self, opened):
        facts = opened(s3_storage_class="GLACIER").probe()
        assert facts.writable is False
        assert "GLACIER" in facts.problem


def test_a_missing_bucket_is_refused_by_name_on_every_first_call(opened):
    for call in ("head", "get", "get_v1", "conflicts"):
        with pytest.raises(StoreRefused, match="THREADKEEP_S3_BUCKET"):
            getattr(opened(s3_bucket=f"absent-{fresh_mark()}"), call)(ThreadRef.of("t"))
