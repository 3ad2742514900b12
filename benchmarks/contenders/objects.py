"""Plain objects in S3, through the client that a contender is given."""

from typing import Any, Protocol

from benchmarks.servers import Place


class Objects(Protocol):
    def get(self, key: str) -> bytes: ...

    def put(self, key: str, body: bytes, content_type: str) -> None: ...

    def size(self, key: str) -> int: ...


class Boto3Objects:
    """boto3 set up as Threadkeep sets it up."""

    def __init__(self, place: Place) -> None:
        from threadkeep.storage.s3_client import S3Access, connect  # noqa: PLC0415

        self._bucket = place.s3_bucket
        self._client = connect(
            S3Access(
                bucket=place.s3_bucket,
                endpoint=place.s3_endpoint,
                region="us-east-1",
                access_key=place.s3_access_key,
                secret_key=place.s3_secret_key,
                addressing="path",
            )
        )

    def get(self, key: str) -> bytes:
        return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()

    def put(self, key: str, body: bytes, content_type: str) -> None:
        self._client.put_object(Bucket=self._bucket, Key=key, Body=body, ContentType=content_type)

    def size(self, key: str) -> int:
        return int(self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"])


class ObstoreObjects:
    """obstore, the quickest client for Python that was found."""

    def __init__(self, place: Place) -> None:
        import obstore  # noqa: PLC0415
        from obstore.store import S3Store  # noqa: PLC0415

        self._obstore: Any = obstore
        self._store = S3Store(
            place.s3_bucket,
            endpoint=place.s3_endpoint,
            region="us-east-1",
            access_key_id=place.s3_access_key,
            secret_access_key=place.s3_secret_key,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

    def get(self, key: str) -> bytes:
        return bytes(self._obstore.get(self._store, key).bytes())

    def put(self, key: str, body: bytes, content_type: str) -> None:
        self._obstore.put(self._store, key, body, attributes={"Content-Type": content_type}, use_multipart=False)

    def size(self, key: str) -> int:
        return int(self._obstore.head(self._store, key)["size"])


def open_objects(place: Place) -> Objects:
    return ObstoreObjects(place) if place.s3_client == "obstore" else Boto3Objects(place)
