"""Reads and writes the snapshots that zeitlich stored: `{"v":1,"messages":[string],"state":…,"dedupIds":[string]}`.

A message there is any string, JSON or not. Where all of them are envelopes of one of its three adapters, they become
entries of that provider's codec, whose body is the provider's own JSON. Any other thread is kept as it is: the body of
each entry is the string, and its format is `v1`. Either way an export gives back the very same strings.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from threadkeep.errors import ArchiveCorrupt, InvalidMessage
from threadkeep.model import MAX_MESSAGE_ID, Entry, JsonObject, Kind, checked_state, fresh_id
from threadkeep.storage.envelopes_v1 import (
    Unwrapped,
    envelope_text,
    flat_state,
    has_envelope,
    is_wrappable,
    known_as,
    slice_of,
    unwrap_all,
)
from threadkeep.storage.limits import ReadLimits

V1_CODEC: Final = "v1"
STATE_BYTES: Final = 4 * 1024 * 1024
"""What a state may have as JSON, at most: what a seal can hold."""
_CHUNK: Final = 1024 * 1024
_GZIP_MAGIC: Final = b"\x1f\x8b"
_KINDS: Final[dict[str, Kind]] = {
    "system": "system",
    "assistant": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "tool": "tool",
}
"""By a message's type or its role."""


@dataclass(frozen=True, slots=True)
class SnapshotV1:
    """A decoded snapshot.

    Attributes:
        entries: In order; their ids differ.
        state: The thread's state; None if none was ever saved.
        codec: Of all entries: `anthropic`, `google-genai`, `langchain`, or `v1` where each body is one of its strings.
    """

    entries: list[Entry]
    state: JsonObject | None
    codec: str = V1_CODEC


def read_v1(body: bytes, *, thread: str, where: str, limits: ReadLimits) -> SnapshotV1:
    """Decode a snapshot, gzipped or plain.

    Raises:
        ArchiveCorrupt: damaged, beyond the limits once unpacked, or no snapshot of version 1 that can be kept.
    """
    try:
        value = json.loads(_unpack(body, thread, where, limits))
    except (ValueError, RecursionError):
        raise ArchiveCorrupt(thread, where, "it is no JSON") from None
    if not _is_snapshot(value):
        raise ArchiveCorrupt(thread, where, "it is no snapshot of version 1")
    messages, state = value["messages"], value.get("state")
    if not all(isinstance(message, str) for message in messages) or not isinstance(state, dict | None):
        raise ArchiveCorrupt(thread, where, "its messages are not strings, or its state is no object")
    try:
        checked_state(state, max_bytes=STATE_BYTES)
    except InvalidMessage:
        raise ArchiveCorrupt(thread, where, "its state is too large, too deep, or no JSON") from None
    told = value.get("dedupIds")
    dedup_ids = told if isinstance(told, list) and all(isinstance(item, str) for item in told) else []
    return _enveloped(messages, state, dedup_ids) or SnapshotV1(_entries(messages, _ids(messages, dedup_ids)), state)


def write_v1(entries: Iterable[Entry], state: JsonObject | None, *, codec: str, compress: bool = True) -> bytes:
    """Encode a snapshot.

    Messages that came from one are written as they were. Others are written in the envelope of zeitlich's adapter for
    their provider, or as the JSON of their body where it has none; so is the state of a thread of such a `codec`.
    """
    kept = list(entries)
    ids = [_dedup_id(entry) for entry in kept]
    value = {
        "v": 1,
        "messages": [_text(entry) for entry in kept],
        "state": slice_of(state) if state is not None and has_envelope(codec) else state,
        "dedupIds": ids if any(ids) else [],
    }
    text = json.dumps(value, separators=(",", ":")).encode("ascii")
    return gzip.compress(text, mtime=0) if compress else text


def _text(entry: Entry) -> str:
    if is_wrappable(entry):
        return envelope_text(entry)
    return entry.body if entry.fmt == V1_CODEC and isinstance(entry.body, str) else json.dumps(entry.body)


def _dedup_id(entry: Entry) -> str:
    return known_as(entry) if is_wrappable(entry) else str(entry.meta.get("v1_id", entry.id))


def _is_snapshot(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("v") == 1
        and not isinstance(value["v"], bool)
        and isinstance(value.get("messages"), list)
    )


