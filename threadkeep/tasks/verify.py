"""Verify: read every archive to its last byte, name what is wrong, and repair it where that was asked for."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

from threadkeep.errors import ThreadkeepError
from threadkeep.model import ThreadRef
from threadkeep.storage.ports import CatalogEntry
from threadkeep.tasks.examine import SOUND, Examined, Verdict, examine
from threadkeep.tasks.repair import Repaired, repair
from threadkeep.tasks.stores import Stores, log
from threadkeep.tasks.truth import note_once
from threadkeep.tasks.walking import WIDTH, pages, side_by_side

ROUNDS: Final = 2
"""Repairs of one thread in a row: metadata may hide that the content is outdated, too."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One thread after its archive was read, and repaired if that was asked for.

    Attributes:
        found: The first verdict.
        now: The verdict after a repair; the same one if there was none.
    """

    ref: ThreadRef
    found: Verdict
    now: Verdict
    key: str
    reason: str
    repaired: Repaired | None = None

    @property
    def sound(self) -> bool:
        return self.now in SOUND


Report = Callable[[Checked], None]


@dataclass(slots=True)
class Scrub:
    """What a scrub found.

    Attributes:
        counts: Threads by their verdict, after repairs.
        repaired: Threads that were repaired.
        after: The last thread that was read, where the time ended before the walk; else None.
    """

    counts: Counter[Verdict] = field(default_factory=Counter)
    repaired: int = 0
    after: ThreadRef | None = None

    @property
    def unsound(self) -> int:
        """Threads that need somebody's attention."""
        return sum(number for verdict, number in self.counts.items() if verdict not in SOUND)

    def to_result(self) -> dict[str, Any]:
        """The counts that are not zero."""
        counts: dict[str, Any] = {**{str(verdict): number for verdict, number in self.counts.items()}}
        return counts | {"repaired": self.repaired} if self.repaired else counts


def verify(
    stores: Stores,
    *,
    namespace: str | None = None,
    after: ThreadRef | None = None,
    mend: bool = False,
    deadline: float = math.inf,
    width: int = WIDTH,
    report: Report | None = None,
) -> Scrub:
    """Read every archive of the bucket. Events name what is wrong; nothing is changed unless `mend` is set.

    Args:
        stores: Redis, S3 and Postgres. The catalog may be away: then nothing is compared with it.
        namespace: Only this one.
        after: Go on behind this thread.
        mend: Repair what can be repaired.
        deadline: Monotonic time at which to stop; `Scrub.after` tells where.
        width: Objects that are read at a time.
        report: Called with each thread, in order.

    Raises:
        StoreUnavailable: S3 does not answer.
        StoreRefused: the bucket or its credentials are wrong.
    """
    scrub = Scrub()
    for page in pages(stores.cold.scan(namespace, after=after)):
        refs = [ref for ref, _ in page]
        last = _check(stores, refs, scrub, mend=mend, deadline=deadline, width=width, report=report)
        if last != refs[-1]:
            scrub.after = last
            return scrub
    return scrub


def verify_these(
    stores: Stores, refs: Iterable[ThreadRef], *, mend: bool = False, width: int = WIDTH, report: Report | None = None
) -> Scrub:
    """The same for some threads by name, archived or not."""
    scrub = Scrub()
    for page in pages(refs):
        _check(stores, page, scrub, mend=mend, deadline=math.inf, width=width, report=report)
    return scrub


def _check(
    stores: Stores,
    refs: list[ThreadRef],
    scrub: Scrub,
    *,
    mend: bool,
    deadline: float,
    width: int,
    report: Report | None,
) -> ThreadRef:
    """Check threads in order until the time is up; the last one that was checked."""
    known = _known(stores, refs)
    look: Callable[[ThreadRef], Examined] = lambda ref: examine(stores, ref, known.get(ref))  # noqa: E731
    for found in side_by_side(look, refs, width):
        checked = _settle(stores, found, known.get(found.ref), mend=mend)
        scrub.counts[checked.now] += 1
        scrub.repaired += checked.repaired is not None
        if report is not None:
            report(checked)
        if time.monotonic() >= deadline:
            return found.ref
    return refs[-1]


def _known(stores: Stores, refs: list[ThreadRef]) -> dict[ThreadRef, CatalogEntry]:
    """The catalog's rows, read before the objects, which so are never older than their rows by chance."""
    try:
        return stores.catalog.get_many(refs)
    except ThreadkeepError as error:
        log.warning("archives could not be compared with the catalog", extra={"reason": str(error)})
        return {}


def _settle(stores: Stores, found: Examined, known: CatalogEntry | None, *, mend: bool) -> Checked:
    describe = partial(Checked, found.ref, found.verdict)
    if found.sound:
        return describe(found.verdict, _key(found), found.reason)
    note_once(stores, found.ref, found.verdict, _facts(found))
    after, done = found, None
    for _ in range(ROUNDS if mend else 0):
        repaired = repair(stores, after, known)
        if repaired is None:
            break
        done = repaired
        stores.note(found.ref, "repaired", {name: value for name, value in asdict(done).items() if value})
        known = _known(stores, [found.ref]).get(found.ref)
        after = examine(stores, found.ref, known)
        if after.sound:
            break
    return describe(after.verdict, _key(found), after.reason or found.reason, done)


def _key(found: Examined) -> str:
    return found.stored.key if found.stored is not None else ""


def _facts(found: Examined) -> dict[str, Any]:
    facts: dict[str, Any] = {"reason": found.reason}
    if found.stored is not None:
        facts |= {"key": found.stored.key, "etag": found.stored.etag}
    return facts
