"""What is asked of the store for every object written, whichever client writes it."""

import base64
import hashlib
import zlib
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import quote, urlencode

CONTENT_TYPE: Final = "application/zstd"
"""No ContentEncoding beside it: HTTP clients would decompress on the way, some of them only one frame."""
_HEADERS: Final = {
    "StorageClass": "x-amz-storage-class",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "Tagging": "x-amz-tagging",
}


@dataclass(frozen=True, slots=True)
class WritePolicy:
    """What is asked of the store for every object written.

    Attributes:
        storage_class: None for the bucket's own.
        sse: Server-side encryption; None for the bucket's own.
        sse_kms_key: Key id or ARN; only with `aws:kms`.
        tags: At most ten, by S3's rule.
        checksum: Verified by the store on upload, and by the SDK on download where the store gives it back.
        copied_parts: Whether large objects may be put together from a stored one's bytes; `auto` on AWS.
    """

    storage_class: str | None = None
    sse: Literal["AES256", "aws:kms"] | None = None
    sse_kms_key: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    checksum: Literal["CRC32", "SHA256"] | None = "CRC32"
    copied_parts: Literal["auto", "on", "off"] = "auto"

    def placement(self) -> dict[str, str]:
        """Arguments of PutObject and CopyObject that say where and how to keep the object."""
        wanted = {
            "StorageClass": self.storage_class,
            "ServerSideEncryption": self.sse,
            "SSEKMSKeyId": self.sse_kms_key,
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def upload(self, body: bytes) -> dict[str, str]:
        """All arguments of PutObject that this policy asks for."""
        return {**self.creation(), **self._digest(body)}

    def creation_headers(self) -> dict[str, str]:
        """What `creation` says, as HTTP has it."""
        return {_HEADERS[name]: value for name, value in self.creation().items()}

    def creation(self) -> dict[str, str]:
        """Arguments of a request that makes an object."""
        tagging = {"Tagging": urlencode(self.tags, quote_via=quote)} if self.tags else {}
        return {**self.placement(), **tagging}

    def _digest(self, body: bytes) -> dict[str, str]:
        # Computed here, not by the SDK, which over TLS would send it as a trailer of an aws-chunked body.
        match self.checksum:
            case "CRC32":
                return {"ChecksumCRC32": base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()}
            case "SHA256":
                return {"ChecksumSHA256": base64.b64encode(hashlib.sha256(body).digest()).decode()}
            case None:
                return {}


def unquoted(etag: str) -> str:
    return etag.strip('"')
