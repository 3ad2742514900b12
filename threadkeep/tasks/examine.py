"""Examine: what is wrong with one archived thread, if anything is. Changes nothing."""

from dataclasses import dataclass
from typing import Final, Literal

from threadkeep.errors import AnswerGarbled, ArchiveCorrupt, ArchiveFrozen, ArchiveTooNew, StoreUnavailable
from threadkeep.model import ArchiveMeta, Seal, StoredObject, ThreadRef
from threadkeep.storage.archive import read_frames, verify_content
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.storage.ports import CatalogEntry
from threadkeep.storage.tombstones import Tombstone, read_tombstone
from threadkeep.tasks.stores import Stores

LOOKS: Final = 3
"""How often an object is read that changes while it is read, or comes damaged."""

Verdict = Literal[
    "sound",
    "tombstone",
    "unarchived",
    "moved",
    "corrupt",
    "foreign",
    "swapped",
    "future",
    "mislabelled",
    "outdated",
    "missing",
    "unread",
]
"""What was found where a thread's archive should be.

| verdict | meaning |
|---|---|
| `sound` | all of it verifies, belongs to this thread, and is as new as the catalog knows |
| `tombstone` | the thread was erased |
| `unarchived` | nothing yet: the thread is hot, and was never flushed |
| `moved` | it changed each time it was read; look again |
| `corrupt` | Threadkeep wrote it, and it does not verify, or ends before what its metadata tell |
| `foreign` | no Threadkeep archive |
| `swapped` | an archive that verifies, of another thread |
| `future` | its format version is not known here |
| `mislabelled` | the content verifies and is this thread's; the object's metadata do not belong to it |
| `outdated` | it verifies, and the catalog knows of a newer one, or of an erasure |
| `missing` | nothing, where the catalog knows of an archive, or nothing is known at all |
| `unread` | the store has it, and does not give it |
"""

SOUND: Final[frozenset[Verdict]] = frozenset({"sound", "tombstone", "unarchived", "moved"})
"""The verdicts that need nobody's attention."""


@dataclass(frozen=True, slots=True)
class Examined:
    """One archived thread as it was found.

    Attributes:
        reason: What is wrong, in half a sentence without content; empty if nothing is.
        stored: What a GET told of the object; None if there is none, or it was not read.
        seal: The last one, where all frames verify.
        raw_bytes: Records before compression, where all frames verify.
    """

    ref: ThreadRef
    verdict: Verdict
    reason: str = ""
    stored: StoredObject | None = None
    seal: Seal | None = None
    raw_bytes: int = 0

    @property
    def sound(self) -> bool:
        return self.verdict in SOUND

    @property
    def told_rev(self) -> int:
        """The revision that the object's metadata claim; 0 if they are missing."""
        return self.stored.meta.rev if self.stored is not None and self.stored.meta is not None else 0


def examine(stores: Stores, ref: ThreadRef, known: CatalogEntry | None) -> Examined:
    """Read a thread's archive and judge it; one that changed while it was read is read again.

    Args:
        stores: Where it lies.
        ref: The thread.
        known: The catalog's row, read before this call: what is archived meanwhile is newer, never older.

    Raises:
        StoreUnavailable: S3 does not answer at all.
        StoreRefused: the bucket or its credentials are wrong.
    """
    for _ in range(LOOKS):
        found = _look(stores, ref, known)
        if found.sound:
            return found
        there = stores.cold.head(ref)
        if _same(found.stored, there) or (found.verdict == "unread" and there is not None):
            return found
    return Examined(ref, "moved", "it changed each time it was read")


def judge(
    ref: ThreadRef, stored: StoredObject, body: bytes, *, limits: ReadLimits, known: CatalogEntry | None = None
) -> Examined:
    """What an object is, by its bytes, its metadata and the catalog's row."""
    buried = read_tombstone(body)
    if buried is not None:
        return _judge_tombstone(ref, stored, buried, known)
    try:
        seal, raw_bytes = read_whole(ref, stored.key, body, limits)
    except ArchiveTooNew as error:
        return Examined(ref, "future", error.reason, stored)
    except ArchiveCorrupt as error:
        ours = stored.meta is not None or _starts_sound(body, limits)
        return Examined(ref, "corrupt" if ours else "foreign", error.reason, stored)
    verdict, reason = _compare(ref, stored, seal, raw_bytes, known)
    return Examined(ref, verdict, reason, stored, seal, raw_bytes)


