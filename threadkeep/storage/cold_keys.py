"""What every object of the archive is called, and which thread a key belongs to. Pure text, no I/O."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from threadkeep.errors import InvalidThreadId
from threadkeep.model import ThreadRef, encode_segment, fresh_mark

SUFFIX: Final = ".ndjson.zst"

_STAMP_DIGITS: Final = 20
_REVISION: Final = re.compile(rf"(\d{{{_STAMP_DIGITS}}})-([^/]+)")


@dataclass(frozen=True, slots=True)
class ColdKeys:
    """The key layout below one prefix.

    | object | key below the prefix | segments |
    |---|---|---|
    | a thread | `<namespace>/<id>.ndjson.zst` | 2 |
    | a revision (conditional_writes=off) | `<namespace>/<id>/<rev>-<attempt>.ndjson.zst` | 3 |
    | what lost a conflict | `conflicts/<namespace>/<id>/<rev>-<attempt>.ndjson.zst` | 4 |
    | a probe | `.probe/<mark>/object` | 3, no suffix |

    Namespace, id and attempt are percent-encoded, so none of them holds a slash: the number of segments tells
    the rows apart, and a namespace called `conflicts` clashes with nothing. Revisions have 20 digits, so that
    the order of keys is the order of revisions.

    Attributes:
        prefix: What every key starts with; no slash at either end.
    """

    prefix: str

    def thread(self, ref: ThreadRef) -> str:
        return f"{self.prefix}/{ref.member}{SUFFIX}"

    def revisions(self, ref: ThreadRef) -> str:
        """What the keys of all revisions of a thread start with; conflicts of other threads may, too."""
        return f"{self.prefix}/{ref.member}/"

    def revision(self, ref: ThreadRef, rev: int, attempt: str) -> str:
        return f"{self.revisions(ref)}{_stamped(rev, attempt)}"

    def behind_revisions(self, ref: ThreadRef) -> str:
        """Sorts behind all revisions of a thread, which start with digits."""
        return f"{self.revisions(ref)}:"

    def all_conflicts(self) -> str:
        """What the keys of all that lies aside start with; threads of a namespace called so do, too."""
        return f"{self.prefix}/conflicts/"

    def conflicts(self, ref: ThreadRef) -> str:
        """What the keys of all that lies aside for a thread start with, and no other key does."""
        return f"{self.prefix}/conflicts/{ref.member}/"

    def conflict(self, ref: ThreadRef, rev: int, attempt: str) -> str:
        return f"{self.conflicts(ref)}{_stamped(rev, attempt)}"

    def foreign_conflict(self, ref: ThreadRef, modified: float, etag: str) -> str:
        """For an object that Threadkeep did not write; its time in microseconds sorts it among revisions."""
        return f"{self.conflicts(ref)}{_stamped(int(modified * 1_000_000), etag)}"

    def probe(self) -> str:
        return f"{self.prefix}/.probe/{fresh_mark()}/object"

    def listing(self, namespace: str | None) -> str:
        """The prefix under which a listing finds all threads, or those of one namespace."""
        return f"{self.prefix}/" if namespace is None else f"{self.prefix}/{encode_segment(namespace)}/"

    def thread_of(self, key: str) -> ThreadRef | None:
        """The thread whose object has this key; None for other kinds of keys, and names nobody could give."""
        match self._segments(key):
            case [namespace, name]:
                return _decoded(namespace, name)
        return None

    def revision_of(self, key: str) -> tuple[ThreadRef, int, str] | None:
        """Thread, rev and attempt of a revision's key; None for every other kind of key."""
        match self._segments(key):
            case [namespace, thread_id, name] if stamp := _REVISION.fullmatch(name):
                ref, rev, attempt = _decoded(namespace, thread_id), int(stamp[1]), unquote(stamp[2])
                if ref is not None and self.revision(ref, rev, attempt) == key:
                    return ref, rev, attempt
        return None

    def conflict_of(self, key: str) -> ThreadRef | None:
        """The thread for which the object of this key lies aside; None for every other kind of key."""
        match self._segments(key):
            case ["conflicts", namespace, thread_id, _]:
                return _decoded(namespace, thread_id)
        return None

    def _segments(self, key: str) -> list[str]:
        start = f"{self.prefix}/"
        if not key.startswith(start) or not key.endswith(SUFFIX):
            return []
        return key[len(start) : -len(SUFFIX)].split("/")


def v1_keys(prefix: str, ref: ThreadRef) -> list[str]:
    """Where zeitlich 0.2 put a thread: with gzip, and without. Raw text, no slashes at the ends of a part.

    None that a store, or a proxy before it, might resolve to another place, since ids may hold `..` between slashes.
    """
    names = (f"{ref.thread_id}.json.gz", f"{ref.thread_id}.json")
    keys = [_joined(prefix, ref.namespace, name) for name in names]
    return [key for key in keys if not any(segment in {".", ".."} for segment in key.split("/"))]


def unkeepable(key: str) -> bool:
    """Whether some stores refuse the key itself, so that they can hold no such object.

    S3 keeps any key up to 1,024 bytes. SeaweedFS answers 400 to `.` and `..` between slashes and to segments
    beyond 255 bytes.
    """
    segments = key.split("/")
    return (
        len(key.encode()) > 1024
        or any(segment in {".", ".."} for segment in segments)
        or any(len(segment.encode()) > 255 for segment in segments)
    )


def _joined(*parts: str) -> str:
    return "/".join(filter(None, (part.strip("/") for part in parts)))


def _stamped(stamp: int, mark: str) -> str:
    return f"{stamp:0{_STAMP_DIGITS}d}-{encode_segment(mark)}{SUFFIX}"


def _decoded(namespace: str, thread_id: str) -> ThreadRef | None:
    try:
        ref = ThreadRef(unquote(namespace, errors="strict"), unquote(thread_id, errors="strict"))
    except (InvalidThreadId, UnicodeDecodeError):
        return None
    return ref if ref.member == f"{namespace}/{thread_id}" else None
