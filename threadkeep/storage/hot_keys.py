"""The keys of the hot tier. The hash tag is the index shard, so a thread and its index entry live on one slot."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

from threadkeep.model import REMEMBERED, SHARDS, ThreadRef

PIECE_BYTES: Final = 1024 * 1024
"""A base is kept in pieces of at most this many bytes, so that no single command moves more."""


@dataclass(frozen=True)
class ThreadKeys:
    """All keys of one thread, and of its shard, in the order in which every script takes them.

    `head` hash · `base` list of pieces · `log` list of records · `ids` 8 bytes a message · `ticket` hash of a hydrate
    under way · `index` zset of the shard's hot threads · `erasing` hash while an erase runs · `tries` hash of the
    shard's runs that have not ended · `epoch` string that vanishes with the shard's memory · `owed` zset of the shard's
    threads about which the catalog is still to be told.
    """

    prefix: str
    ref: ThreadRef

    @cached_property
    def shard(self) -> str:
        return shard_prefix(self.prefix, self.ref.shard)

    @cached_property
    def own(self) -> str:
        return f"{self.shard}{self.ref.member}:"

    @property
    def channel(self) -> str:
        """Where a restore, a verdict and a settled flush are announced."""
        return f"{self.own}news"

    def answer(self, question: str) -> str:
        """What a worker answers to one question about a cold thread."""
        return f"{self.own}answer:{question}"

    def erased(self, request: str) -> str:
        """The record that one erase request is complete."""
        return f"{self.own}erased:{request}"

    @cached_property
    def all(self) -> list[str]:
        """What every script takes first."""
        own, shard = self.own, self.shard
        return [
            f"{own}head",
            f"{own}base",
            f"{own}log",
            f"{own}ids",
            f"{own}ticket",
            f"{shard}index",
            f"{own}erasing",
            f"{shard}tries",
            f"{shard}epoch",
            f"{shard}owed",
        ]

    def staging(self, mark: str) -> list[str]:
        """Staged base, log and ids of one commit, told apart by a random mark."""
        return [f"{self.own}staged:{mark}:{part}" for part in ("base", "log", "ids")]

    @property
    def head(self) -> str:
        return f"{self.own}head"

    @property
    def base(self) -> str:
        return f"{self.own}base"

    @property
    def log(self) -> str:
        return f"{self.own}log"

    @property
    def ids(self) -> str:
        return f"{self.own}ids"

    @property
    def ticket(self) -> str:
        return f"{self.own}ticket"

    @property
    def tries(self) -> str:
        return f"{self.shard}tries"


@lru_cache(REMEMBERED)
def keys_of(prefix: str, ref: ThreadRef) -> ThreadKeys:
    """The keys of a thread; the same object for the same thread, as long as it is remembered."""
    return ThreadKeys(prefix, ref)


def shard_prefix(prefix: str, shard: int) -> str:
    return f"{prefix}:{{s{shard:04d}}}:"


def index_key(prefix: str, shard: int) -> str:
    return f"{shard_prefix(prefix, shard)}index"


def owed_key(prefix: str, shard: int) -> str:
    """Zset of the shard's threads about which the catalog is still to be told, by the time since when (µs)."""
    return f"{shard_prefix(prefix, shard)}owed"


def graves_key(prefix: str, shard: int) -> str:
    """Zset of the shard's graves that are to be looked at again: `<rev> <member>`, by the time when that is due."""
    return f"{shard_prefix(prefix, shard)}graves"


def tries_key(prefix: str, shard: int) -> str:
    return f"{shard_prefix(prefix, shard)}tries"


def all_shards() -> range:
    return range(SHARDS)
