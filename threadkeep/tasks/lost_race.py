"""Putting an archive while others may write too: the condition, and what to do when it is not met."""

import itertools
from contextlib import suppress
from typing import Final, Literal

from threadkeep.errors import ArchiveCorrupt, ArchiveFrozen, ArchiveMoved, StoreRefused, StoreUnavailable
from threadkeep.model import StoredObject, ThreadRef
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.mending import proven_prefix
from threadkeep.tasks.sealing import Prepared
from threadkeep.tasks.stores import Stores

LOOKS: Final = 4
"""How often a flush looks again after a lost race."""

LostRace = Literal["done", "retry", "superseded", "another_timeline", "set_aside", "adopt_tombstone", "erased"]
PutResult = StoredObject | Literal["again", "superseded", "erasing"]


def put_archive(stores: Stores, ref: ThreadRef, mine: Prepared) -> PutResult:
    """PUT on the condition that nobody else wrote; after a lost race or an unknown outcome, look and decide.

    Returns:
        What is stored now; `again` if the flush must begin again; `superseded` or `erasing` if it must stop.
    """
    based_on = mine.head.etag or None
    for _ in range(LOOKS):
        unknown = False
        try:
            return _put(stores, ref, mine, based_on)
        except ArchiveMoved:
            pass
        except StoreUnavailable:
            unknown = True
        except (ArchiveFrozen, StoreRefused):
            if not mine.kept:
                raise
            return "again"  # what cannot be copied, as from a frozen object, can still be put over
        there = stores.cold.head(ref)
        decision = _decide(stores, ref, mine, there, based_on=based_on, unknown=unknown)
        if decision == "retry":
            based_on = there.etag if there is not None else None
            if mine.kept and based_on != mine.head.etag:
                return "again"  # what it would have kept is not there
            continue
        result = _act(stores, ref, mine, there, decision)
        if result is not None:
            return result
    raise StoreUnavailable("S3", "a flush", "other writers kept changing the object")


def _put(stores: Stores, ref: ThreadRef, mine: Prepared, based_on: str | None) -> StoredObject:
    if mine.kept and based_on is not None:
        return stores.cold.extend(ref, mine.body, meta=mine.meta, based_on=based_on, keep=mine.kept)
    return stores.cold.put(ref, mine.body, meta=mine.meta, based_on=based_on)


def _act(
    stores: Stores, ref: ThreadRef, mine: Prepared, there: StoredObject | None, decision: LostRace
) -> PutResult | None:
    """Do what was decided; None to look again, because the object changed once more."""
    if there is None or decision == "superseded":
        return "superseded"
    match decision:
        case "done":
            return there
        case "adopt_tombstone":
            now(stores.flow.adopt(ref, mine.attempt, there))
            return "again"
        case "set_aside":
            return _adopt(stores, ref, mine, there) if stores.cold.set_aside(ref, etag=there.etag) is not None else None
        case "another_timeline":
            if there.meta is None or there.meta.rev < mine.meta.rev:
                _keep_mine_aside(stores, ref, mine)
            return "superseded"
        case _:
            return "erasing"


def _decide(
    stores: Stores,
    ref: ThreadRef,
    mine: Prepared,
    there: StoredObject | None,
    *,
    based_on: str | None,
    unknown: bool,
) -> LostRace:
    if there is None or (there.meta is not None and there.meta.attempt == mine.attempt):
        return decide_lost_race(mine, there, belongs="own", never_archived=False)
    if unknown and there.etag == based_on:
        return "retry"
    belongs, never = now(stores.flow.classify(ref, mine.attempt, there))
    return decide_lost_race(mine, there, belongs=belongs, never_archived=never)


def decide_lost_race(mine: Prepared, there: StoredObject | None, *, belongs: str, never_archived: bool) -> LostRace:
    """What to do about the object that is there instead of the expected one.

    Args:
        mine: What this flush wants to put.
        there: What a HEAD found.
        belongs: Whether the current head of the thread knows it (`own`), does not (`foreign`), or no longer lists
            this flush's own attempt (`gone`).
        never_archived: The thread in Redis has never had an object.
    """
    if there is None:
        return "retry"
    meta = there.meta
    if meta is not None and meta.attempt == mine.attempt:
        return "done"
    if meta is not None and meta.tombstone:
        if belongs == "foreign":
            return "adopt_tombstone" if never_archived else "erased"
        return "retry" if belongs == "own" else "superseded"
    if belongs == "gone":
        return "another_timeline"
    if belongs == "foreign":
        return "set_aside"
    if meta is not None and meta.rev > mine.meta.rev:
        return "superseded"
    if meta is not None and meta.rev == mine.meta.rev:
        return "done"
    return "retry"


def _adopt(stores: Stores, ref: ThreadRef, mine: Prepared, foreign: StoredObject) -> Literal["again", "superseded"]:
    stores.note(ref, "conflict", {"kept": "theirs", "rev": mine.meta.rev, "etag": foreign.etag})
    clear_if_erased(stores, ref)
    if now(stores.flow.adopt(ref, mine.attempt, foreign)):
        return "again"
    _keep_mine_aside(stores, ref, mine)
    return "superseded"


def _keep_mine_aside(stores: Stores, ref: ThreadRef, mine: Prepared) -> None:
    base = _base(stores, ref, mine)
    key = stores.cold.put_aside(ref, (base or b"") + mine.body, meta=mine.meta)
    facts = {"kept": "mine", "rev": mine.meta.rev, "key": key}
    stores.note(ref, "conflict", facts if base is not None else {**facts, "behind": mine.head.archived})
    clear_if_erased(stores, ref)


def _base(stores: Stores, ref: ThreadRef, mine: Prepared) -> bytes | None:
    """What my frames stand behind, if they were to be put there without it: from what is stored, or was before.

    None where nothing that begins so is left: then my frames alone are kept, sealed as what follows it.
    """
    if not mine.kept:
        return b""
    found = stores.cold.get(ref)
    for stored, body in itertools.chain([found] if found is not None else [], stores.cold.earlier(ref)):
        with suppress(ArchiveCorrupt):
            limits = ReadLimits.of(stores.settings)
            prefix = proven_prefix(body, mine.head, where=stored.key, limits=limits)
            if prefix is not None:
                return prefix.body
    return None


def clear_if_erased(stores: Stores, ref: ThreadRef) -> None:
    """Whoever put a copy aside looks again: of an erased thread nothing may stay."""
    there = stores.cold.head(ref)
    if there is not None and there.meta is not None and there.meta.tombstone:
        stores.cold.purge_conflicts(ref)