def read_whole(ref: ThreadRef, where: str, body: bytes, limits: ReadLimits) -> tuple[Seal, int]:
    """The last seal and the bytes of all records, each of which is verified, whoever the archive belongs to.

    Raises:
        ArchiveCorrupt: a hydrate would refuse the content.
    """
    seal, raw_bytes = None, 0
    for frame in read_frames(body, where=where, thread=str(ref), limits=limits):
        verify_content(frame, where=where, thread=str(ref))
        seal, raw_bytes = frame.seal, raw_bytes + frame.raw_bytes
    if seal is None:
        raise ArchiveCorrupt(str(ref), where, "it is empty")
    return seal, raw_bytes


def _look(stores: Stores, ref: ThreadRef, known: CatalogEntry | None) -> Examined:
    try:
        found = _get(stores, ref)
    except ArchiveCorrupt as error:
        return Examined(ref, "corrupt", error.reason, stores.cold.head(ref))
    except (StoreUnavailable, ArchiveFrozen) as error:
        return Examined(ref, "unread", str(error))
    if found is None:
        return _judge_nothing(stores, ref, known)
    return judge(ref, *found, limits=ReadLimits.of(stores.settings), known=known)


def _get(stores: Stores, ref: ThreadRef) -> tuple[StoredObject, bytes] | None:
    """The object; one that lacks the checksum that the store keeps of it, each time it is read, is damaged there.

    Raises:
        ArchiveCorrupt: it is, or it is larger than any archive.
    """
    for _ in range(LOOKS):
        try:
            return stores.cold.get(ref)
        except AnswerGarbled:
            continue
    raise ArchiveCorrupt(str(ref), str(ref), "its bytes do not have the checksum that the store keeps of them")


def _same(seen: StoredObject | None, there: StoredObject | None) -> bool:
    if seen is None or there is None:
        return seen is there
    return (seen.key, seen.etag, seen.meta) == (there.key, there.etag, there.meta)


def _judge_nothing(stores: Stores, ref: ThreadRef, known: CatalogEntry | None) -> Examined:
    if known is not None and known.stat.archived_rev:
        return Examined(ref, "missing", f"there is no object; the catalog knows of revision {known.stat.archived_rev}")
    seen = now(stores.hot.look(ref))
    if seen.head is not None and not seen.head.archived:
        return Examined(ref, "unarchived")
    return Examined(ref, "missing", "there is no object")


def _judge_tombstone(ref: ThreadRef, stored: StoredObject, buried: Tombstone, known: CatalogEntry | None) -> Examined:
    if (buried.namespace, buried.thread_id) != (ref.namespace, ref.thread_id):
        return Examined(ref, "swapped", "it is the tombstone of another thread", stored)
    if stored.meta is None or not stored.meta.tombstone:
        return Examined(ref, "mislabelled", "it is a tombstone, and its metadata do not say so", stored)
    if known is not None and known.erased_at is None and known.stat.archived_rev > stored.meta.rev:
        reason = f"it is a tombstone; the catalog knows of the later revision {known.stat.archived_rev}"
        return Examined(ref, "outdated", reason, stored)
    return Examined(ref, "tombstone", "", stored)


def _compare(
    ref: ThreadRef, stored: StoredObject, seal: Seal, raw_bytes: int, known: CatalogEntry | None
) -> tuple[Verdict, str]:
    """What is wrong with an object all of whose frames verify."""
    if seal.ref != ref:
        return "swapped", "its seal names another thread; objects were swapped or copied"
    meta = stored.meta
    if meta is not None and meta.tombstone:
        return "mislabelled", "its metadata say that the thread was erased; its content does not"
    if meta is not None and meta.rev > seal.rev:
        return "corrupt", f"it ends at revision {seal.rev}; its metadata tell {meta.rev}: frames are missing"
    if meta is None:
        return "mislabelled", "its metadata are missing"
    if meta != ArchiveMeta.of_seal(seal, raw_bytes=raw_bytes):
        return "mislabelled", "its metadata do not belong to its content"
    if known is not None and (newer := _newer(known, stored, seal)):
        return "outdated", newer
    return "sound", ""


def _newer(known: CatalogEntry, stored: StoredObject, seal: Seal) -> str:
    """What the catalog knows better; empty if nothing. A row that names this very object only lies about it."""
    if known.erased_at is not None and seal.born <= (known.revs.erased or 0):
        return f"the catalog knows that the thread was erased at revision {known.revs.erased}"
    if known.stat.archived_rev > seal.rev and known.stat.etag != stored.etag:
        return f"it is revision {seal.rev}; the catalog knows of {known.stat.archived_rev}"
    return ""


def _starts_sound(body: bytes, limits: ReadLimits) -> bool:
    """Whether the first frame verifies: then this was an archive of ours, whatever its metadata say."""
    try:
        return next(read_frames(body, where="", limits=limits), None) is not None
    except ArchiveCorrupt:
        return False
