"""A thread's records as they are read: those of the base stay one text until they are parsed."""

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Final

from threadkeep.errors import ArchiveCorrupt
from threadkeep.model import Entry, ThreadRef, entries_in, entries_in_text
from threadkeep.storage.archive import Frame

MANY: Final = 1_000
"""Records, from which on the collector takes longer than parsing them does."""


class Records:
    """All records of a thread, oldest first; it may grow at its end. Nothing of it is parsed before it is asked for.

    Raises (all that parses):
        ArchiveCorrupt: a record is damaged.
    """

    def __init__(self, ref: ThreadRef, frames: Sequence[Frame], tail: Sequence[bytes]) -> None:
        self._frames = frames
        self._tail = list(tail)
        self._named = {"where": f"a record of {ref} in Redis", "thread": str(ref)}

    def __len__(self) -> int:
        return sum(frame.count for frame in self._frames) + len(self._tail)

    def extend(self, records: Sequence[bytes]) -> None:
        """Put records behind all others."""
        self._tail.extend(records)

    def lines(self) -> list[bytes]:
        """Each record, one line of JSON without its newline."""
        return [*chain.from_iterable(map(self._lines_of, self._frames)), *self._tail]

    def entries(self, start: int = 0) -> list[Entry]:
        """The entries from a place on; those before are not parsed."""
        found = list[Entry]()
        with _uncollected(len(self) - start):
            for frame in self._frames:
                if start <= 0:
                    found += entries_in_text(frame.text, frame.raw_bytes, frame.count, **self._named)
                elif start < frame.count:
                    found += entries_in(self._lines_of(frame)[start:], **self._named)
                start -= frame.count
            found += entries_in(self._tail[max(start, 0) :], **self._named)
        return found

    def _lines_of(self, frame: Frame) -> list[bytes]:
        lines = frame.records
        if len(lines) != frame.count:
            raise ArchiveCorrupt(self._named["thread"], self._named["where"], "a frame has not as many as it counts")
        return lines

    def newest_first(self) -> Iterator[Entry]:
        """The entries, each parsed when it is asked for."""
        backwards = chain(reversed(self._tail), *map(_backwards, reversed(self._frames)))
        return (Entry.from_record(record, **self._named) for record in backwards)

    def at(self, places: Sequence[int]) -> list[Entry]:
        """The entries that stand at these places."""
        behind = len(self) - len(self._tail)
        if any(place < behind for place in places):  # whoever asks for one asks for others: they are split once
            self._frames, self._tail, behind = (), self.lines(), 0
        return entries_in([self._tail[place - behind] for place in places], **self._named)


def _backwards(frame: Frame) -> Iterator[bytes]:
    end = frame.raw_bytes
    while end > 0:
        start = frame.text.rfind(b"\n", 0, end - 1) + 1
        yield frame.text[start : end - 1]
        end = start


@contextmanager
def _uncollected(number: int) -> Iterator[None]:
    """Make many objects that all stay, without the collector that would look through them again and again.

    It does so for the whole process, for as long as parsing takes: some tenths of a second for the largest threads.
    """
    global _paused  # noqa: PLW0603  as the collector is the whole process's
    if number < MANY or not gc.isenabled():
        yield
        return
    try:
        _paused = True
        gc.disable()
        yield
    finally:
        gc.enable()
        _paused = False


def _go_on_after_fork() -> None:
    """The thread that would have gone on with collecting is not in the child."""
    global _paused  # noqa: PLW0603
    if _paused:
        gc.enable()
        _paused = False


_paused = False
os.register_at_fork(after_in_child=_go_on_after_fork)
