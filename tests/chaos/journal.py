"""What an app was about to do and what it was told, line by line, so that a killed app still testifies."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

REFUSED: Final = frozenset({"FormatMismatch", "InvalidMessage", "MessageConflict", "MessageNotFound", "ThreadBusy"})
"""Errors that say that nothing was written; after any other a write may be there or not."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that an app did to a thread. Times are Unix seconds.

    Attributes:
        process: The app and how often it had been started, as `app-0.2`.
        intent: What was written down before.
        done: When the answer came; None if the app never heard it.
        error: Name of the error that was raised; None if there was none.
        result: What was written down after.
    """

    process: str
    number: int
    do: str
    thread: str
    at: float
    intent: dict[str, Any] = field(default_factory=dict)
    done: float | None = None
    error: str | None = None
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def acknowledged(self) -> bool:
        return self.done is not None and self.error is None

    @property
    def refused(self) -> bool:
        """Whether nothing can have come of it."""
        return self.error in REFUSED

    def __str__(self) -> str:
        outcome = self.error or ("ok" if self.done else "no answer")
        return f"{self.at:.3f} {self.process} #{self.number} {self.do} {self.intent} -> {outcome} {self.result}"


class Journal:
    """A file that only grows. Each line is handed to the system before the app goes on: SIGKILL loses none."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()
        self._count = 0

    def begin(self, do: str, thread: str, **intent: Any) -> int:
        """Note what is about to be done; its number."""
        with self._lock:
            self._count += 1
            number = self._count
        self._write({"op": number, "at": time.time(), "do": do, "thread": thread, "intent": intent})
        return number

    def end(self, number: int, *, error: str | None = None, **result: Any) -> None:
        """Note the answer."""
        self._write({"op": number, "done": time.time(), "error": error, "result": result})

    def close(self) -> None:
        """No more is written."""
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            self._file.write(data)


def read_journals(folder: Path) -> list[Operation]:
    """All operations of all apps, in the order in which they began."""
    found = [operation for path in sorted(folder.glob("*.jsonl")) for operation in _operations(path)]
    return sorted(found, key=lambda operation: operation.at)


def _operations(path: Path) -> Iterator[Operation]:
    begun: dict[int, dict[str, Any]] = {}
    ended: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().split(b"\n")[:-1]:  # what stands behind the last newline was cut by a kill
        told = json.loads(line)
        (begun if "do" in told else ended)[told.pop("op")] = told
    for number, intent in begun.items():
        yield Operation(path.stem, number, **intent, **ended.get(number, {}))
