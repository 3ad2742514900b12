"""The head of a hot thread as a value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from threadkeep.errors import ArchiveCorrupt
from threadkeep.model import JsonObject, Seal, ThreadRef, ThreadStat, checked_labels
from threadkeep.strict_json import dump_json, load_json


@dataclass(frozen=True, slots=True)
class Head:
    """What Redis knows of a thread besides its messages. Bytes, Unix milliseconds and revisions (µs).

    Attributes:
        rev: The newest revision; equal to `archived` where the archive holds everything.
        archived: The revision that the archive holds; 0 if none.
        gen: Fresh after every change other than an append or a state save.
        count: Messages, of which the first `base_count` lie compressed in `pieces` pieces of base.
        base_bytes: Compressed bytes of the base, in `frames` frames that end in `chain`.
        raw_bytes: Bytes of the base's records before compression.
        log_bytes: Bytes of the records behind the base.
        etag: ETag of the object that the next flush replaces; empty if there is none.
        base_etag: ETag of an object that begins with the base, byte for byte; empty if none is known.
        lease_until: When the lease ends, if there is one.
        dirty_since: When the thread last became dirty.
        active: The last change.
        lost: `<told> <found>` where Redis fell back behind what a session was told, until a worker has noted it.
    """

    rev: int
    archived: int
    gen: str
    born: int
    count: int = 0
    base_count: int = 0
    pieces: int = 0
    base_bytes: int = 0
    frames: int = 0
    chain: str = ""
    raw_bytes: int = 0
    log_bytes: int = 0
    etag: str = ""
    base_etag: str = ""
    key: str = ""
    attempts: str = ""
    codec: str = "plain"
    state: JsonObject | None = None
    labels: dict[str, str] = field(default_factory=dict)
    forked_from: str | None = None
    lease: str = ""
    lease_until: int = 0
    keep_until: int = 0
    dirty_since: int = 0
    active: int = 0
    flush_at: int = 0
    flush_mode: str = ""
    lost: str = ""

    @property
    def dirty(self) -> bool:
        return self.rev != self.archived

    @property
    def tail_count(self) -> int:
        return self.count - self.base_count

    def lists(self, attempt: str) -> bool:
        """Whether a flush of that attempt began here and has not settled."""
        return any(listed.partition(":")[2] == attempt for listed in self.attempts.split())

    @classmethod
    def parse(cls, flat: Sequence[bytes]) -> Self:
        """From the flat field-value list that scripts return.

        Raises:
            ArchiveCorrupt: a field is not what the scripts write.
        """
        try:
            return cls._parsed({name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)})
        except (ValueError, TypeError):
            raise ArchiveCorrupt("", "a thread's head in Redis", "it is malformed") from None

    @classmethod
    def _parsed(cls, fields: Mapping[str, bytes]) -> Self:
        known: dict[str, Any] = {}
        for name in _NUMBERS:
            known[name] = int(fields.get(name, b"0") or 0)
        for name in _STRINGS:
            known[name] = fields.get(name, b"").decode()
        known["codec"] = known["codec"] or "plain"
        known["state"] = _object(fields["state"]) if fields.get("state") else None
        known["labels"] = checked_labels(_object(fields["labels"])) if fields.get("labels") else {}
        known["forked_from"] = fields.get("forked_from", b"").decode() or None
        return cls(**known)

    def to_seal(self, ref: ThreadRef, attempt: str) -> Seal:
        """What a frame that brings the archive to this head is sealed with; count and chain are the sealing's own."""
        return Seal(
            namespace=ref.namespace,
            thread_id=ref.thread_id,
            rev=self.rev,
            attempt=attempt,
            born=self.born,
            count=0,
            state=self.state,
            chain="",
            codec=self.codec,
            labels=self.labels,
            forked_from=self.forked_from,
        )

    def to_stat(self, ref: ThreadRef, *, now_ms: int | None = None) -> ThreadStat:
        """What can be said of the thread without its content; leased as of `now_ms`."""
        leased = bool(self.lease) and (now_ms is None or self.lease_until > now_ms)
        return ThreadStat(
            ref.namespace,
            ref.thread_id,
            tier="hot" if self.dirty or leased else "cold",
            cached=True,
            rev=self.rev,
            archived_rev=self.archived,
            count=self.count,
            raw_bytes=self.raw_bytes + self.log_bytes,
            stored_bytes=self.base_bytes,
            etag=self.etag,
            born=self.born,
            codec=self.codec,
            labels=self.labels,
            forked_from=self.forked_from,
            leased=leased,
        )


_NUMBERS = (
    "rev",
    "archived",
    "born",
    "count",
    "base_count",
    "pieces",
    "base_bytes",
    "frames",
    "raw_bytes",
    "log_bytes",
    "lease_until",
    "keep_until",
    "dirty_since",
    "active",
    "flush_at",
)
_STRINGS = ("gen", "chain", "etag", "base_etag", "key", "attempts", "codec", "lease", "flush_mode", "lost")


def _object(text: bytes) -> JsonObject:
    value = load_json(text)
    if not isinstance(value, dict):
        raise TypeError(type(value).__name__)
    return value


def identity_fields(
    *, codec: str, state: bytes | None, labels: dict[str, str], forked_from: str | None
) -> list[str | bytes]:
    """Pairs for the head that say what a new thread is."""
    return [
        "codec",
        codec,
        "state",
        state or b"",
        "labels",
        dump_json(labels) if labels else b"",
        "forked_from",
        forked_from or "",
    ]


def base_fields(*, base_bytes: int, frames: int, chain: str, raw_bytes: int, log_bytes: int) -> list[str | int]:
    """Pairs for the head that describe a base and a log put in place as a whole."""
    return [
        "base_bytes",
        base_bytes,
        "frames",
        frames,
        "chain",
        chain,
        "raw_bytes",
        raw_bytes,
        "log_bytes",
        log_bytes,
    ]
