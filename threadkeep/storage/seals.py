"""Seals as lines of JSON: the last line of each frame."""

import re
from typing import Any, Final

from threadkeep.errors import ArchiveCorrupt, ArchiveTooNew
from threadkeep.model import MAX_REVISION, Seal, ThreadRef, checked_labels
from threadkeep.storage.limits import SEAL_BYTES
from threadkeep.strict_json import dump_json, load_json

SEAL_VERSION: Final = 2
INDEXED_VERSION: Final = 3
"""Of the seal of a frame that has an index behind it, so that who knows no indexes refuses it as too new."""

_SEAL_START: Final = b'{"$threadkeep":'
_PRINTABLE: Final = re.compile(r"[ -~]{1,128}")
_FIELDS: Final = {
    "v": (int,),
    "namespace": (str,),
    "id": (str,),
    "rev": (int,),
    "attempt": (str,),
    "born": (int,),
    "count": (int,),
    "codec": (str,),
    "state": (dict, type(None)),
    "labels": (dict,),
    "forked_from": (str, type(None)),
    "chain": (str,),
}


def seal_line(seal: Seal, *, indexed: bool = False) -> bytes:
    """A seal as it is written, with its newline."""
    fields: dict[str, Any] = {
        "v": INDEXED_VERSION if indexed else SEAL_VERSION,
        "namespace": seal.namespace,
        "id": seal.thread_id,
        "rev": seal.rev,
        "attempt": seal.attempt,
        "born": seal.born,
        "count": seal.count,
        "codec": seal.codec,
        "state": seal.state,
        "labels": seal.labels,
        "forked_from": seal.forked_from,
        "chain": seal.chain,
    }
    return dump_json({"$threadkeep": fields}) + b"\n"


def parse_seal(line: bytes, *, indexed: bool = False, where: str, thread: str) -> Seal:
    """The seal of a frame's last line, newline included.

    Raises:
        ArchiveCorrupt: it is none that `seal_line` could have made.
        ArchiveTooNew: a newer version wrote it.
    """
    known, wanted = (SEAL_VERSION, INDEXED_VERSION), INDEXED_VERSION if indexed else SEAL_VERSION
    if not line.startswith(_SEAL_START) or not line.endswith(b"\n"):
        raise ArchiveCorrupt(thread, where, "a frame does not end in a seal")
    if len(line) > SEAL_BYTES:
        raise ArchiveCorrupt(thread, where, "a seal is larger than any can be")
    try:
        fields = load_json(line[:-1], wrapped=2)["$threadkeep"]
        version = fields["v"]
        if type(version) is int and 0 <= version < 1000 and version not in known:
            raise ArchiveTooNew(
                thread, where, f"its format version {version} is none of the {known} that this version reads"
            )
        if version in known and version != wanted:
            raise ArchiveCorrupt(thread, where, f"the index of a frame is {'not its own' if indexed else 'missing'}")
        return _seal_of(fields)
    except (ValueError, KeyError, TypeError):
        raise ArchiveCorrupt(thread, where, "a seal is malformed") from None


def verify_owner(seal: Seal, ref: ThreadRef, *, where: str) -> None:
    """Refuse an object that speaks for another thread.

    Raises:
        ArchiveCorrupt: the last seal names another address.
    """
    if (seal.namespace, seal.thread_id) != (ref.namespace, ref.thread_id):
        raise ArchiveCorrupt(str(ref), where, "its seal names another thread; objects were swapped or copied")


def _seal_of(fields: dict[str, Any]) -> Seal:
    """The seal that these fields tell, if each of them is of its type and can be kept anywhere."""
    for name, kinds in _FIELDS.items():
        if type(fields[name]) not in kinds:  # not isinstance: True is no number here
            raise TypeError(name)
    if fields["v"] not in (SEAL_VERSION, INDEXED_VERSION):
        raise ValueError("v")
    ref = ThreadRef(fields["namespace"], fields["id"])
    if not all(0 <= fields[name] < MAX_REVISION for name in ("rev", "born", "count")):
        raise ValueError("a number is out of range")
    if not _PRINTABLE.fullmatch(fields["codec"]) or not _PRINTABLE.fullmatch(fields["attempt"]):
        raise ValueError("a name is malformed")
    if fields["forked_from"] is not None:
        ThreadRef.from_member(fields["forked_from"])
    return Seal(
        namespace=ref.namespace,
        thread_id=ref.thread_id,
        rev=fields["rev"],
        attempt=fields["attempt"],
        born=fields["born"],
        count=fields["count"],
        state=fields["state"],
        chain=fields["chain"],
        codec=fields["codec"],
        labels=checked_labels(fields["labels"]),
        forked_from=fields["forked_from"],
    )
