"""How much stored bytes may make whoever reads them hold: the bounds against decompression bombs. Pure numbers."""

from dataclasses import dataclass
from typing import Final, Self

from threadkeep.config import LARGEST_MESSAGE, Settings

FRAME_BYTES: Final = 8 * 1024 * 1024
"""Records of one flush beyond this many raw bytes are split into several frames, which bounds a reader's memory."""
SEAL_BYTES: Final = 5 * 1024 * 1024
"""A seal is smaller than this: it holds a state of at most 4 MiB, and labels."""
USUAL_MESSAGE: Final = 8 * 1024 * 1024
"""What messages may hold by default. A lower setting later does not make what was written before it a bomb."""
FEW_FRAMES: Final = 512
"""Twice as many frames as a flush leaves before it rewrites them as one; a large thread may have more."""


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What an archive or a snapshot may unpack to. What is written under the same settings is never refused.

    Attributes:
        thread: Bytes of the records of all frames together: `THREADKEEP_MAX_THREAD_BYTES`.
        message: Bytes of the largest message that may be written: `THREADKEEP_MAX_MESSAGE_BYTES`.
        ratio: Bytes that a compressed byte may become where a frame holds more than what a flush may put into any:
            `THREADKEEP_MAX_ARCHIVE_RATIO`.
    """

    thread: int
    message: int = USUAL_MESSAGE
    ratio: int = 1000

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.max_thread_bytes, settings.max_message_bytes, settings.max_archive_ratio)

    def unpacked(self, size: int) -> int:
        """Bytes that `size` compressed ones may become, by their ratio."""
        return FRAME_BYTES + max(self.message, USUAL_MESSAGE) + SEAL_BYTES + self.ratio * size

    def frame(self, size: int) -> int:
        """Bytes that a frame of `size` compressed ones may become: never more than the largest message makes it."""
        return min(self.unpacked(size), FRAME_BYTES + LARGEST_MESSAGE + SEAL_BYTES)

    @property
    def frames(self) -> int:
        """Frames that a thread of that many bytes may have."""
        return FEW_FRAMES + 2 * (self.thread // FRAME_BYTES)

    @property
    def object(self) -> int:
        """Bytes that an object may have: all records, incompressible, and a seal for each of many small frames."""
        return self.thread + FEW_FRAMES * SEAL_BYTES
