"""Reads and writes the snapshots that zeitlich stored: `{"v":1,"messages":[string],"state":…,"dedupIds":[string]}`.

A message there is any string, JSON or not. It is kept as it is, as the body of a record whose format is `v1`, so that
an export gives back the very same strings.
"""

import gzip
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from threadkeep.errors import ArchiveCorrupt
from threadkeep.model import MAX_MESSAGE_ID, Entry, JsonObject, Kind, fresh_id

V1_CODEC: Final = "v1"
_GZIP_MAGIC: Final = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class SnapshotV1:
    """A decoded snapshot: entries in order, each body one of its strings, and the state or None."""

    entries: list[Entry]
    state: JsonObject | None


def read_v1(body: bytes, *, thread: str, where: str, max_bytes: int) -> SnapshotV1:
    """Decode a snapshot, gzipped or plain.

    Raises:
        ArchiveCorrupt: damaged, larger than `max_bytes` once unpacked, or no snapshot of version 1.
    """
    try:
        value = json.loads(_unpack(body, thread, where, max_bytes))
    except ValueError:
        raise ArchiveCorrupt(thread, where, "it is no JSON") from None
    if not isinstance(value, dict) or value.get("v") != 1 or not isinstance(value.get("messages"), list):
        raise ArchiveCorrupt(thread, where, "it is no snapshot of version 1")
    messages, state = value["messages"], value.get("state")
    if not all(isinstance(message, str) for message in messages) or not isinstance(state, dict | None):
        raise ArchiveCorrupt(thread, where, "its messages are not strings, or its state is no object")
    return SnapshotV1(_entries(messages, _ids(messages, value.get("dedupIds"))), state)


def write_v1(entries: Iterable[Entry], state: JsonObject | None, *, compress: bool = True) -> bytes:
    """Encode a snapshot. Messages that came from one are written as they were, others as the JSON of their body."""
    kept = list(entries)
    ids = [entry.meta.get("v1_id", entry.id) for entry in kept]
    value = {
        "v": 1,
        "messages": [entry.body if entry.fmt == V1_CODEC else json.dumps(entry.body) for entry in kept],
        "state": state,
        "dedupIds": ids if any(ids) else [],
    }
    text = json.dumps(value, separators=(",", ":")).encode("ascii")
    return gzip.compress(text, mtime=0) if compress else text


def _unpack(body: bytes, thread: str, where: str, max_bytes: int) -> bytes:
    if not body.startswith(_GZIP_MAGIC):
        return body
    unzip = zlib.decompressobj(wbits=31)
    try:
        text = unzip.decompress(body, max_bytes + 1)
    except zlib.error:
        raise ArchiveCorrupt(thread, where, "its gzip stream is damaged") from None
    if len(text) > max_bytes:
        raise ArchiveCorrupt(thread, where, "it decompresses to more than THREADKEEP_MAX_THREAD_BYTES")
    if not unzip.eof:
        raise ArchiveCorrupt(thread, where, "its gzip stream is cut short")
    return text


def _ids(messages: list[str], dedup_ids: Any) -> list[str]:
    """An id for each message: the snapshot's own where there is one for each, else the message's, else its place."""
    if isinstance(dedup_ids, list) and len(dedup_ids) == len(messages):
        return [str(item) for item in dedup_ids]
    return [_own_id(message) for message in messages]


def _own_id(message: str) -> str:
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        return ""
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def _entries(messages: list[str], ids: list[str]) -> list[Entry]:
    """Entries whose ids are unique and fit; where an id had to be made, `meta.v1_id` keeps the original."""
    entries: list[Entry] = []
    taken: set[str] = set()
    for index, (message, own) in enumerate(zip(messages, ids, strict=True)):
        fits = 0 < len(own) <= MAX_MESSAGE_ID and own not in taken
        message_id = own if fits else f"v1-{index}-{fresh_id(8)}"
        taken.add(message_id)
        meta = {} if fits else {"v1_id": own}
        entries.append(Entry(id=message_id, kind=_kind(message), body=message, fmt=V1_CODEC, meta=meta))
    return entries


def _kind(message: str) -> Kind:
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        return "user"
    return _kind_of(value) if isinstance(value, dict) else "user"


def _kind_of(value: dict[str, Any]) -> Kind:
    if value.get("isSystem") or value.get("type") == "system":
        return "system"
    inner = value.get("message") or value.get("content")
    role = inner.get("role") if isinstance(inner, dict) else None
    kinds: dict[Any, Kind] = {
        "assistant": "assistant",
        "model": "assistant",
        "ai": "assistant",
        "tool": "tool",
        "system": "system",
    }
    return kinds.get(role) or kinds.get(value.get("type")) or "user"
