"""What is left in Redis of a thread that is not whole there, as a value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from threadkeep.storage.hot_head import Head
from threadkeep.storage.record_ids import ID_BYTES


@dataclass(frozen=True, slots=True)
class Remains:
    """Some of a thread's keys, or its place in the index, after others were evicted or deleted.

    Attributes:
        head: None if it is missing; nobody knows then how new the thread was.
        pieces: Pieces of base that are there.
        records: Records of the log that are there.
        ids: Hashes of message ids that are there.
        seen: When the index last saw the thread hot, in Unix milliseconds; 0 if it does not list it.
    """

    head: Head | None
    pieces: int
    records: int
    ids: int
    seen: int

    @classmethod
    def parse(cls, reply: Sequence[Any]) -> Self | None:
        """From what scripts return; None where nothing was lost."""
        if not reply:
            return None
        seen, pieces, records, hashes, *flat = reply
        return cls(Head.parse(flat) if flat else None, pieces, records, hashes // ID_BYTES, int(float(seen)))

    @property
    def rev(self) -> int:
        """The newest revision that may be lost: the head's, else the time at which the index last saw the thread."""
        return self.head.rev if self.head is not None else self.seen * 1000

    @property
    def broken(self) -> list[str]:
        """The parts that are missing or damaged; without a head those that are missing, and may have been empty."""
        if self.head is None:
            there = {"base": self.pieces, "log": self.records, "ids": self.ids}
            return ["head", *(part for part, length in there.items() if not length)]
        wanted = {"base": self.head.pieces, "log": self.head.tail_count, "ids": self.head.count}
        found = {"base": self.pieces, "log": self.records, "ids": self.ids}
        return [part for part in wanted if wanted[part] != found[part]]

    @property
    def dirty(self) -> bool:
        """Whether there may have been something that the archive does not hold."""
        return self.head is None or self.head.dirty

    @property
    def mendable(self) -> bool:
        """Whether what only Redis had is still there: the head, and all records behind the base."""
        return self.head is not None and self.head.dirty and "log" not in self.broken


@dataclass(frozen=True, slots=True)
class Loss:
    """What Redis lost of a thread: all between two revisions.

    Attributes:
        known: The newest revision that is known to have been there.
        restored: The one that the archive holds; 0 if the thread was never archived.
    """

    known: int
    restored: int

    @classmethod
    def parse(cls, text: str) -> Self:
        known, restored = text.split()
        return cls(int(known), int(restored))

    def __str__(self) -> str:
        return f"{self.known} {self.restored}"
