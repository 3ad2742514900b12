"""Damage done to an archive past Threadkeep, as a bad disk, a wrong script or a restored backup would do it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.integration.protocol import user
from threadkeep import Threadkeep
from threadkeep.model import ArchiveMeta, Entry, FlushMode, Seal, StoredObject, ThreadRef, fresh_mark
from threadkeep.storage.archive import NO_CHAIN, read_frames, seal_tail
from threadkeep.storage.limits import ReadLimits
from threadkeep.tasks.flush import flush
from threadkeep.tasks.stores import Stores

LIMITS = ReadLimits(10**9)


@dataclass(frozen=True)
class Vandal:
    """Writes into a bucket without asking anybody.

    Attributes:
        client: boto3's.
    """

    client: Any
    bucket: str

    def write(self, stored: StoredObject, body: bytes, *, meta: ArchiveMeta | None = None) -> None:
        """Other bytes in an object's place; the metadata stay as they are unless others are given."""
        headers = (meta or stored.meta).to_headers() if meta or stored.meta else {}
        self.client.put_object(Bucket=self.bucket, Key=stored.key, Body=body, Metadata=headers)

    def strip(self, stored: StoredObject, body: bytes) -> None:
        """The same bytes without metadata."""
        self.client.put_object(Bucket=self.bucket, Key=stored.key, Body=body)

    def remove(self, stored: StoredObject) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=stored.key)


def make_thread(keep: Threadkeep, stores: Stores, texts: Sequence[str], mode: FlushMode = "evict") -> ThreadRef:
    """A thread whose archive has a frame for each text; in Redis afterwards only if `mode` lets it linger."""
    with keep.new() as session:
        ref = ThreadRef.of(session.id)
        for text in texts[:-1]:
            session.append(user(text))
            assert flush(stores, ref, "checkpoint").outcome == "archived"
        session.append(user(texts[-1]))
    assert flush(stores, ref, mode).outcome == "archived"
    return ref


def flipped(body: bytes, at: int, mask: int = 0xFF) -> bytes:
    """The bytes with one of them inverted, or some of its bits."""
    return body[:at] + bytes([body[at] ^ mask]) + body[at + 1 :]


def an_archive(ref: ThreadRef, *, frames: int = 3) -> tuple[StoredObject, bytes]:
    """A small archive in so many frames, as a bucket would give it."""
    body, count, chain, raw = b"", 0, NO_CHAIN, 0
    for number in range(frames):
        seal = Seal(ref.namespace, ref.thread_id, 100 + number, fresh_mark(), 50, 0, {"step": number}, NO_CHAIN)
        records = [_record(f"m{number}-{each}") for each in range(2)]
        tail = seal_tail(records, seal, base_count=count, base_chain=chain)
        body, count, chain, raw = body + tail.body, tail.seal.count, tail.seal.chain, raw + tail.raw_bytes
    meta = ArchiveMeta.of_seal(tail.seal, raw_bytes=raw)
    return StoredObject("threads/messages/t.ndjson.zst", "etag", len(body), meta, 1.0), body


def content(body: bytes) -> tuple[list[bytes], Seal]:
    """The records and the last seal."""
    frames = list(read_frames(body, where="", limits=LIMITS))
    return [record for frame in frames for record in frame.records], frames[-1].seal


def frame_ends(body: bytes) -> list[int]:
    return [frame.end for frame in read_frames(body, where="", limits=LIMITS)]


def meta_of(body: bytes) -> ArchiveMeta:
    """The metadata that belong to these bytes."""
    records, seal = content(body)
    return ArchiveMeta.of_seal(seal, raw_bytes=sum(map(len, records)) + len(records))


def _record(message_id: str) -> bytes:
    return Entry(message_id, "user", {"role": "user", "content": f"what {message_id} says"}).to_record()
