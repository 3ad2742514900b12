"""The values that every room shares: what a thread is called, what one message is, what a frame's seal says."""

import hashlib
import json
import re
import secrets
import string
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeAlias, cast
from urllib.parse import quote, unquote

import msgspec

from threadkeep.errors import ArchiveCorrupt, InvalidMessage, InvalidThreadId
from threadkeep.strict_json import check_json, dump_json, load_json, may_hold_large_integer

JsonObject = dict[str, Any]
Kind = Literal["system", "user", "assistant", "tool"]
FlushMode = Literal["checkpoint", "linger", "evict"]
"""Weakest first: seal only; keep a cached copy for a while; leave Redis at once."""

DEFAULT_NAMESPACE: Final = "messages"
KINDS: Final[tuple[Kind, ...]] = ("system", "user", "assistant", "tool")

MAX_ENCODED_ID: Final = 240
"""Bytes of a percent-encoded thread id: with its suffix it fits a 255-byte path segment of any object store."""
MAX_ENCODED_NAMESPACE: Final = 200
MAX_MESSAGE_ID: Final = 512
"""Characters of a message id."""
MAX_REVISION: Final = 2**52
"""Revisions and counts stay below this: in the year 2112 of the clock, and far from where Lua's numbers lose units."""
SHARDS: Final = 1024
"""Index shards, and thereby hash tags. Part of the key format: never change it for a deployment that holds threads."""
REMEMBERED: Final = 4096
"""How many threads' encoded names and keys a process remembers."""

_BASE62: Final = string.ascii_letters + string.digits
_OPENING, _CLOSING = b"{}"
_RECORD_FIELDS: Final = frozenset({"v", "id", "kind", "fmt", "body", "meta"})
_NUMBER: Final = re.compile(r"[0-9]{1,16}")
_MARK: Final = re.compile(r"[!-~]{1,128}")
_CHAIN: Final = re.compile(r"[0-9a-f]{0,64}")


@dataclass(frozen=True, slots=True, order=True)
class ThreadRef:
    """A thread's address: a namespace (one per tenant or app) and an id in it.

    Any Unicode is allowed; both halves enter keys percent-encoded, so no two threads ever share one.

    Raises:
        InvalidThreadId: a half is empty, too long once encoded, or holds a lone surrogate or a control character.
    """

    namespace: str
    thread_id: str

    def __post_init__(self) -> None:
        _check_half("namespace", self.namespace, MAX_ENCODED_NAMESPACE)
        _check_half("thread id", self.thread_id, MAX_ENCODED_ID)

    @classmethod
    def of(cls, thread_id: str, namespace: str = DEFAULT_NAMESPACE) -> Self:
        return cls(namespace, thread_id)

    @classmethod
    def from_member(cls, member: str) -> Self:
        """The thread of an index member, `<namespace>/<id>` with both halves encoded.

        Raises:
            InvalidThreadId: no thread has that member.
        """
        namespace, _, thread_id = member.partition("/")
        ref = cls(unquote(namespace), unquote(thread_id))
        if ref.member != member:
            raise InvalidThreadId("index member", ascii(member)[:60], "is not what any thread is encoded as")
        return ref

    @property
    def member(self) -> str:
        """`<namespace>/<id>`, both percent-encoded: one to one, no slash inside a half."""
        return _member(self.namespace, self.thread_id)

    @property
    def shard(self) -> int:
        return _shard(self.member)

    def __str__(self) -> str:
        return self.thread_id if self.namespace == DEFAULT_NAMESPACE else f"{self.namespace}/{self.thread_id}"


@lru_cache(REMEMBERED)
def _member(namespace: str, thread_id: str) -> str:
    return f"{encode_segment(namespace)}/{encode_segment(thread_id)}"


@lru_cache(REMEMBERED)
def _shard(member: str) -> int:
    return int.from_bytes(hashlib.blake2b(member.encode(), digest_size=8).digest(), "big") % SHARDS


def encode_segment(text: str) -> str:
    """Percent-encode all but `A-Za-z0-9_-~` and inner dots, one to one; `.` and `..` never come out bare."""
    encoded = quote(text, safe="")
    return encoded.replace(".", "%2E") if encoded.strip(".") == "" else encoded


def _check_half(name: str, value: object, limit: int) -> None:
    if not isinstance(value, str):
        raise InvalidThreadId(name, repr(value)[:80], f"must be a string, not {type(value).__name__}")
    if not value:
        raise InvalidThreadId(name, "''", "must not be empty")
    shown = ascii(value[:60])
    for character in "" if value.isascii() and value.isprintable() else value:
        category = unicodedata.category(character)
        if category == "Cs":
            raise InvalidThreadId(name, shown, "must not hold a lone surrogate")
        if category == "Cc":
            raise InvalidThreadId(name, shown, f"must not hold a control character (U+{ord(character):04X})")
    size = len(encode_segment(value))
    if size > limit:
        raise InvalidThreadId(name, shown, f"takes {size} bytes once percent-encoded; the limit is {limit}")


