"""What is there of a thread just now, seen without touching anything."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from threadkeep.config import Settings
from threadkeep.model import Entry, StoredObject, ThreadRef
from threadkeep.storage.archive import read_frames
from threadkeep.storage.cold import open_cold
from threadkeep.storage.hot_keys import ThreadKeys
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.record_ids import ID_BYTES
from threadkeep.storage.tombstones import is_tombstone

PARTS = ("head", "base", "log", "ids")

Pairs = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Content:
    """What a thread is to whoever uses it; `messages`, the texts of them, is None where there is no thread."""

    messages: tuple[str, ...] | None = None
    state: Pairs = ()
    labels: Pairs = ()

    def __str__(self) -> str:
        about = f"{list(self.messages or ())} {dict(self.state)} {dict(self.labels)}"
        return "no thread" if self.messages is None else about


NOTHING = Content()


@dataclass(frozen=True)
class Hot:
    """What Redis holds.

    Attributes:
        content: None unless all parts are there.
        lasting: How many parts have no expiry.
        expiring: How many have one.
        listed: Whether the index names the thread.
    """

    content: Content | None
    rev: int
    archived: int
    born: int
    leased: bool
    lasting: int
    expiring: int
    listed: bool
    erasing: bool

    @property
    def dirty(self) -> bool:
        return self.rev != self.archived


@dataclass(frozen=True)
class Stored:
    """The archive object; a tombstone has no content."""

    rev: int
    attempt: str
    etag: str
    content: Content | None


class Sight:
    """Looks at the stores past all faults."""

    def __init__(self, settings: Settings) -> None:
        self.prefix = settings.key_prefix
        self.redis = redis.Redis.from_url(settings.redis_url)
        self.cold = open_cold(settings)

    def close(self) -> None:
        self.redis.close()
        self.cold.close()

    def hot(self, ref: ThreadRef) -> Hot:
        """What Redis holds now, at one moment."""
        keys = ThreadKeys(self.prefix, ref)
        with self.redis.pipeline() as pipe:
            pipe.hgetall(keys.head)
            pipe.lrange(keys.base, 0, -1)
            pipe.lrange(keys.log, 0, -1)
            pipe.strlen(keys.ids)
            for part in PARTS:
                pipe.pttl(f"{keys.own}{part}")
            pipe.exists(f"{keys.own}erasing")
            pipe.zscore(f"{keys.shard}index", ref.member)
            pipe.time()
            head, base, log, ids, *ttls, erasing, listed, (seconds, _) = pipe.execute()
        number = {
            name: int(head.get(name.encode()) or 0)
            for name in ("rev", "archived", "born", "count", "base_count", "pieces")
        }
        lengths = number["pieces"], number["count"] - number["base_count"], ID_BYTES * number["count"]
        whole = head and (len(base), len(log), ids) == lengths
        return Hot(
            content=_content(said(b"".join(base), log), head) if whole else None,
            rev=number["rev"],
            archived=number["archived"],
            born=number["born"],
            leased=bool(head.get(b"lease")) and int(head[b"lease_until"]) > 1000 * seconds,
            lasting=sum(ttl == -1 for ttl in ttls),
            expiring=sum(ttl >= 0 for ttl in ttls),
            listed=listed is not None,
            erasing=bool(erasing),
        )

    def stored(self, ref: ThreadRef) -> Stored | None:
        """The archive object now, verified."""
        return understood(self.cold.get(ref))

    def asides(self, ref: ThreadRef) -> set[str]:
        """The attempts of what lies under `conflicts/`."""
        return {found.meta.attempt for found in self.cold.conflicts(ref) if found.meta is not None}


def understood(found: tuple[StoredObject, bytes] | None) -> Stored | None:
    """What an object says; its metadata must be its own."""
    if found is None:
        return None
    stored, body = found
    meta = stored.meta
    assert meta is not None
    if is_tombstone(body):
        return Stored(meta.rev, meta.attempt, stored.etag, None)
    *_, last = read_frames(body, where=stored.key, limits=ReadLimits(10**9))
    assert (last.seal.rev, last.seal.attempt) == (meta.rev, meta.attempt), "metadata of another object"
    return Stored(
        meta.rev, meta.attempt, stored.etag, Content(said(body), pairs(last.seal.state), pairs(last.seal.labels))
    )


def said(frames: bytes, log: Sequence[bytes] = ()) -> tuple[str, ...]:
    """The texts of the messages of some frames, and of records behind them."""
    read = read_frames(frames, where="here", limits=ReadLimits(10**9)) if frames else ()
    records = [*(record for frame in read for record in frame.records), *log]
    return tuple(Entry.from_record(record).body["content"] for record in records)


def check_keys(hot: Hot, stored: Stored | None) -> None:
    """Redis may forget only what the archive holds, and what is hot is found by the sweep."""
    if hot.content is None:
        return
    if hot.dirty or hot.leased:
        assert not hot.expiring, "a dirty or leased thread may vanish"
        assert hot.listed, "no sweep will find a hot thread"
    if hot.expiring:
        assert not hot.lasting, "a part of a cached copy stays for ever"
        held = stored.content if stored is not None else None
        assert held == hot.content, f"{hot.content} may vanish, and the archive holds {held}"


def pairs(of: Mapping[str, Any] | None) -> Pairs:
    """A state or labels, so that they can be compared and kept in a set."""
    return tuple(sorted((of or {}).items()))


def _content(messages: tuple[str, ...], head: Mapping[bytes, bytes]) -> Content:
    state, labels = (json.loads(head.get(name) or b"null") for name in (b"state", b"labels"))
    return Content(messages, pairs(state), pairs(labels))
