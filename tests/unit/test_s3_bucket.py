"""What is sent to S3, byte for byte where it matters."""

import hashlib

import pytest
from botocore.awsrequest import AWSResponse

from threadkeep.model import ArchiveMeta
from threadkeep.storage.s3_bucket import S3Bucket
from threadkeep.storage.s3_client import LazyClient, S3Access
from threadkeep.storage.s3_policy import WritePolicy

META = ArchiveMeta(rev=7, attempt="ab", chain="", count=0, born=0)


class Answered:
    """Plays the end of the wire: keeps each request back and answers it."""

    def __init__(self):
        self.requests = []

    def __call__(self, request, **_):
        self.requests.append(request)
        return AWSResponse(request.url, 200, {"ETag": '"d41d8"', "Date": "Tue, 05 May 2026 10:00:00 GMT"}, Body())


class Body:
    def stream(self, *_, **__):
        return iter(())


@pytest.fixture
def sent():
    """Puts one object over TLS as the policy says; returns the request's headers and the answer."""

    def put(policy=None, **conditions):
        access = S3Access("bucket", endpoint="https://s3.lan", region="r", access_key="a", secret_key="b")
        bucket = S3Bucket(LazyClient(access), policy or WritePolicy())
        wire = Answered()
        bucket.client.meta.events.register("before-send.s3.PutObject", wire)
        stored = bucket.put("k", b"123456789", META, **conditions)
        bucket.close()
        (request,) = wire.requests
        return {name.lower(): _text(value) for name, value in request.headers.items()}, stored

    return put


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


def test_a_checksum_is_a_plain_header_and_the_body_is_not_chunked(sent):
    """aws-chunked bodies are refused, or kept as ContentEncoding, by stores other than AWS."""
    headers, _ = sent()
    assert headers["x-amz-checksum-crc32"] == "y/Q5Jg=="  # the check value of CRC-32: cbf43926
    assert headers["content-length"] == "9"
    assert not {"x-amz-trailer", "content-encoding", "transfer-encoding"} & set(headers)


def test_without_a_checksum_the_body_is_signed(sent):
    headers, _ = sent(WritePolicy(checksum=None))
    assert not [name for name in headers if name.startswith("x-amz-checksum")]
    assert headers["x-amz-content-sha256"] in {hashlib.sha256(b"123456789").hexdigest(), "UNSIGNED-PAYLOAD"}


def test_an_etag_is_sent_and_returned_unquoted(sent):
    headers, stored = sent(if_match="0ab1")
    assert headers["if-match"] == "0ab1"
    assert "if-none-match" not in headers
    assert stored.etag == "d41d8"


def test_a_create_asks_that_nothing_be_there(sent):
    headers, _ = sent(create=True)
    assert headers["if-none-match"] == "*"
    assert "if-match" not in headers


def test_what_the_policy_asks_for_is_sent(sent):
    policy = WritePolicy(storage_class="STANDARD_IA", sse="aws:kms", sse_kms_key="arn:k", tags={"a b": "c&d=é"})
    headers, _ = sent(policy)
    assert headers["x-amz-storage-class"] == "STANDARD_IA"
    assert headers["x-amz-server-side-encryption"] == "aws:kms"
    assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "arn:k"
    assert headers["x-amz-tagging"] == "a%20b=c%26d%3D%C3%A9"


def test_the_time_of_a_put_is_the_stores(sent):
    _, stored = sent()
    assert stored.modified == 1_777_975_200.0