def fresh_id(length: int = 22) -> str:
    """A random id of letters and digits; 22 characters carry 130 bits, so no check for a clash is needed."""
    return "".join(secrets.choice(_BASE62) for _ in range(length))


def fresh_mark() -> str:
    """A random 64-bit mark in hex: a gen, an attempt, a ticket or a lease token."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored message: our envelope around a provider's own JSON.

    Attributes:
        id: Unique in the thread. Appending the same id with the same content again is a no-op.
        kind: Who speaks; for routing and filters.
        body: Exactly what a provider must get back.
        fmt: The codec that `body` belongs to.
        meta: About the message (time, model, usage); never sent to a provider.
    """

    id: str
    kind: Kind
    body: Any
    fmt: str = "plain"
    meta: JsonObject = field(default_factory=dict)

    def same_as(self, other: "Entry") -> bool:
        """Whether both say the same; `meta` may differ, since a retry stamps its own time."""
        return (self.id, self.kind, self.fmt, dump_json(self.body)) == (
            other.id,
            other.kind,
            other.fmt,
            dump_json(other.body),
        )

    def to_record(self) -> bytes:
        """One line of JSON without its newline, of values that `checked_record` takes.

        The id stands second, where `record_ids.ids_in` finds it unparsed.
        """
        return dump_json(
            {"v": 1, "id": self.id, "kind": self.kind, "fmt": self.fmt, "body": self.body, "meta": self.meta}
        )

    @classmethod
    def from_record(cls, record: bytes, *, where: str = "a stored record", thread: str = "") -> "Entry":
        """The entry of a stored line; of a key that stands twice, the last counts.

        Raises:
            ArchiveCorrupt: `checked_record` could not have made it, whatever its size.
        """
        return _usual_entry(record) or _any_entry(record, where, thread)


def entries_in(records: Iterable[bytes], *, where: str, thread: str) -> list[Entry]:
    """The entries of stored lines, as of `Entry.from_record`."""
    return [_usual_entry(record) or _any_entry(record, where, thread) for record in records]


def entries_in_text(text: bytes, end: int, count: int, *, where: str, thread: str) -> list[Entry]:
    """The entries of `count` stored lines that make up a text, up to `end`; as of `Entry.from_record`.

    Raises:
        ArchiveCorrupt: as there, or there are more lines, or fewer.
    """
    if text.isascii() and _one_object_a_line(text, end) and not may_hold_large_integer(text):
        with suppress(*_NOT_USUAL):
            found = _ENVELOPES.decode_lines(memoryview(text)[:end])
            if len(found) == count:
                return [Entry(each.id, each.kind, each.body, each.fmt, each.meta) for each in found]
    lines = text[:end].split(b"\n")[:-1]
    if len(lines) != count:
        raise ArchiveCorrupt(thread, where, f"a frame has {len(lines)} records, not {count}")
    return entries_in(lines, where=where, thread=thread)


def _nested(levels: int) -> Any:
    """The type of a JSON value of at most so many levels."""
    scalar: Any = None | bool | int | float | str
    value = scalar
    for _ in range(levels):
        value = scalar | dict.__class_getitem__((str, value)) | list.__class_getitem__(value)
    return value


if TYPE_CHECKING:
    _Usual: TypeAlias = Any
    _UsualMeta: TypeAlias = Any
else:
    _Usual, _UsualMeta = _nested(8), _nested(7)


