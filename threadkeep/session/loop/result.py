"""How a run ended."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from threadkeep.errors import ThreadkeepError
from threadkeep.model import JsonObject
from threadkeep.session.codecs.base import Usage
from threadkeep.session.loop.state import Status

Reason = Literal["completed", "max_turns", "waiting_for_input", "failed", "cancelled", "overtaken"]

REASON_OF: Final[dict[Status, Reason]] = {
    Status.COMPLETED: "completed",
    Status.WAITING_FOR_INPUT: "waiting_for_input",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
    Status.RUNNING: "max_turns",
}


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended.

    Attributes:
        thread_id: The thread's id.
        run_id: The run's; the same run asked for again gives the same result without asking the model again.
        reason: Why it ended: `completed` (the model had nothing more to ask for), `max_turns`, `waiting_for_input` (a
            tool called `state.wait()`), `failed` or `cancelled` (a tool said so), or `overtaken` (a run that was
            broken off, and whose thread others have gone on with since; nothing was done).
        status: The state's status.
        final: The model's last message as its provider has it, several in a list; None unless the run completed.
        text: Its visible text.
        stop: The provider's own word for why the model stopped.
        turns: Model invocations, those of earlier attempts at the same run included.
        usage: Tokens, counted the same way for every provider; the provider's own numbers are in each entry's `meta`.
        flush_enqueued: Whether a flush is on its way; False means that the broker was away, and the sweep archives it.
        archived: Whether the archive is known to hold the run; only with `wait_flush`.
        flush_error: Why it is not known. The thread is safe in Redis, and flushed again.
    """

    thread_id: str
    run_id: str
    reason: Reason
    status: Status
    final: Any = None
    text: str = ""
    stop: str = ""
    turns: int = 0
    usage: Usage = field(default_factory=Usage)
    flush_enqueued: bool = False
    archived: bool = False
    flush_error: ThreadkeepError | None = None

    def to_dict(self) -> JsonObject:
        """Ids, words and numbers, fit for a Celery result: nothing of what was said."""
        return {
            "thread_id": self.thread_id,
            "run_id": self.run_id,
            "reason": self.reason,
            "status": str(self.status),
            "stop": self.stop,
            "turns": self.turns,
            "usage": asdict(self.usage),
            "flush_enqueued": self.flush_enqueued,
            "archived": self.archived,
        }
