"""Repair: bring a damaged archive back from wherever a sound copy of it is left. Deletes nothing.

What was damaged is kept under `conflicts/` first, and every write is on the condition that it still is what was found.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from threadkeep.errors import ArchiveCorrupt, ArchiveMoved, StoreRefused, ThreadkeepError
from threadkeep.model import ArchiveMeta, Entry, Seal, StoredObject, ThreadRef
from threadkeep.storage.hot import Contents
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.storage.ports import CatalogEntry, CatalogRow
from threadkeep.storage.tombstones import read_tombstone, tombstone
from threadkeep.tasks.examine import Examined, read_whole
from threadkeep.tasks.flush import flush
from threadkeep.tasks.lost_race import clear_if_erased
from threadkeep.tasks.stores import Stores, log
from threadkeep.tasks.truth import note_once, set_right, told_by


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did.

    Attributes:
        how: Where the sound copy came from: a copy in `redis`, an `earlier` version, the place of a thread with which
            it was `swapped`; or what was written anew: the `metadata`, the `tombstone`.
        rev: The revision that stands there now.
        lost_rev: The newest revision that is known to have been there, where that is newer; else 0.
        aside: Key of what was there before; empty if there was nothing to keep.
    """

    how: Literal["redis", "earlier", "swapped", "metadata", "tombstone"]
    rev: int
    lost_rev: int = 0
    aside: str = ""


@dataclass(frozen=True, slots=True)
class _Sound:
    """A verified archive of the thread."""

    body: bytes
    seal: Seal
    raw_bytes: int

    @property
    def meta(self) -> ArchiveMeta:
        return ArchiveMeta.of_seal(self.seal, raw_bytes=self.raw_bytes)


def repair(stores: Stores, found: Examined, known: CatalogEntry | None) -> Repaired | None:
    """Repair what was found, if anything is left to repair it from; None if nothing was changed.

    An erasure is never undone, another life of the thread never brought back, and nothing sound replaced by something
    older. Safe to repeat, and beside flushes, hydrates and erasures: whoever comes first wins.

    Args:
        stores: Where to look for a copy.
        found: What `examine` told.
        known: The catalog's row.

    Raises:
        StoreUnavailable: a store did not answer; a repeat is safe.
    """
    if now(stores.hot.look(found.ref)).status == "erasing" or _erased(found, known):
        return None
    match found.verdict:
        case "mislabelled":
            return _from_newer(stores, found, known) or _relabel(stores, found)
        case "corrupt" if _says_erased(found):
            return _bury_again(stores, found)
        case "corrupt" | "foreign" | "swapped" | "outdated" | "missing":
            return (
                archive_anew(stores, found, known)
                or _from_swap(stores, found, known)
                or _from_earlier(stores, found, known)
            )
        case _:
            return None


def _erased(found: Examined, known: CatalogEntry | None) -> bool:
    """Whether the thread counts as erased, so that nothing of it may come back."""
    if known is not None and known.erased_at is not None:
        is_tombstone = _says_erased(found) or (found.verdict == "mislabelled" and found.seal is None)
        born = found.seal.born if found.seal is not None else 0
        return born <= (known.revs.erased or 0) and not is_tombstone
    alive = known is not None and known.stat.archived_rev > 0
    return found.verdict == "swapped" and _says_erased(found) and not alive


def _says_erased(found: Examined) -> bool:
    return found.stored is not None and found.stored.meta is not None and found.stored.meta.tombstone


def _known_rev(found: Examined, known: CatalogEntry | None) -> int:
    """The newest revision that is known to have been archived; a swapped object's metadata are another thread's."""
    told = found.told_rev if found.verdict != "swapped" else 0
    return max(told, known.stat.archived_rev if known is not None else 0)


# --- from Redis -----------------------------------------------------------------------------------------------------


def archive_anew(stores: Stores, found: Examined, known: CatalogEntry | None) -> Repaired | None:
    """Have Redis's copy archived over what is damaged, if it is whole and as new as all that is known; else None."""
    contents = now(stores.hot.read(found.ref))
    if contents is None or contents.head.rev < _known_rev(found, known) or not _is_whole(stores, found.ref, contents):
        return None
    aside = _keep_aside(stores, found)
    if aside is None:
        return None
    etag = found.stored.etag if found.stored is not None else ""
    if not now(stores.flow.distrust(found.ref, contents.head, etag)):
        return None
    outcome = flush(stores, found.ref, "linger")
    if outcome.outcome in ("absent", "erasing", "set_aside"):
        return None
    return Repaired("redis", outcome.rev or contents.head.rev, aside=aside)


