"""Rebuild: make the catalog's rows anew from the bucket and Redis, where it was lost or is not to be trusted."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from threadkeep.model import ArchiveMeta, ThreadRef
from threadkeep.storage.link import run_now as now
from threadkeep.storage.ports import CatalogRow
from threadkeep.tasks.erase import forget
from threadkeep.tasks.examine import Examined, Verdict, examine
from threadkeep.tasks.stores import Stores, head_row
from threadkeep.tasks.truth import Told, set_right, told_by
from threadkeep.tasks.walking import pages, side_by_side

WIDTH: Final = 8

Progress = Callable[[int], None]
"""Told how many more objects are done."""


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild did.

    Attributes:
        objects: Objects that were listed.
        rows: Rows that were written for archived threads.
        tombstones: Erasures that the catalog knows of again.
        hot: Rows that were written for hot threads.
        problems: What was not sound; a row was written all the same where metadata told enough.
        kept: Threads of which the catalog says something else: erased before, or changed meanwhile.
    """

    objects: int = 0
    rows: int = 0
    tombstones: int = 0
    hot: int = 0
    problems: list[tuple[ThreadRef, Verdict, str]] = field(default_factory=list)
    kept: list[ThreadRef] = field(default_factory=list)

    def to_result(self) -> dict[str, Any]:
        """The counts, and the problems by thread."""
        problems = [{"thread": str(ref), "verdict": verdict, "reason": why} for ref, verdict, why in self.problems]
        counts = {"objects": self.objects, "rows": self.rows, "tombstones": self.tombstones, "hot": self.hot}
        return {**counts, "problems": problems, "kept": [str(ref) for ref in self.kept]}


def rebuild(stores: Stores, *, quick: bool = False, width: int = WIDTH, progress: Progress = lambda _: None) -> Rebuilt:
    """Write a row for each object and each hot thread. Safe to interrupt, to repeat, and beside running workers.

    Args:
        stores: What to read, and where to write.
        quick: Take an object's metadata for it, without labels, codec and source; else read and verify it.
        width: Objects that are read at a time.
        progress: Called after each page of objects.

    Raises:
        StoreUnavailable: a store did not answer; a repeat goes on from what was written.
        StoreRefused: no such bucket or table, or no right to it.
    """
    done = Rebuilt()
    look = partial(_head if quick else examine, stores, known=None)
    for page in pages(stores.cold.scan()):
        found = list(side_by_side(look, [ref for ref, _ in page], width))
        _write(stores, found, done)
        progress(len(page))
    _write_hot(stores, done)
    return done


def _head(stores: Stores, ref: ThreadRef, known: None = None) -> Examined:  # noqa: ARG001  as `examine` is called
    """What metadata alone tell."""
    stored = stores.cold.head(ref)
    if stored is None:
        return Examined(ref, "moved")
    if stored.meta is None:
        return Examined(ref, "mislabelled", "its metadata are missing", stored)
    return Examined(ref, "tombstone" if stored.meta.tombstone else "sound", "", stored)


def _write(stores: Stores, found: list[Examined], done: Rebuilt) -> None:
    told: list[Told] = []
    for one in found:
        done.objects += 1
        if not one.sound:
            done.problems.append((one.ref, one.verdict, one.reason))
        stored, meta = one.stored, _meta(one)
        if stored is None or meta is None:
            continue
        if meta.tombstone:
            forget(stores, one.ref, meta)
            done.tombstones += 1
        else:
            told.append(told_by(stores, one.ref, stored, meta, one.seal))
    done.kept += sorted(set_right(stores, told))
    done.rows += len(told)


def _meta(one: Examined) -> ArchiveMeta | None:
    """What is believed of an object: its own seal before its metadata, and nothing of another thread's."""
    if one.verdict in ("swapped", "foreign", "unread", "missing"):
        return None
    told = one.stored.meta if one.stored is not None else None
    if one.seal is None or one.verdict == "corrupt":
        return told
    return told if told is not None and told.tombstone else ArchiveMeta.of_seal(one.seal, raw_bytes=one.raw_bytes)


def _write_hot(stores: Stores, done: Rebuilt) -> None:
    clock = now(stores.flow.clock()) // 1000
    for page in pages(now(_members(stores))):
        rows: list[CatalogRow] = []
        for ref in page:
            head = now(stores.hot.look(ref)).head
            if head is not None:
                rows.append(head_row(ref, head, "hot", clock, 0))
        stores.catalog.record(rows)
        done.hot += len(rows)


async def _members(stores: Stores) -> list[ThreadRef]:
    return [ref async for ref in stores.flow.index()]
