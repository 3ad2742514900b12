"""Requests made after boto3's draft are those that boto3 itself would send, whatever says where the bucket is."""

from contextlib import suppress
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest

from threadkeep.storage.s3_client import LazyClient, S3Access
from threadkeep.storage.s3_template import LARGE_BODY, TemplateRequests

KEY = "threadkeep/v1/aü/t~1 +.zst"
EU = {"region": "eu-central-1"}
PLACES = {
    "aws": (EU, {}),
    "its_first_region": ({"region": "us-east-1"}, {}),
    "path_style": ({**EU, "addressing": "path"}, {}),
    "dotted_bucket": ({**EU, "bucket": "a.bucket"}, {}),
    "china": ({"region": "cn-north-1"}, {}),
    "fips": (EU, {"AWS_USE_FIPS_ENDPOINT": "true"}),
    "dual_stack": (EU, {"AWS_USE_DUALSTACK_ENDPOINT": "true"}),
    "access_point": ({**EU, "bucket": "arn:aws:s3:eu-west-1:123456789012:accesspoint/point"}, {}),
    "endpoint": ({"endpoint": "http://s3.lan:8333"}, {}),
    "endpoint_with_a_path": ({"endpoint": "https://gate.lan/s3/"}, {}),
    "endpoint_of_the_environment": ({}, {"AWS_ENDPOINT_URL_S3": "http://s3.lan:8333"}),
    "virtual_hosts": ({"endpoint": "http://s3.lan", "addressing": "virtual"}, {}),
    "address_for_a_host": ({"endpoint": "http://10.0.0.1", "addressing": "virtual"}, {}),
    "session_token": ({**EU, "session_token": "t"}, {}),
}


class Wire:
    """Takes requests instead of sending them."""

    def __init__(self):
        self.taken = []

    def send(self, request):
        self.taken.append(request)
        body = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
        return SimpleNamespace(status_code=200, headers={"ETag": '"e"'}, content=body, url=request.url)


@pytest.fixture(params=PLACES)
def connection(request, monkeypatch):
    access, environment = PLACES[request.param]
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in {"AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none", **environment}.items():
        monkeypatch.setenv(name, value)
    connection = LazyClient(S3Access(**{"bucket": "bucket", "access_key": "a", "secret_key": "b", **access}))
    yield connection
    connection.close()


@pytest.fixture
def wire(connection):
    wire = connection.get()._endpoint.http_session = Wire()
    wire.close = lambda: None
    return wire


def facts(request):
    """What of a request does not change with the second in which it is made."""
    url, signed = urlsplit(request.url), _text(request.headers["Authorization"]).split("Signature")[0]
    scope, names = signed.split("Credential=")[1].split(", SignedHeaders=")
    return {
        "method": request.method,
        "host": url.netloc,
        "scheme": url.scheme,
        "path": url.path,
        "query": parse_qs(url.query, keep_blank_values=True),
        "scope": scope.split("/")[2:],
        "signed": set(names.strip(", ").split(";")),
        "payload": _text(request.headers["X-Amz-Content-SHA256"]),
        "agent": _text(request.headers["User-Agent"]),
        "token": _text(request.headers.get("X-Amz-Security-Token")),
        "body": request.body.read() if hasattr(request.body, "read") else bytes(request.body or b""),
    }


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


def test_where_they_go_and_how_they_are_signed(connection, wire):
    client, bucket, requests = connection.get(), connection.access.bucket, TemplateRequests(connection)
    meta = {"Metadata": {"tk-rev": "7"}, "ContentType": "application/zstd"}
    asked = {"Bucket": bucket, "Key": KEY}
    with suppress(KeyError):  # botocore finds no answer it can read; the request was taken
        client.create_multipart_upload(**asked, **meta)
    requests.send(
        "CreateMultipartUpload", KEY, "uploads", {"x-amz-meta-tk-rev": "7", "Content-Type": "application/zstd"}
    )
    client.upload_part(**asked, UploadId="u/1", PartNumber=2, Body=b"part", ContentMD5="2Q==")
    requests.send("UploadPart", KEY, "partNumber=2&uploadId=u%2F1", {"Content-MD5": "2Q=="}, b"part")
    client.abort_multipart_upload(**asked, UploadId="u/1")
    requests.send("AbortMultipartUpload", KEY, "uploadId=u%2F1", {})
    boto3s, ours = wire.taken[::2], wire.taken[1::2]
    for expected, found in zip(map(facts, boto3s), map(facts, ours), strict=True):
        assert found == expected


def test_a_store_is_asked_before_a_large_body_is_sent(connection, wire):
    requests = TemplateRequests(connection)
    requests.send("UploadPart", KEY, "partNumber=1&uploadId=u", {}, bytes(LARGE_BODY))
    requests.send("UploadPart", KEY, "partNumber=1&uploadId=u", {}, bytes(LARGE_BODY - 1))
    assert [_text(request.headers.get("Expect")) for request in wire.taken] == ["100-continue", None]


def test_no_request_leaves_anything_in_the_next(connection, wire):
    requests = TemplateRequests(connection)
    requests.send("UploadPart", "a", "partNumber=1&uploadId=u", {"x-amz-meta-a": "1"}, b"body")
    requests.send("AbortMultipartUpload", "b", "uploadId=u", {})
    first, second = map(facts, wire.taken)
    assert second["path"] == first["path"][:-1] + "b"
    assert not second["body"]
    assert "x-amz-meta-a" not in second["signed"]
