"""What a run is asked for, checked before anything is read or written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from threadkeep.errors import InvalidMessage
from threadkeep.session.loop.hooks import check_hooks

MAX_RUN_ID: Final = 400
"""Characters: ids of messages are made of the run's."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run was asked for; see `Session.run`.

    Raises:
        InvalidMessage: a limit or an id that no run can have; nothing was read or written.
    """

    model: Callable[[dict[str, Any]], Any]
    run_id: str
    input: Any = None
    tools: Sequence[Any] = ()
    max_turns: int = 50
    parallel: bool = True
    hooks: Any = None
    agent_name: str = "agent"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    wait_flush: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.max_turns, int) or isinstance(self.max_turns, bool) or self.max_turns < 0:
            raise InvalidMessage("max_turns", ascii(self.max_turns)[:80], "must be a whole number, 0 or more")
        if not isinstance(self.run_id, str) or not 0 < len(self.run_id) <= MAX_RUN_ID:
            raise InvalidMessage("run_id", ascii(self.run_id)[:80], f"must be a string of 1 to {MAX_RUN_ID} characters")
        check_hooks(self.hooks)
