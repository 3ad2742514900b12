"""An S3 server that is never the bottleneck: one process, objects in RAM, no signatures, no TLS.

    python -m benchmarks.sink --port 9000 --latency 20

It speaks what S3 clients need for threads: PUT, GET (with ranges), HEAD, DELETE, CopyObject, multipart uploads,
ListObjectsV2, all honouring If-Match and If-None-Match. One request is handled at a time, so conditions are atomic.

`GET /-/stats` counts requests and bytes by kind, `POST /-/reset` sets the counts to zero, `POST /-/clear` drops all
objects, `POST /-/latency?ms=20` delays every answer from then on.
"""

import argparse
import asyncio
import json
import re
import resource
import secrets
import sys
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from html import escape, unescape
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

REASONS: Final = {200: "OK", 204: "No Content", 206: "Partial Content", 304: "Not Modified", 400: "Bad Request",
                  404: "Not Found", 409: "Conflict", 412: "Precondition Failed", 416: "Range Not Satisfiable",
                  501: "Not Implemented"}  # fmt: skip
KEPT: Final = ("content-type", "content-encoding", "cache-control")
HEAD_BYTES: Final = 64 * 1024
Headers = dict[str, str]


class Refused(Exception):
    """An error as S3 answers it."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(status, code)
        self.status, self.code = status, code


@dataclass(slots=True)
class Stored:
    """An object, or a part of one, in pieces that lie together once all of it is asked for.

    Its ETag says nothing of its content: a digest would take longer than all else.
    """

    pieces: list[bytes | bytearray | memoryview]
    headers: Headers
    etag: str = field(default_factory=lambda: f"e-{secrets.token_hex(8)}")
    modified: float = field(default_factory=time.time)

    @property
    def body(self) -> bytes | bytearray | memoryview:
        if len(self.pieces) != 1:
            self.pieces = [b"".join(self.pieces)]
        return self.pieces[0]

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))

    def cut(self, start: int, end: int) -> list[bytes | bytearray | memoryview]:
        """The bytes from `start` to `end`, none of them copied."""
        found, at = list[bytes | bytearray | memoryview](), 0
        for piece in self.pieces:
            found.append(memoryview(piece)[max(start - at, 0) : max(end - at, 0)])
            at += len(piece)
        return [piece for piece in found if len(piece)]

    def described(self) -> Headers:
        return {**self.headers, "ETag": f'"{self.etag}"', "Last-Modified": formatdate(self.modified, usegmt=True)}


@dataclass(slots=True)
class Request:
    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: Headers
    body: bytes | bytearray


@dataclass(slots=True)
class Answer:
    """What to send; `kind` is what it is counted as."""

    kind: str
    status: int = 200
    headers: Headers = field(default_factory=dict)
    body: Any = b""


@dataclass(slots=True)
class Upload:
    key: tuple[str, str]
    headers: Headers
    parts: dict[int, Stored] = field(default_factory=dict)


class Objects:
    """The buckets, which all exist."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, str], Stored] = {}
        self.uploads: dict[str, Upload] = {}

    def answer(self, request: Request) -> Answer:
        if not request.key:
            return self._of_bucket(request)
        match request.method:
            case "GET" | "HEAD":
                return self._get(request)
            case "PUT" if "uploadId" in request.query:
                return self._put_part(request)
            case "PUT":
                return self._put(request)
            case "DELETE" if "uploadId" in request.query:
                self.uploads.pop(request.query["uploadId"], None)
                return Answer("AbortMultipartUpload", 204)
            case "DELETE":
                self.stored.pop((request.bucket, request.key), None)
                return Answer("DeleteObject", 204)
            case "POST" if "uploads" in request.query:
                return self._create_upload(request)
            case "POST" if "uploadId" in request.query:
                return self._complete(request)
        raise Refused(501, "NotImplemented")

    def _get(self, request: Request) -> Answer:
        kind = "HeadObject" if request.method == "HEAD" else "GetObject"
        found = self._found(request)
        _check_match(request.headers, found)
        if request.headers.get("if-none-match", "").strip('"') == found.etag:
            return Answer(kind, 304, found.described())
        span = _span(request.headers.get("range"), len(found.body))
        if span is None:
            return Answer(kind, 200, found.described(), found.body)
        start, end = span
        extent = {"Content-Range": f"bytes {start}-{end - 1}/{len(found.body)}"}
        return Answer(kind, 206, {**found.described(), **extent}, memoryview(found.body)[start:end])

    def _put(self, request: Request) -> Answer:
        key = (request.bucket, request.key)
        self._check_write(request.headers, key)
        if "x-amz-copy-source" in request.headers:
            source = self._source(request)
            meta = request if request.headers.get("x-amz-metadata-directive") == "REPLACE" else None
            headers = _kept(meta.headers) if meta else dict(source.headers)
            stored = self.stored[key] = Stored(source.pieces, headers, source.etag)
            return Answer("CopyObject", body=_copied("CopyObjectResult", stored))
        stored = self.stored[key] = Stored([request.body], _kept(request.headers))
        return Answer("PutObject", headers={"ETag": f'"{stored.etag}"'})

    def _create_upload(self, request: Request) -> Answer:
        name = secrets.token_hex(8)
        self.uploads[name] = Upload((request.bucket, request.key), _kept(request.headers))
        place = f"<Bucket>{escape(request.bucket)}</Bucket><Key>{escape(request.key)}</Key><UploadId>{name}</UploadId>"
        return Answer("CreateMultipartUpload", body=_xml("InitiateMultipartUploadResult", place))

    def _put_part(self, request: Request) -> Answer:
        parts = self._upload(request).parts
        number = int(request.query["partNumber"])
        if "x-amz-copy-source" not in request.headers:
            part = parts[number] = Stored([request.body], {})
            return Answer("UploadPart", headers={"ETag": f'"{part.etag}"'})
        source = self._source(request)
        span = _span(request.headers.get("x-amz-copy-source-range"), source.size)
        part = parts[number] = Stored(source.cut(*span) if span else source.pieces, {})
        return Answer("UploadPartCopy", body=_copied("CopyPartResult", part))

    def _complete(self, request: Request) -> Answer:
        upload = self._upload(request)
        self._check_write(request.headers, upload.key)
        numbers = [int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", request.body)]
        if not numbers or any(number not in upload.parts for number in numbers):
            raise Refused(400, "InvalidPart")
        parts = [upload.parts[number] for number in numbers]
        stored = Stored([piece for part in parts for piece in part.pieces], upload.headers)
        self.stored[upload.key] = stored
        del self.uploads[request.query["uploadId"]]
        bucket, key = (escape(half) for half in upload.key)
        place = f'<Bucket>{bucket}</Bucket><Key>{key}</Key><ETag>"{stored.etag}"</ETag>'
        return Answer("CompleteMultipartUpload", body=_xml("CompleteMultipartUploadResult", place))

    def _of_bucket(self, request: Request) -> Answer:
        query = request.query
        match request.method:
            case "HEAD" | "PUT":
                return Answer("HeadBucket" if request.method == "HEAD" else "CreateBucket")
            case "GET" if "versioning" in query:
                return Answer("GetBucketVersioning", body=_xml("VersioningConfiguration", ""))
            case "GET" if "list-type" in query:
                return Answer("ListObjectsV2", body=self._listing(request.bucket, query))
            case "POST" if "delete" in query:
                return Answer("DeleteObjects", body=self._delete_many(request))
        raise Refused(501, "NotImplemented")

    def _listing(self, bucket: str, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after", "")
        most = int(query.get("max-keys") or 1000)
        lines, folders, last, more = list[str](), set[str](), "", False
        for key in sorted(key for name, key in self.stored if name == bucket and key.startswith(prefix)):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            shown = key[: cut + len(delimiter)] if cut >= 0 else key
            if shown <= after or shown in folders:
                continue
            if len(lines) == most:
                more = True
                break
            last = shown
            if cut >= 0:
                folders.add(shown)
                lines.append(f"<CommonPrefixes><Prefix>{escape(shown)}</Prefix></CommonPrefixes>")
            else:
                lines.append(_listed(key, self.stored[bucket, key]))
        token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
        facts = f"<Name>{escape(bucket)}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(lines)}</KeyCount>"
        extent = f"<MaxKeys>{most}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
        return _xml("ListBucketResult", facts + extent + "".join(lines))

    def _delete_many(self, request: Request) -> bytes:
        keys = [unescape(key.decode()) for key in re.findall(rb"<Key>(.*?)</Key>", request.body, re.DOTALL)]
        for key in keys:
            self.stored.pop((request.bucket, key), None)
        return _xml("DeleteResult", "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys))

    def _found(self, request: Request) -> Stored:
        found = self.stored.get((request.bucket, request.key))
        if found is None:
            raise Refused(404, "NoSuchKey")
        return found

    def _upload(self, request: Request) -> Upload:
        upload = self.uploads.get(request.query["uploadId"])
        if upload is None:
            raise Refused(404, "NoSuchUpload")
        return upload

    def _source(self, request: Request) -> Stored:
        path = unquote(request.headers["x-amz-copy-source"]).partition("?")[0].lstrip("/")
        bucket, _, key = path.partition("/")
        found = self.stored.get((bucket, key))
        if found is None:
            raise Refused(404, "NoSuchKey")
        _check_match({"if-match": request.headers.get("x-amz-copy-source-if-match", "")}, found)
        return found

    def _check_write(self, headers: Headers, key: tuple[str, str]) -> None:
        found = self.stored.get(key)
        if headers.get("if-none-match") == "*" and found is not None:
            raise Refused(412, "PreconditionFailed")
        if headers.get("if-match"):
            if found is None:
                raise Refused(404, "NoSuchKey")
            _check_match(headers, found)


@dataclass(slots=True)
class Counts:
    requests: int = 0
    received: int = 0
    sent: int = 0


class Sink:
    """All that the connections share."""

    def __init__(self, latency_ms: float = 0.0) -> None:
        self.objects = Objects()
        self.latency = latency_ms / 1000
        self.counts: dict[str, Counts] = {}

    def answer(self, method: str, target: str, headers: Headers, body: bytes | bytearray) -> Answer:
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if parts.path.startswith("/-/"):
            return self._control(parts.path[3:], query)
        bucket, _, key = unquote(parts.path)[1:].partition("/")
        if "aws-chunked" in headers.get("content-encoding", ""):
            body = _unchunked(body)
            headers["content-encoding"] = headers["content-encoding"].replace("aws-chunked", "").strip(", ")
        try:
            answer = self.objects.answer(Request(method, bucket, key, query, headers, body))
        except Refused as error:
            text = f"<Code>{error.code}</Code><Message>{error.code}</Message><Key>{escape(key)}</Key>"
            answer = Answer(f"{method} {error.status}", error.status, body=_error(text))
        counts = self.counts.setdefault(answer.kind, Counts())
        counts.requests += 1
        counts.received += len(body)
        counts.sent += 0 if method == "HEAD" else len(answer.body)
        return answer

    def _control(self, what: str, query: dict[str, str]) -> Answer:
        if what == "latency":
            self.latency = float(query["ms"]) / 1000
        elif what == "reset":
            self.counts = {}
        elif what == "clear":
            self.objects = Objects()
        used = resource.getrusage(resource.RUSAGE_SELF)
        facts = {
            "kinds": {
                kind: {"requests": each.requests, "received": each.received, "sent": each.sent}
                for kind, each in self.counts.items()
            },
            "objects": len(self.objects.stored),
            "bytes": sum(stored.size for stored in self.objects.stored.values()),
            "cpu": used.ru_utime + used.ru_stime,
        }
        return Answer("", 200, {"Content-Type": "application/json"}, json.dumps(facts).encode())


class Connection(asyncio.BufferedProtocol):
    """One HTTP/1.1 connection; bodies are received where they will stay."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._head = bytearray(HEAD_BYTES)
        self._got = 0
        self._body: bytearray | None = None
        self._filled = 0
        self._request: tuple[str, str, Headers] = ("", "", {})
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        if self._body is None:
            return memoryview(self._head)[self._got :]
        return memoryview(self._body)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._body is not None:
            self._filled += nbytes
            if self._filled == len(self._body):
                self._handle()
            return
        self._got += nbytes
        end = self._head.find(b"\r\n\r\n", 0, self._got)
        if end >= 0:
            self._begin(end)
        elif self._got == HEAD_BYTES:
            self._transport.abort()

    def _begin(self, end: int) -> None:
        first, *lines = self._head[:end].decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
        self._request = (method, target, headers)
        early = bytes(self._head[end + 4 : self._got])
        self._got = 0
        size = int(headers.get("content-length", 0))
        self._body = bytearray(size)
        self._body[: len(early)] = early
        self._filled = len(early)
        if len(self._body) != size:  # a client that pipelines
            self._transport.abort()
            return
        if headers.get("expect", "").lower() == "100-continue" and self._filled < size:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._filled == size:
            self._handle()

    def _handle(self) -> None:
        method, target, headers = self._request
        body, self._body = self._body or b"", None
        answer = self._sink.answer(method, target, headers, body)
        length = len(answer.body)
        lines = [f"HTTP/1.1 {answer.status} {REASONS[answer.status]}", f"Content-Length: {length}", f"Date: {_date()}"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        payload = b"" if method == "HEAD" or answer.status == 304 else answer.body
        if self._sink.latency and answer.kind:
            asyncio.get_running_loop().call_later(self._sink.latency, self._send, head, payload)
        else:
            self._send(head, payload)

    def _send(self, head: bytes, payload: Any) -> None:
        if len(payload) < 65536:
            self._transport.write(head + payload)
        else:
            self._transport.write(head)
            self._transport.write(payload)


def _kept(headers: Headers) -> Headers:
    """What of a request's headers is given back with the object."""
    return {name: text for name, text in headers.items() if text and (name in KEPT or name.startswith("x-amz-meta-"))}


def _check_match(headers: Headers, found: Stored) -> None:
    wanted = headers.get("if-match", "").strip('"')
    if wanted and wanted not in ("*", found.etag):
        raise Refused(412, "PreconditionFailed")


def _span(text: str | None, size: int) -> tuple[int, int] | None:
    """Start and end of a byte range; None if all is wanted."""
    if not text:
        return None
    first, _, last = text.removeprefix("bytes=").partition("-")
    start, end = (int(first), min(int(last) + 1 if last else size, size)) if first else (max(size - int(last), 0), size)
    if start >= end:
        raise Refused(416, "InvalidRange")
    return start, end


def _xml(name: str, inner: str) -> bytes:
    space = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    return f'<?xml version="1.0" encoding="UTF-8"?><{name}{space}>{inner}</{name}>'.encode()


def _error(inner: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?><Error>{inner}</Error>'.encode()  # without a namespace, as S3's


def _copied(name: str, stored: Stored) -> bytes:
    return _xml(name, f'<ETag>"{stored.etag}"</ETag><LastModified>{_iso(stored.modified)}</LastModified>')


def _listed(key: str, stored: Stored) -> str:
    place = f"<Key>{escape(key)}</Key><LastModified>{_iso(stored.modified)}</LastModified>"
    return f'<Contents>{place}<ETag>"{stored.etag}"</ETag><Size>{stored.size}</Size></Contents>'


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


def _unchunked(body: bytes | bytearray) -> bytes:
    """The bytes of an aws-chunked body, without its trailer."""
    pieces, at = list[bytes](), 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(bytes(body[at:end]).partition(b";")[0], 16)
        if size == 0:
            return b"".join(pieces)
        pieces.append(bytes(body[end + 2 : end + 2 + size]))
        at = end + 2 + size + 2


_DATE: list[Any] = [0, ""]


def _date() -> str:
    now = int(time.time())
    if _DATE[0] != now:
        _DATE[:] = [now, formatdate(now, usegmt=True)]
    return str(_DATE[1])


async def serve(port: int, latency_ms: float) -> None:
    sink = Sink(latency_ms)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(sink), "127.0.0.1", port, backlog=512)
    print(f"ready {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sink", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="milliseconds added to each answer")
    arguments = parser.parse_args()
    try:
        asyncio.run(serve(arguments.port, arguments.latency))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
