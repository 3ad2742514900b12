"""What must hold for any bytes that stand where a snapshot of version 1 should, and how to change some to get far."""

import gzip
import json
import random
import zlib
from collections.abc import Callable

from tests.fuzz.framing import swapped
from threadkeep.errors import ArchiveCorrupt
from threadkeep.model import checked_record, checked_state
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.snapshot_v1 import read_v1, write_v1
from threadkeep.strict_json import dump_json

LIMITS = ReadLimits(64 * 1024 * 1024)
UNPACKED = 1 << 20
Mutate = Callable[[bytes, int], bytes]


def check(body: bytes) -> bool:
    """Bytes are refused as `ArchiveCorrupt`, or become entries that can be kept, of which the same snapshot is made.

    Returns:
        Whether they were taken.
    """
    try:
        found = read_v1(body, thread="t", where="key", limits=LIMITS)
    except ArchiveCorrupt:
        return False
    for entry in found.entries:
        checked_record(entry, max_bytes=64 * 1024 * 1024)
    assert len({entry.id for entry in found.entries}) == len(found.entries)
    checked_state(found.state, max_bytes=4 * 1024 * 1024)
    written, original = write_v1(found.entries, found.state, codec=found.codec), json.loads(_plain(body))
    again = json.loads(_plain(written))
    assert again["messages"] == original["messages"]
    assert dump_json(again["state"]) == dump_json(original.get("state"))
    read_v1(written, thread="t", where="key", limits=LIMITS)
    return True


def mutated(body: bytes, size: int, seed: int, mutate: Mutate) -> bytes:
    """Bytes changed so that a gzip stream stays one: what is inside is changed, or one of its messages."""
    dice = random.Random(seed)
    zipped = body.startswith(b"\x1f\x8b")
    if dice.random() < 0.1 or (zipped and not (body := _plain(body))):
        return mutate(body, size)
    changed = swapped(body, dice) if dice.random() < 0.3 else _inside(body, size, dice, mutate)
    return (gzip.compress(changed, 1, mtime=0) if zipped == (dice.random() < 0.9) else changed)[:size]


def _inside(body: bytes, size: int, dice: random.Random, mutate: Mutate) -> bytes:
    """A snapshot with one message changed, itself a text of JSON."""
    try:
        value = json.loads(body)
        at = dice.randrange(len(value["messages"]))
        message = value["messages"][at].encode("utf-8", "surrogatepass")
        message = swapped(message, dice) if dice.random() < 0.5 else mutate(message, size)
        value["messages"][at] = message.decode("utf-8", "replace")
        return json.dumps(value).encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return mutate(body, size)


def _plain(body: bytes) -> bytes:
    if not body.startswith(b"\x1f\x8b"):
        return body
    try:
        return zlib.decompressobj(wbits=31).decompress(body, UNPACKED)
    except zlib.error:
        return b""