def _is_whole(stores: Stores, ref: ThreadRef, contents: Contents) -> bool:
    """Whether a copy verifies to its last record, and is what its head says."""
    head, limits = contents.head, ReadLimits.of(stores.settings)
    try:
        for record in contents.tail:
            Entry.from_record(record)
        if not contents.base:
            return head.dirty
        seal, _ = read_whole(ref, f"base of {ref}", contents.base, limits)
    except ArchiveCorrupt:
        return False
    if (seal.chain, seal.count) != (head.chain, head.base_count):
        return False
    return head.dirty or (seal.ref, seal.rev) == (ref, head.archived)


# --- from the bucket ------------------------------------------------------------------------------------------------


def _from_newer(stores: Stores, found: Examined, known: CatalogEntry | None) -> Repaired | None:
    """Something newer, where an object has lost its metadata and is older than the catalog knows."""
    if found.seal is None or _known_rev(found, known) <= found.seal.rev:
        return None
    return archive_anew(stores, found, known) or _from_earlier(stores, found, known)


def _from_earlier(stores: Stores, found: Examined, known: CatalogEntry | None) -> Repaired | None:
    """The newest earlier version that verifies, of the same life, and newer than what is sound of the present one."""
    floor, life = _floor(found), _life(found, known)
    for sound in _sound_versions(stores, found.ref):
        if life and sound.seal.born != life:
            return None
        if sound.seal.rev > floor:
            return _put_back(stores, found, sound, "earlier", known)
    return None


def _floor(found: Examined) -> int:
    """The revision up to which what is there is sound, or an erasure; 0 if nothing of it is."""
    if found.seal is not None and found.seal.ref == found.ref:
        return found.seal.rev
    return found.told_rev if _says_erased(found) else 0


def _life(found: Examined, known: CatalogEntry | None) -> int:
    """The revision at which the thread was born, 0 if nobody knows."""
    meta = found.stored.meta if found.stored is not None and found.verdict != "swapped" else None
    return (meta.born if meta is not None else 0) or (known.stat.born if known is not None else 0)


def _sound_versions(stores: Stores, ref: ThreadRef) -> Iterator[_Sound]:
    """Earlier versions that verify, newest first, down to the last erasure."""
    limits = ReadLimits.of(stores.settings)
    try:
        for stored, body in stores.cold.earlier(ref):
            if (stored.meta is not None and stored.meta.tombstone) or read_tombstone(body) is not None:
                return
            sound = _verified(ref, stored, body, limits)
            if sound is not None and sound.seal.ref == ref:
                yield sound
    except StoreRefused as error:
        log.warning("earlier versions could not be listed", extra={"thread_id": str(ref), "reason": str(error)})


def _verified(ref: ThreadRef, stored: StoredObject, body: bytes, limits: ReadLimits) -> _Sound | None:
    try:
        return _Sound(body, *read_whole(ref, stored.key, body, limits))
    except ArchiveCorrupt:
        return None


def _from_swap(stores: Stores, found: Examined, known: CatalogEntry | None) -> Repaired | None:
    """Two archives that lie in each other's place: both go home."""
    if found.verdict != "swapped" or found.seal is None:
        return None
    limits = ReadLimits.of(stores.settings)
    there, here = stores.cold.get(found.seal.ref), stores.cold.get(found.ref)
    if there is None or here is None or found.stored is None or here[0].etag != found.stored.etag:
        return None
    mine, theirs = _verified(found.ref, *there, limits), _verified(found.seal.ref, *here, limits)
    if mine is None or theirs is None or mine.seal.ref != found.ref or theirs.seal != found.seal:
        return None
    done = _put_back(stores, found, mine, "swapped", known)
    if done is not None:
        _put_home(stores, theirs, over=there[0])
    return done


def _put_home(stores: Stores, sound: _Sound, *, over: StoredObject) -> None:
    ref = sound.seal.ref
    try:
        stored = stores.cold.put_back(ref, sound.body, meta=sound.meta, over=over)
    except ArchiveMoved:  # it was written anew meanwhile; its bytes lie aside
        return
    _tell(stores, ref, stored, sound)