def _unpack(body: bytes, thread: str, where: str, limits: ReadLimits) -> bytes:
    if not body.startswith(_GZIP_MAGIC):
        if len(body) > limits.thread:
            raise ArchiveCorrupt(thread, where, "it is larger than THREADKEEP_MAX_THREAD_BYTES allows")
        return body
    unzip = zlib.decompressobj(wbits=31)
    most = min(limits.unpacked(len(body)), limits.thread)
    try:
        small = _unpacked_size(body, most) <= most
        text = unzip.decompress(body, most + 1) if small else b""
    except zlib.error:
        raise ArchiveCorrupt(thread, where, "its gzip stream is damaged") from None
    if not small:
        setting = "THREADKEEP_MAX_THREAD_BYTES" if most == limits.thread else "THREADKEEP_MAX_ARCHIVE_RATIO"
        raise ArchiveCorrupt(thread, where, f"it decompresses to more than {setting} allows")
    if not unzip.eof:
        raise ArchiveCorrupt(thread, where, "its gzip stream is cut short")
    return text


def _unpacked_size(body: bytes, most: int) -> int:
    """Bytes that a gzip stream unpacks to; more than `most` is not counted to its end. Holds no more than a chunk."""
    unzip, size = zlib.decompressobj(wbits=31), 0
    chunk = unzip.decompress(body, _CHUNK)
    while chunk and size <= most:
        size += len(chunk)
        chunk = unzip.decompress(unzip.unconsumed_tail, _CHUNK)
    return size


def _enveloped(messages: list[str], state: JsonObject | None, dedup_ids: list[str]) -> SnapshotV1 | None:
    """The snapshot as one of an adapter's; None if anything about it is not."""
    found, flat = unwrap_all(messages), None if state is None else flat_state(state)
    if found is None or (state is not None and flat is None):
        return None
    codec, unwrapped = found
    if dedup_ids and dedup_ids != [message.known_as for message in unwrapped]:
        return None
    return SnapshotV1(_provider_entries(messages, unwrapped, codec), flat, codec)


def _provider_entries(messages: list[str], unwrapped: list[Unwrapped], codec: str) -> list[Entry]:
    """Entries of a provider's codec; `meta.v1` keeps the string where the envelope made anew would be another."""
    entries: list[Entry] = []
    taken: set[str] = set()
    for index, (text, message) in enumerate(zip(messages, unwrapped, strict=True)):
        message_id, meta = _name((message.id, message.known_as), index, taken)
        entry = Entry(message_id, message.kind, message.body, codec, meta)
        exact = envelope_text(entry) == text
        entries.append(entry if exact else replace(entry, meta={**meta, "v1": text}))
    return entries


def _ids(messages: list[str], dedup_ids: list[str]) -> list[str]:
    """An id for each message: the snapshot's own where there is one for each, else the message's, else its place."""
    if len(dedup_ids) == len(messages):
        return dedup_ids
    return [_own_id(message) for message in messages]


def _own_id(message: str) -> str:
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        return ""
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def _entries(messages: list[str], ids: list[str]) -> list[Entry]:
    entries: list[Entry] = []
    taken: set[str] = set()
    for index, (message, own) in enumerate(zip(messages, ids, strict=True)):
        message_id, meta = _name((own,), index, taken)
        entries.append(Entry(message_id, _kind(message), message, V1_CODEC, meta))
    return entries


def _name(ids: Sequence[str], index: int, taken: set[str]) -> tuple[str, JsonObject]:
    """The first id that fits and is not taken; where one had to be made, `meta.v1_id` keeps the original."""
    fitting = [own for own in ids if 0 < len(own) <= MAX_MESSAGE_ID and own not in taken]
    message_id = fitting[0] if fitting else f"v1-{index}-{fresh_id(8)}"
    taken.add(message_id)
    return message_id, {} if fitting else {"v1_id": ids[0]}


def _kind(message: str) -> Kind:
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        return "user"
    return _kind_of(value) if isinstance(value, dict) else "user"


def _kind_of(value: dict[str, Any]) -> Kind:
    if value.get("isSystem"):
        return "system"
    inner = value.get("message") or value.get("content")
    role = inner.get("role") if isinstance(inner, dict) else None
    told = (name for name in (value.get("type"), role) if isinstance(name, str))
    return next((_KINDS[name] for name in told if name in _KINDS), "user")
