"""Requests to S3 made after one that boto3 put together: of the same bucket, but for another operation or key.

To put a request together takes boto3 longer than to send it: it checks arguments, chooses an endpoint by rules and asks
handlers, and comes to the same each time. Here that is done once. botocore signs and sends as ever, and whatever does
not succeed at once is its own to repeat, to follow to the bucket's region, and to explain.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from threadkeep.errors import AnswerGarbled
from threadkeep.storage.s3_client import DRAFT, LazyClient, interruption_in
from threadkeep.storage.s3_errors import STORE, mapped
from threadkeep.storage.s3_policy import unquoted

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

LARGE_BODY: Final = 1024 * 1024
"""Bytes from which on the store is asked first whether it will take them."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a store says of a request that it granted; the names of headers are in lower case."""

    operation: str
    headers: Mapping[str, str]
    body: bytes

    def told(self, what: str) -> str:
        """What stands in an element of the body, or in a header of that name.

        Raises:
            AnswerGarbled: in neither.
        """
        found = re.search(f"<{what}>([^<]+)</{what}>", self.body.decode(errors="replace"))
        value = unescape(found[1]) if found else self.headers.get(what.lower())
        if not value:
            raise AnswerGarbled(STORE, self.operation, f"an answer without {what}")
        return unquoted(value)


class TemplateRequests:
    """Requests on keys of one bucket. Safe to use from several threads, and after a fork."""

    def __init__(self, connection: LazyClient) -> None:
        self._connection = connection
        self._draft: tuple[S3Client, dict[str, Any]] | None = None

    def send(self, operation: str, key: str, query: str, headers: dict[str, str], body: bytes = b"") -> Answer:
        """One request; repeated, after it failed once, as often as boto3 would send it.

        Args:
            operation: What S3 calls it.
            key: The object's key.
            query: Of the URL, encoded.
            headers: But for those of all requests.
            body: All of what is sent.

        Raises:
            StoreUnavailable, StoreRefused, ObjectMissing, ConditionFailed, ArchiveFrozen: as of `s3_errors.mapped`.
        """
        from botocore.exceptions import ClientError  # noqa: PLC0415  as boto3: loaded where it is used

        with mapped(operation, key):
            client = self._connection.get()
            model = client.meta.service_model.operation_model(operation)
            endpoint = client._endpoint  # type: ignore[attr-defined]  # noqa: SLF001
            request = {
                **self._after_draft(client, key, query, headers, body),
                "method": model.http["method"],
                "body": body,
            }
            request["context"]["has_streaming_input"] = model.has_streaming_input
            adaptive = self._connection.access.retry_mode == "adaptive"  # which counts each request
            answer = None if adaptive else _granted_at_once(endpoint, request, model)
            if answer is None:
                answer, parsed = endpoint.make_request(model, request)
                if request["context"]["s3_redirect"]["redirected"]:  # by now the client knows the bucket's region
                    self._draft = None
                if answer.status_code >= 300:
                    raise ClientError(parsed, operation)
            return Answer(operation, {name.lower(): value for name, value in answer.headers.items()}, answer.content)

    def _after_draft(
        self, client: "S3Client", key: str, query: str, headers: dict[str, str], body: bytes
    ) -> dict[str, Any]:
        known = self._draft  # another thread may drop it
        if known is None or known[0] is not client:
            known = self._draft = client, _drafted(client, self._connection.access.bucket)
        draft = known[1]
        usual = {"User-Agent": draft["headers"]["User-Agent"]}
        if len(body) >= LARGE_BODY:
            usual["Expect"] = "100-continue"
        path = quote(key, safe="/~")
        return {
            **draft,
            "url": f"{draft['url']}{path}?{query}",
            "auth_path": f"{draft['auth_path']}{path}",
            "headers": {**usual, **headers},
            "context": {name: _copied(value) for name, value in draft["context"].items()},
        }


def _granted_at_once(endpoint: Any, request: dict[str, Any], model: Any) -> Any:
    """The answer to a request that was sent once; None for any other than success."""
    from botocore.exceptions import ConnectionError as ConnectionFailed  # noqa: PLC0415
    from botocore.exceptions import HTTPClientError  # noqa: PLC0415

    try:
        answer = endpoint.http_session.send(endpoint.create_request(request, model))
    except (ConnectionFailed, HTTPClientError) as error:
        if interruption := interruption_in(error):
            raise interruption from None
        return None
    # S3 may find out that it fails after it said 200
    return answer if answer.status_code < 300 and b"<Error>" not in answer.content else None


def _drafted(client: "S3Client", bucket: str) -> dict[str, Any]:
    """What boto3 puts together for a key of this bucket, without the key and all that is behind it."""
    draft: Any = client.upload_part(Bucket=bucket, Key=DRAFT, UploadId=DRAFT, PartNumber=1, Body=b"")
    url = draft["url"].partition("?")[0].removesuffix(DRAFT)
    return {**draft, "url": url, "auth_path": draft["auth_path"].removesuffix(DRAFT)}


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value
