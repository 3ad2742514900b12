"""Frames whose checksum, count and chain are right, whatever they hold: random bytes would never get past those."""

import hashlib
import json
import random
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from threadkeep.errors import ArchiveCorrupt
from threadkeep.storage.archive import NO_CHAIN
from threadkeep.storage.archive_index import index_of
from threadkeep.storage.record_ids import id_hash, ids_in

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"\x28\xb5\x2f\xfd"
INDEX = b"\x54\x2a\x4d\x18"
UNPACKED = 1 << 20
"""Bytes of a frame that are looked at; more is none of a fuzzer's business."""


@dataclass(frozen=True)
class Opened:
    """What is in one frame: its records, each line ended, and its last line as it stands."""

    lines: bytes
    seal: bytes

    @classmethod
    def of(cls, records: Iterable[bytes], seal: bytes) -> Self:
        """A frame of these records."""
        return cls(b"".join(record + b"\n" for record in records), seal)

    @property
    def records(self) -> list[bytes]:
        """Its records, without the ends of their lines."""
        return self.lines.split(b"\n")[:-1]


def seal_fields(**changes: Any) -> dict[str, Any]:
    """A seal's fields but for count and chain, which `sealed_line` knows best."""
    fields = {
        "v": 2,
        "namespace": "messages",
        "id": "t",
        "rev": 7,
        "attempt": "0a",
        "born": 3,
        "codec": "plain",
        "state": {"step": 1},
        "labels": {"tier": "gold"},
        "forked_from": None,
    }
    return {**fields, **changes}


def next_chain(previous: str, lines: bytes) -> str:
    """Hex sha256(previous chain, then sha256 of a frame's records)."""
    return hashlib.sha256(bytes.fromhex(previous) + hashlib.sha256(lines).digest()).hexdigest()


def framed(records: Iterable[bytes], **seal: Any) -> bytes:
    """One frame of these records behind nothing, each on a line of its own, with a seal that fits them."""
    lines = b"".join(record + b"\n" for record in records)
    fields = {"count": lines.count(b"\n"), "chain": next_chain(NO_CHAIN, lines), **seal_fields(**seal)}
    return compressed(lines + json.dumps({"$threadkeep": fields}, separators=(",", ":")).encode() + b"\n")


def sealed_with(records: Iterable[bytes], line: bytes) -> bytes:
    """One frame with this last line, in which `CHAIN` and `COUNT` stand for what is right."""
    lines = b"".join(record + b"\n" for record in records)
    chain, count = next_chain(NO_CHAIN, lines).encode(), str(lines.count(b"\n")).encode()
    return compressed(lines + line.replace(b"CHAIN", chain).replace(b"COUNT", count) + b"\n")


def compressed(raw: bytes) -> bytes:
    options = {
        zstd.CompressionParameter.compression_level: 1,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    return zstd.compress(raw, options=options)


def opened(body: bytes) -> list[Opened]:
    """What is in the frames of an archive, as far as it can be unpacked; nothing of it is checked."""
    found: list[Opened] = []
    at = 0
    while body[at : at + 4] in (MAGIC, INDEX) and len(found) < 64:
        if body[at : at + 4] == INDEX:
            at += 8 + int.from_bytes(body[at + 4 : at + 8], "little")
            continue
        try:
            size = zstd.get_frame_size(body[at:])
            raw = zstd.ZstdDecompressor().decompress(body[at : at + size], max_length=UNPACKED)
        except zstd.ZstdError:
            break
        start = raw.rfind(b"\n", 0, len(raw) - 1) + 1
        found.append(Opened(raw[:start], raw[start:].removesuffix(b"\n")))
        at += size
    return found


def closed(frames: Sequence[Opened]) -> bytes:
    """An archive of these frames. Where a seal still tells a chain and a count, they become those that are right."""
    body, chain, count = b"", NO_CHAIN, 0
    for frame in frames:
        chain = next_chain(chain, frame.lines)
        count += frame.lines.count(b"\n")
        line = re.sub(rb'"chain":"[^"]*"', b'"chain":"%s"' % chain.encode(), frame.seal)
        line = re.sub(rb'"count":\d+', b'"count":%d' % count, line)
        stored = compressed(frame.lines + line + b"\n")
        body += stored + (index_behind(stored, frame, line + b"\n") if b'"v":3' in line else b"")
    return body


def index_behind(stored: bytes, frame: Opened, line: bytes, **lies: Any) -> bytes:
    """The index of a frame, right but for the lies: of records that have no ids it names others."""
    try:
        ids = ids_in(frame.lines, len(frame.lines), where="key")
    except ArchiveCorrupt:
        ids = b"".join(id_hash(repr(record)) for record in frame.records)
    facts = {"digest": hashlib.sha256(frame.lines).digest(), "raw_bytes": len(frame.lines), "ids": ids, "line": line}
    return index_of(stored, **{**facts, **lies}, level=1)


def swapped(text: bytes, dice: random.Random) -> bytes:
    """A line of JSON with one of its values, or keys, put in the place of another, or trouble in its place."""
    found = list(_TOKENS.finditer(text))
    if not found:
        return text
    token = dice.choice(found)
    other = dice.choice(TROUBLE) if dice.random() < 0.5 else dice.choice(found)[0]
    return text[: token.start()] + other + text[token.end() :]


_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9.eE+]+|true|false|null|\{\}|\[\]')
TROUBLE = [
    *(b"null", b"true", b"false", b"0", b"-1", b"1.5", b"1e3", b"-0.0", b"1e999", b"NaN", b"Infinity", b"{}", b"[]"),
    *(b'""', b'"\\u0000"', b'"\\ud800"', b'"a\\nb"', b'"%2e%2e/%2F"', b'"messages/t"', b'"user"', b'"m1"', b'"\xff"'),
    *(b"4503599627370495", b"4503599627370496", b"9" * 1_300, b"9" * 5_000, b"[" * 90 + b"]" * 90, b"[" * 200),
    *(b'{"a":' * 101 + b"1" + b"}" * 101, b'"' + b"x" * 600 + b'"', b'{"$threadkeep":{}}', b'"$threadkeep_erased"'),
]