def _put_back(
    stores: Stores,
    found: Examined,
    sound: _Sound,
    how: Literal["earlier", "swapped"],
    known: CatalogEntry | None,
) -> Repaired | None:
    aside = _keep_aside(stores, found)
    if aside is None:
        return None
    lost = _known_rev(found, known)
    if lost > sound.seal.rev:
        _tell_of_loss(stores, sound.seal, lost, known)
    try:
        stored = stores.cold.put_back(found.ref, sound.body, meta=sound.meta, over=found.stored)
    except ArchiveMoved:
        return None
    _tell(stores, found.ref, stored, sound)
    return Repaired(how, sound.seal.rev, lost if lost > sound.seal.rev else 0, aside)


# --- what is written anew -------------------------------------------------------------------------------------------


def _relabel(stores: Stores, found: Examined) -> Repaired | None:
    """The same content with the metadata that it tells itself, unless they say that the thread was erased."""
    here = stores.cold.get(found.ref)
    if here is None or found.stored is None or here[0].etag != found.stored.etag:
        return None
    stored, body = here
    buried = read_tombstone(body)
    try:
        if buried is not None:
            meta = ArchiveMeta(buried.rev, buried.request, chain="", count=0, born=0, tombstone=True)
            stores.cold.put_back(found.ref, body, meta=meta, over=stored)
            return Repaired("metadata", meta.rev)
        sound = _verified(found.ref, stored, body, ReadLimits.of(stores.settings))
        if sound is None or sound.seal.ref != found.ref or _says_erased(found):
            return None
        put = stores.cold.put_back(found.ref, body, meta=sound.meta, over=stored)
    except ArchiveMoved:
        return None
    _tell(stores, found.ref, put, sound)
    return Repaired("metadata", sound.seal.rev)


def _bury_again(stores: Stores, found: Examined) -> Repaired | None:
    """A tombstone whose content is damaged: its metadata tell all that it said."""
    if found.stored is None or found.stored.meta is None:
        return None
    meta = found.stored.meta
    body = tombstone(found.ref, rev=meta.rev, request=meta.attempt)
    try:
        stores.cold.put_back(found.ref, body, meta=meta, over=found.stored)
    except ArchiveMoved:
        return None
    return Repaired("tombstone", meta.rev)


# --- before and after -----------------------------------------------------------------------------------------------


def _keep_aside(stores: Stores, found: Examined) -> str | None:
    """Copy what is damaged under `conflicts/`; None if it changed. Another thread's archive is kept for that thread."""
    if found.stored is None:
        return ""
    if found.verdict != "swapped" or found.seal is None:
        key = stores.cold.set_aside(found.ref, etag=found.stored.etag)
        clear_if_erased(stores, found.ref)
        return key
    here = stores.cold.get(found.ref)
    if here is None or here[0].etag != found.stored.etag:
        return None
    meta = ArchiveMeta.of_seal(found.seal, raw_bytes=found.raw_bytes)
    key = stores.cold.put_aside(found.seal.ref, here[1], meta=meta)
    clear_if_erased(stores, found.seal.ref)
    return key


def _tell_of_loss(stores: Stores, seal: Seal, lost: int, known: CatalogEntry | None) -> None:
    """That what came after a revision is lost is told first: killed behind its put, a repair is complete then."""
    note_once(stores, seal.ref, "reverted", {"rev": seal.rev, "lost_rev": lost})
    if known is None or known.stat.archived_rev <= seal.rev:
        return
    stamp = now(stores.hot.clock(seal.ref))
    row = CatalogRow(seal.ref, "cold", stamp, seal.rev, seal.rev, count=seal.count, chain=seal.chain, born=seal.born)
    try:
        stores.catalog.replace([(row, known)])
    except ThreadkeepError as error:
        log.warning("the catalog could not be told", extra={"thread_id": str(seal.ref), "reason": str(error)})


def _tell(stores: Stores, ref: ThreadRef, stored: StoredObject, sound: _Sound) -> None:
    """The catalog hears of it; the archive is repaired even where it cannot."""
    try:
        set_right(stores, [told_by(stores, ref, stored, sound.meta, sound.seal)])
    except ThreadkeepError as error:
        log.warning("the catalog could not be told", extra={"thread_id": str(ref), "reason": str(error)})
        stores.owe_catalog(ref)
