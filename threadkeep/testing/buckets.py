"""A bucket of a running S3 server for tests: what a stranger sees of it, and the settings that open it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import ClientError

from threadkeep.config import Settings

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket, as the `RawObjects` of `ColdStoreContract`.

    Attributes:
        name: Made by `create`.
        endpoint: URL of the server.
        client: Sees the bucket past the store under test.
    """

    name: str
    endpoint: str
    access_key: str
    secret_key: str
    client: "S3Client"

    @classmethod
    def create(cls, name: str, *, endpoint: str, access_key: str, secret_key: str, versioned: bool = False) -> "Bucket":
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=name)
        if versioned:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return cls(name, endpoint, access_key, secret_key, client)

    def settings(self, **overrides: Any) -> Settings:
        """Settings whose cold tier is this bucket."""
        values = {
            "s3_bucket": self.name,
            "s3_endpoint": self.endpoint,
            "s3_access_key": self.access_key,
            "s3_secret_key": self.secret_key,
            "s3_region": "us-east-1",
        }
        return Settings.load(**(values | overrides))

    def write(self, key: str, body: bytes) -> bool:
        try:
            self.client.put_object(Bucket=self.name, Key=key, Body=body)
        except ClientError as error:
            if error.response["Error"]["Code"] != "InvalidRequest":
                raise
            return False
        return True

    def keys(self, prefix: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def count_versions(self, prefix: str) -> int:
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=prefix)
        return sum(len(page.get("Versions", [])) + len(page.get("DeleteMarkers", [])) for page in pages)
