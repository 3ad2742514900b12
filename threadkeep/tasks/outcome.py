"""What a task returns: small, and fit to be shown in Flower. Ids and numbers, never content."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended.

    Attributes:
        outcome: One word, such as `archived` or `restored`.
        rev: Revision that it dealt with.
        count: Messages.
        bytes: Size of the object in the bucket.
        compressed: Bytes of records that had to be compressed.
        residence: Whether Redis still holds the thread: `evicted`, `lingers` or `kept`.
    """

    outcome: str
    rev: int = 0
    count: int = 0
    bytes: int = 0
    compressed: int = 0
    residence: str = ""

    def to_result(self, ref: str, milliseconds: float) -> dict[str, Any]:
        """The non-empty facts, the outcome first; how long it took, and of which thread, last."""
        facts = {name: value for name, value in asdict(self).items() if value}
        return {**facts, "ms": round(milliseconds, 1), "thread_id": ref}
