"""Requests to S3 that are put together here, for half of the processor time that boto3 takes to do so.

botocore signs them, and they go over the connections of boto3's client, with its timeouts, proxies and certificates.
Nothing is sent twice: whoever asks looks at what is stored and begins again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from threadkeep.storage.s3_client import LazyClient, interruption_in
from threadkeep.storage.s3_errors import answered, mapped

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

_CODE: Final = re.compile(rb"<Code>([A-Za-z0-9._-]{1,80})</Code>")
_CLASS: Final = re.compile(rb"<StorageClass>([A-Z_]{1,40})</StorageClass>")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a store says of a request that it granted; the names of headers are in lower case."""

    headers: Mapping[str, str]
    body: bytes


class SignedRequests:
    """Requests on keys of one bucket. Safe to use from several threads, and after a fork."""

    def __init__(self, connection: LazyClient) -> None:
        self._connection = connection

    def send(
        self,
        operation: str,
        method: str,
        key: str,
        *,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes = b"",
    ) -> Answer:
        """One request, once.

        Args:
            operation: What S3 calls it, for errors.
            method: HTTP's.
            key: The object's key.
            query: Parameters of the URL.
            headers: But for those that signing adds.
            body: All of what is sent.

        Raises:
            StoreUnavailable, StoreRefused, ObjectMissing, ConditionFailed, ArchiveFrozen: as of `s3_errors.answered`.
        """
        with mapped(operation, key):
            answer = self._sent(method, key, query, headers, body)
        if answer.status_code >= 300 or b"<Error>" in answer.content[:1024]:  # S3 may find out after it said 200
            status = answer.status_code if answer.status_code >= 300 else 500
            code, storage_class = _CODE.search(answer.content), _CLASS.search(answer.content)
            raise answered(
                operation,
                key,
                code=code[1].decode() if code else str(status),
                status=status,
                storage_class=storage_class[1].decode() if storage_class else "",
            )
        return Answer({name.lower(): value for name, value in answer.headers.items()}, answer.content)

    def _sent(self, method: str, key: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> Any:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import HTTPClientError

        client, credentials = self._connection.connected()
        known: Any = credentials.get_frozen_credentials() if credentials is not None else None
        request = AWSRequest(method, self._url(client, key), headers=dict(headers), data=body, params=dict(query))
        S3SigV4Auth(known, "s3", client.meta.region_name).add_auth(request)
        connections: Any = client._endpoint.http_session  # type: ignore[attr-defined]  # noqa: SLF001
        try:
            return connections.send(request.prepare())
        except HTTPClientError as error:
            raise interruption_in(error) or error from None

    def _url(self, client: "S3Client", key: str) -> str:
        access = self._connection.access
        scheme, host, path, *_ = urlsplit(client.meta.endpoint_url)
        place = f"{access.bucket}.{host}{path}" if access.virtual_host else f"{host}{path.rstrip('/')}/{access.bucket}"
        return f"{scheme}://{place.rstrip('/')}/{quote(key, safe='/~')}"
