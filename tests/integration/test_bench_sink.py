"""The sink that the benchmarks use as S3: what its clients rely on, over HTTP."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from benchmarks.servers import SinkServer, control

WRITERS = 16


@pytest.fixture(scope="module")
def sink(tmp_path_factory):
    with SinkServer(tmp_path_factory.mktemp("sink")) as server:
        yield server


@pytest.fixture
def s3(sink):
    control(sink.endpoint, "clear")
    client = boto3.client(
        "s3",
        endpoint_url=sink.endpoint,
        aws_access_key_id="any",
        aws_secret_access_key="any",
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=WRITERS, retries={"max_attempts": 0}),
    )
    yield client
    client.close()


def test_of_sixteen_writers_one_creates_and_one_replaces(s3):
    assert _winners(s3, IfNoneMatch="*") == 1
    etag = s3.head_object(Bucket="b", Key="k")["ETag"].strip('"')
    assert _winners(s3, IfMatch=etag) == 1


def _winners(s3, **condition):
    start = Barrier(WRITERS)

    def write(number):
        start.wait()
        try:
            s3.put_object(Bucket="b", Key="k", Body=f"writer {number}".encode(), **condition)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
                raise
            return 0
        return 1

    with ThreadPoolExecutor(WRITERS) as pool:
        return sum(pool.map(write, range(WRITERS)))


def test_objects_come_back_whole_in_part_and_with_their_metadata(s3):
    body = bytes(range(256)) * 4000
    s3.put_object(Bucket="b", Key="a/ä b", Body=body, Metadata={"rev": "7"}, ContentType="application/zstd")
    found = s3.get_object(Bucket="b", Key="a/ä b")
    assert (found["Body"].read(), found["Metadata"], found["ContentType"]) == (body, {"rev": "7"}, "application/zstd")
    assert s3.get_object(Bucket="b", Key="a/ä b", Range="bytes=256-258")["Body"].read() == b"\x00\x01\x02"
    s3.delete_object(Bucket="b", Key="a/ä b")
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket="b", Key="a/ä b")


def test_a_multipart_upload_joins_copied_and_sent_parts_under_a_condition(s3):
    s3.put_object(Bucket="b", Key="k", Body=b"0123456789", Metadata={"rev": "1"})
    etag = s3.head_object(Bucket="b", Key="k")["ETag"]
    upload = s3.create_multipart_upload(Bucket="b", Key="k", Metadata={"rev": "2"})["UploadId"]
    place = {"Bucket": "b", "Key": "k", "UploadId": upload}
    source = {"CopySource": "b/k", "CopySourceRange": "bytes=0-4", "CopySourceIfMatch": etag}
    first = s3.upload_part_copy(**place, PartNumber=1, **source)["CopyPartResult"]["ETag"]
    second = s3.upload_part(**place, PartNumber=2, Body=b"new")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": first}, {"PartNumber": 2, "ETag": second}]}
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.complete_multipart_upload(**place, MultipartUpload=parts, IfMatch="another")
    s3.complete_multipart_upload(**place, MultipartUpload=parts, IfMatch=etag)
    found = s3.get_object(Bucket="b", Key="k")
    assert (found["Body"].read(), found["Metadata"]) == (b"01234new", {"rev": "2"})


def test_a_copy_keeps_what_it_copies_and_heeds_its_condition(s3):
    s3.put_object(Bucket="b", Key="k", Body=b"text", Metadata={"rev": "1"})
    etag = s3.head_object(Bucket="b", Key="k")["ETag"]
    s3.copy_object(Bucket="b", Key="copy", CopySource="b/k", CopySourceIfMatch=etag)
    assert s3.get_object(Bucket="b", Key="copy")["Metadata"] == {"rev": "1"}
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.copy_object(Bucket="b", Key="copy", CopySource="b/k", CopySourceIfMatch="another")


def test_a_listing_goes_on_where_its_page_ended(s3):
    for number in range(7):
        s3.put_object(Bucket="b", Key=f"p/{number}/x", Body=b"")
    s3.put_object(Bucket="b", Key="q", Body=b"")
    pages = list(
        s3.get_paginator("list_objects_v2").paginate(Bucket="b", Prefix="p/", PaginationConfig={"PageSize": 3})
    )
    assert [item["Key"] for page in pages for item in page["Contents"]] == [f"p/{number}/x" for number in range(7)]
    folders = s3.list_objects_v2(Bucket="b", Delimiter="/")["CommonPrefixes"]
    assert folders == [{"Prefix": "p/"}]


def test_requests_are_counted_and_answers_delayed_on_demand(sink, s3):
    control(sink.endpoint, "reset")
    s3.put_object(Bucket="b", Key="k", Body=b"12345")
    s3.get_object(Bucket="b", Key="k")["Body"].read()
    counted = control(sink.endpoint)["kinds"]
    assert counted["PutObject"] == {"requests": 1, "received": 5, "sent": 0}
    assert counted["GetObject"] == {"requests": 1, "received": 0, "sent": 5}
    control(sink.endpoint, "latency?ms=60")
    try:
        with pytest.raises(Exception, match="timeout"):
            boto3.client(
                "s3",
                endpoint_url=sink.endpoint,
                aws_access_key_id="any",
                aws_secret_access_key="any",
                region_name="us-east-1",
                config=Config(read_timeout=0.02, retries={"max_attempts": 0}),
            ).head_bucket(Bucket="b")
    finally:
        control(sink.endpoint, "latency?ms=0")