class _Envelope(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A record as most are: few enough levels for a type to name them all, which is checked at no cost."""

    v: Literal[1]
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_MESSAGE_ID)]
    kind: Kind
    fmt: Annotated[str, msgspec.Meta(min_length=1)]
    body: _Usual
    meta: dict[str, _UsualMeta]


_ENVELOPES: Final = msgspec.json.Decoder(_Envelope)
"""Several times as fast as the standard library's decoder; what it takes, it takes for the same value."""
_NOT_USUAL: Final = (ValueError, msgspec.DecodeError, RecursionError)
"""What it raises of what is damaged, and of what is merely rare: half a surrogate pair, say, or many levels."""


def _usual_entry(record: bytes) -> Entry | None:
    """The entry of a stored line; None if it has to be looked at more closely, whether it is sound or not."""
    try:
        found = _ENVELOPES.decode(record)
    except _NOT_USUAL:
        return None
    if not record.isascii() or record[0] != _OPENING or record[-1] != _CLOSING or may_hold_large_integer(record):
        return None
    return Entry(found.id, found.kind, found.body, found.fmt, found.meta)


def _any_entry(record: bytes, where: str, thread: str) -> Entry:
    try:
        value = load_json(record, wrapped=1)
    except ValueError:
        value = None
    if isinstance(value, dict) and value.keys() == _RECORD_FIELDS and type(value["v"]) is int and value["v"] == 1:
        entry = Entry(value["id"], value["kind"], value["body"], value["fmt"], value["meta"])
        if _problem(entry) is None:
            return entry
    raise ArchiveCorrupt(thread, where, "a record is malformed")


def _one_object_a_line(text: bytes, end: int) -> bool:
    """Whether each line up to `end` begins and ends as an object does: then no value of JSON stands on two of them."""
    at = 0
    while at < end:
        line_end = text.find(b"\n", at, end)
        if text[at] != _OPENING or text[line_end - 1] != _CLOSING:
            return False
        at = line_end + 1
    return True


def checked_record(entry: Entry, *, max_bytes: int) -> bytes:
    """The record of an entry that may be stored.

    Raises:
        InvalidMessage: the id, kind or format is malformed, a value is no JSON, or the record exceeds `max_bytes`.
    """
    problem = _problem(entry)
    if problem is not None:
        raise problem
    where = f"message {ascii(entry.id)[:80]}: body"
    check_json(entry.body, where)
    check_json(entry.meta, f"message {ascii(entry.id)[:80]}: meta")
    record = entry.to_record()
    if len(record) > max_bytes:
        raise InvalidMessage(
            where,
            f"{len(record):,} bytes",
            f"exceeds THREADKEEP_MAX_MESSAGE_BYTES ({max_bytes:,}); store a reference",
        )
    return record


def _problem(entry: Entry) -> InvalidMessage | None:
    """What is wrong with an entry besides its values."""
    if not isinstance(entry.id, str) or not 0 < len(entry.id) <= MAX_MESSAGE_ID:
        return InvalidMessage("id", ascii(entry.id)[:80], f"must be a string of 1 to {MAX_MESSAGE_ID} characters")
    meta = cast("Any", entry.meta)
    if not isinstance(entry.kind, str) or entry.kind not in KINDS:
        field, shown, rule = "kind", ascii(entry.kind)[:80], f"must be one of {KINDS}"
    elif not isinstance(entry.fmt, str) or not entry.fmt:
        field, shown, rule = "fmt", ascii(entry.fmt)[:80], "must be a codec's name"
    elif not isinstance(meta, dict):
        field, shown, rule = "meta", type(meta).__name__, "must be an object"
    else:
        return None
    return InvalidMessage(f"message {ascii(entry.id)[:80]}: {field}", shown, rule)


def checked_state(state: Any, *, max_bytes: int) -> bytes | None:
    """The JSON of a thread's state, or None for None.

    Raises:
        InvalidMessage: the state is no object, no JSON, or larger than `max_bytes`.
    """
    if state is None:
        return None
    if not isinstance(state, dict):
        raise InvalidMessage("state", type(state).__name__, "must be an object (a dict) or None")
    check_json(state, "state")
    text = dump_json(state)
    if len(text) > max_bytes:
        raise InvalidMessage("state", f"{len(text):,} bytes", f"exceeds THREADKEEP_MAX_STATE_BYTES ({max_bytes:,})")
    return text


def checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """At most 32 labels of short strings, sorted by name.

    Raises:
        InvalidMessage: names the label and the limit.
    """
    if len(labels) > 32:
        raise InvalidMessage("labels", f"{len(labels)} labels", "a thread has at most 32")
    for name, value in labels.items():
        if not isinstance(name, str) or not 0 < len(name) <= 64:
            raise InvalidMessage("labels", ascii(name)[:80], "a label's name has 1 to 64 characters")
        if not isinstance(value, str) or len(value) > 256:
            raise InvalidMessage(
                f"labels.{name}", ascii(value)[:80], "a label's value is a string of at most 256 characters"
            )
        if "\x00" in name + value or any(unicodedata.category(c) == "Cs" for c in name + value):
            raise InvalidMessage(f"labels.{name!a}", ascii(value)[:80], "a label holds no NUL and no lone surrogate")
    return dict(sorted(labels.items()))


@dataclass(frozen=True, slots=True)
class Seal:
    """The last line of a frame: what the thread was when the frame was written.

    Attributes:
        namespace: The thread's address; only the last seal of an object speaks for the object.
        thread_id: The same.
        rev: Revision that the frame brings the archive to; microseconds of a hybrid logical clock.
        attempt: Random id of the flush that wrote the frame.
        born: Revision at which the thread was created.
        count: Messages in the whole object up to and including this frame.
        state: The thread's state at `rev`; None if none was ever saved.
        chain: Hex sha256 over the previous frame's chain and this frame's records.
        codec: The codec that the thread was opened with.
        labels: The thread's labels at `rev`.
        forked_from: `<namespace>/<id>` of the source, encoded; None if the thread is no fork.
    """

    namespace: str
    thread_id: str
    rev: int
    attempt: str
    born: int
    count: int
    state: JsonObject | None
    chain: str
    codec: str = "plain"
    labels: dict[str, str] = field(default_factory=dict)
    forked_from: str | None = None

    @property
    def ref(self) -> ThreadRef:
        return ThreadRef(self.namespace, self.thread_id)


@dataclass(frozen=True, slots=True)
class ArchiveMeta:
    """What travels as an object's user metadata, so that a catalog can be rebuilt from the bucket alone.

    Attributes:
        rev: Revision that the object holds.
        attempt: Random id of the flush (or the erase request) that wrote it.
        chain: Hex sha256 chain of its last frame; empty for a tombstone.
        count: Messages in it.
        born: Revision at which the thread was created; 0 for a tombstone.
        raw_bytes: Bytes of the records before compression.
        tombstone: True where the thread was erased and the object only says so.
    """

    rev: int
    attempt: str
    chain: str
    count: int
    born: int
    raw_bytes: int = 0
    tombstone: bool = False

    FORMAT = "threadkeep-2"

    @classmethod
    def of_seal(cls, seal: Seal, *, raw_bytes: int) -> Self:
        """What an object whose last seal is this one carries."""
        return cls(seal.rev, seal.attempt, seal.chain, seal.count, seal.born, raw_bytes)

    def to_headers(self) -> dict[str, str]:
        """Lower-case names and ASCII values, fit for `x-amz-meta-*`."""
        return {
            "threadkeep-format": self.FORMAT,
            "threadkeep-rev": str(self.rev),
            "threadkeep-attempt": self.attempt,
            "threadkeep-chain": self.chain,
            "threadkeep-count": str(self.count),
            "threadkeep-born": str(self.born),
            "threadkeep-raw-bytes": str(self.raw_bytes),
            "threadkeep-kind": "tombstone" if self.tombstone else "thread",
        }

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> Self | None:
        """None where the object was not written by Threadkeep, or its metadata was lost or mangled."""
        try:
            if headers["threadkeep-format"] != cls.FORMAT:
                return None
            return cls(
                rev=_number(headers["threadkeep-rev"]),
                attempt=_matched(_MARK, headers["threadkeep-attempt"]),
                chain=_matched(_CHAIN, headers.get("threadkeep-chain", "")),
                count=_number(headers["threadkeep-count"]),
                born=_number(headers["threadkeep-born"]),
                raw_bytes=_number(headers.get("threadkeep-raw-bytes", "0")),
                tombstone=headers.get("threadkeep-kind") == "tombstone",
            )
        except (KeyError, ValueError):
            return None


def _number(text: str) -> int:
    value = int(_matched(_NUMBER, text))
    if value >= MAX_REVISION:
        raise ValueError(text)
    return value


def _matched(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(text)
    return text


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a HEAD of a thread's object tells.

    Attributes:
        key: The object's key in the bucket.
        etag: Unquoted.
        size: Bytes as stored.
        meta: None for an object that Threadkeep did not write.
        modified: Unix seconds of the store's clock.
        version_id: None on a bucket without versioning.
    """

    key: str
    etag: str
    size: int
    meta: ArchiveMeta | None
    modified: float
    version_id: str | None = None


@dataclass(frozen=True, slots=True)
class ThreadStat:
    """What can be said of a thread without its content. Sizes are bytes, times Unix seconds, 0 where unknown.

    Attributes:
        tier: `hot` (the truth is in Redis), `cold` (the archive holds everything) or `absent`.
        cached: Whether Redis holds a copy.
        rev: The newest revision; microseconds of a hybrid logical clock.
        archived_rev: The revision that the archive holds; 0 if none.
        count: Messages.
        raw_bytes: Records before compression.
        stored_bytes: The archive object's size.
    """

    namespace: str
    thread_id: str
    tier: Literal["hot", "cold", "absent"]
    cached: bool = False
    rev: int = 0
    archived_rev: int = 0
    count: int = 0
    raw_bytes: int = 0
    stored_bytes: int = 0
    etag: str = ""
    born: int = 0
    codec: str = "plain"
    labels: dict[str, str] = field(default_factory=dict)
    forked_from: str | None = None
    leased: bool = False

    @property
    def dirty(self) -> bool:
        return self.tier != "absent" and self.rev != self.archived_rev

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What a worker answered; what a newer one says besides is left out.

        Raises:
            ValueError: it is no such answer.
        """
        try:
            told = json.loads(text)
            return cls(**{name: value for name, value in told.items() if name in cls.__slots__})
        except (RecursionError, TypeError, AttributeError):
            raise ValueError("it does not describe a thread") from None
