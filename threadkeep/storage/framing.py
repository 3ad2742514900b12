"""Frames as zstd has them (RFC 8878): made, measured and unpacked within bounds. What they hold is said elsewhere."""

import sys
from typing import Final, cast

from threadkeep.errors import ArchiveCorrupt
from threadkeep.storage.limits import SEAL_BYTES, ReadLimits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZstdError = zstd.ZstdError

_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_LARGEST_WINDOW: Final = 23
"""Of 8 MiB, as log2: what large frames are compressed with. A frame's header alone must not make a reader take more."""
_LARGE: Final = 4 * 1024 * 1024
"""Where levels would take smaller windows than what is compressed."""
_READING: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: _LARGEST_WINDOW}
_CHUNK: Final = 1024 * 1024


def is_archive(body: bytes) -> bool:
    """Whether an object begins as a zstd frame does."""
    return body.startswith(_MAGIC)


def compressed(raw: bytes, *, level: int) -> bytes:
    """One frame, with a checksum of its content."""
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: level,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    if len(raw) > _LARGE:
        options[zstd.CompressionParameter.window_log] = _LARGEST_WINDOW
    return zstd.compress(raw, options=options)


def decompressor() -> zstd.ZstdDecompressor:
    """One that takes no larger windows than are written here."""
    return zstd.ZstdDecompressor(options=_READING)


def frame_size(view: memoryview, *, where: str, thread: str) -> int:
    """Bytes of the frame that begins here.

    Raises:
        ArchiveCorrupt: none begins here, or it is cut short.
    """
    if bytes(view[:4]) != _MAGIC:
        raise ArchiveCorrupt(thread, where, "it is no Threadkeep archive, or is torn between two frames")
    try:
        return zstd.get_frame_size(view)
    except ZstdError:
        raise ArchiveCorrupt(thread, where, "its last frame is cut short or damaged") from None


def unpacked(frame: memoryview, budget: int, limits: ReadLimits, *, where: str, thread: str) -> bytes:
    """What a frame holds, its checksum verified.

    Args:
        frame: All of it.
        budget: Bytes that its records may have at most, by the thread's limit.
        limits: How much a frame of that size may hold.
        where: The object's key, for errors.
        thread: The thread, for errors.

    Raises:
        ArchiveCorrupt: it is damaged, or a bomb.
    """
    most = within(frame, budget, limits, where=where, thread=thread)
    unpacking = decompressor()
    try:
        raw = unpacking.decompress(frame, max_length=most + 1)
    except ZstdError:
        raise _damaged(thread, where) from None
    if len(raw) > most:
        raise _bomb(frame, most, limits, where, thread)
    if not unpacking.eof:
        raise ArchiveCorrupt(thread, where, "a frame is cut short")
    return raw


def within(frame: memoryview, budget: int, limits: ReadLimits, *, where: str, thread: str) -> int:
    """Bytes that a frame may unpack to, if it does not say that it would be more.

    Raises:
        ArchiveCorrupt: it does, or its header is damaged.
    """
    most = min(limits.frame(len(frame)), budget + SEAL_BYTES)
    try:
        size = unpacked_size(frame, most)
    except ZstdError:
        raise _damaged(thread, where) from None
    if size > most:
        raise _bomb(frame, most, limits, where, thread)
    return most


def unpacked_size(frame: memoryview, most: int) -> int:
    """Bytes that a frame says it unpacks to, as all do that are written here; of others they are counted.

    More than `most` is not counted to its end. Holds no more than a chunk.
    """
    told = cast("int | None", zstd.get_frame_info(frame).decompressed_size)  # its stub knows no None
    if told is not None:
        return told
    unpacking, size = decompressor(), 0
    chunk = unpacking.decompress(frame, max_length=_CHUNK)
    while chunk and size <= most:
        size += len(chunk)
        chunk = b"" if unpacking.eof else unpacking.decompress(b"", max_length=_CHUNK)
    return size


def _damaged(thread: str, where: str) -> ArchiveCorrupt:
    return ArchiveCorrupt(thread, where, "a frame is damaged: its checksum or coding is wrong")


def _bomb(frame: memoryview, most: int, limits: ReadLimits, where: str, thread: str) -> ArchiveCorrupt:
    by_ratio = most == limits.frame(len(frame))
    setting = "THREADKEEP_MAX_ARCHIVE_RATIO" if by_ratio else "THREADKEEP_MAX_THREAD_BYTES"
    return ArchiveCorrupt(thread, where, f"it decompresses to more than {setting} allows")
