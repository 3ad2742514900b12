"""A thread's state: an app's own JSON and its tasks, which are kept, and the facts of a run, which are not."""

import threading
from collections import UserDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum, auto
from typing import Any, Final, Literal, Self, get_args

from threadkeep.errors import InvalidMessage
from threadkeep.model import JsonObject
from threadkeep.session.codecs.base import ToolDefinition, Usage
from threadkeep.strict_json import MAX_JSON_DEPTH, check_json

TaskStatus = Literal["pending", "in_progress", "completed"]

TASKS: Final = "tasks"
"""The key that tasks are stored under, beside the app's own."""

RESERVED: Final = frozenset(
    {
        "status",
        "version",
        "turns",
        TASKS,
        "tools",
        "systemPrompt",
        "fileTree",
        "inlineFiles",
        "virtualFsCtx",
        "totalInputTokens",
        "totalOutputTokens",
        "totalReasonTokens",
        "cachedWriteTokens",
        "cachedReadTokens",
    }
)
"""Keys that an app cannot set: they mean something else where a state is shown, here or in zeitlich."""


class Status(StrEnum):
    """What a run is about. Any may follow any: a terminal one can be left again."""

    RUNNING = auto()
    WAITING_FOR_INPUT = auto()
    COMPLETED = auto()
    FAILED = auto()
    CANCELLED = auto()

    @property
    def is_terminal(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


@dataclass(slots=True)
class Task:
    """One item of an agent's plan.

    Attributes:
        id: Unique among the tasks.
        subject: What is to be done.
        description: The same at length.
        active_form: What to show while it is being done ("Fixing the tests").
        status: `pending`, `in_progress` or `completed`.
        metadata: The app's own.
        blocked_by: Ids of tasks that must be completed before.
        blocks: Ids of tasks that wait for this one. Nothing keeps the two lists in step but whoever sets them.
    """

    id: str
    subject: str
    description: str = ""
    active_form: str = ""
    status: TaskStatus = "pending"
    metadata: dict[str, str] = field(default_factory=dict)
    blocked_by: list[str] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)

    def to_json(self) -> JsonObject:
        """A copy as it is stored, in zeitlich's keys."""
        return {key: _copied(getattr(self, name)) for key, name in _FIELDS.items()}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """A task as `to_json` gives it; only `id` and `subject` must be there.

        Raises:
            InvalidMessage: names the part that is no task's.
        """
        if not isinstance(value, dict) or not {"id", "subject"} <= value.keys() <= _FIELDS.keys():
            raise InvalidMessage("task", type(value).__name__, f"must be an object of {', '.join(_FIELDS)}")
        task = cls(**{_FIELDS[key]: _copied(part) for key, part in value.items()})
        _check_task(task)
        return task


_FIELDS: Final = {
    "id": "id",
    "subject": "subject",
    "description": "description",
    "activeForm": "active_form",
    "status": "status",
    "metadata": "metadata",
    "blockedBy": "blocked_by",
    "blocks": "blocks",
}


class State(UserDict[str, Any]):
    """A thread's state, used like a dict of JSON values under an app's own keys.

    What is set is checked at once; a value that is changed in place, as a list that grows, is saved all the same but
    does not raise `version`. Safe to use from several threads; values inside it are as safe as the app makes them.

    Raises (all that set values):
        InvalidMessage: a reserved key, or a value that is no JSON; nothing was changed.

    Attributes:
        turns: Model invocations of this run.
        system_prompt: Free for the app to note what the model was told; not stored here.
    """

    def __init__(self, stored: Mapping[str, Any] | None = None) -> None:
        """The state that `to_json` gave. Reserved keys are left as they are, for whoever stored them."""
        super().__init__()
        self.system_prompt: Any = None
        self._lock = threading.RLock()
        self.data, self._tasks = _read(stored or {})
        self._version = 0
        self._tools: list[ToolDefinition] = []
        self.begin_run()

    # --- as a dict --------------------------------------------------------------------------------------------------

    def __setitem__(self, key: str, value: Any) -> None:
        self._assign({key: value})

    def __delitem__(self, key: str) -> None:
        with self._lock:
            del self.data[key]
            self._version += 1

    def clear(self) -> None:
        """Remove the app's own keys, all at once; tasks stay."""
        with self._lock:
            self.data.clear()
            self._version += 1

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set keys, all or none; as `dict.update`."""
        self._assign(dict(*args, **kwargs))

    def merge(self, update: Mapping[str, Any]) -> None:
        """Set keys, all or none. `tasks`, as a mapping of ids to tasks or as `slice` has them, replaces all tasks."""
        changes = dict(update)
        tasks = tasks_from(changes.pop(TASKS)) if TASKS in changes else None
        self._assign(changes, tasks)

    def become(self, value: Mapping[str, Any]) -> None:
        """Put all of another state, or of the JSON of one, in the place of all that is here."""
        if value is self:
            return
        if not isinstance(value, Mapping):
            raise InvalidMessage("state", type(value).__name__, "must be an object (a dict)")
        custom, tasks = _read(value.to_json() if isinstance(value, State) else value)
        if not isinstance(value, State):
            _check_items(custom)
        with self._lock:
            self.data, self._tasks = custom, tasks
            self._version += 1

    def copy(self) -> Self:
        """A state of its own with the same keys and tasks, deeply copied; its run has not begun."""
        return type(self)(self.to_json())

    __copy__ = copy

    def __reduce__(self) -> tuple[type[Self], tuple[JsonObject]]:
        return type(self), (self.to_json(),)

    def __or__(self, other: Mapping[str, Any]) -> Self:  # type: ignore[override]  # keys are strings
        merged = self.copy()
        merged.update(other)
        return merged

    def __ror__(self, other: Mapping[str, Any]) -> Self:  # type: ignore[override]  # keys are strings
        return type(self)({**other, **self.to_json()})

    def __ior__(self, other: Mapping[str, Any]) -> Self:  # type: ignore[override]  # keys are strings
        self.update(other)
        return self

    def _assign(self, changes: dict[str, Any], tasks: "dict[str, Task] | None" = None) -> None:
        _check_items(changes)
        with self._lock:
            self.data.update(changes)
            if tasks is not None:
                self.data.pop(TASKS, None)
                self._tasks = tasks
            self._version += 1

    # --- what is kept -----------------------------------------------------------------------------------------------

    def to_json(self) -> JsonObject:
        """All that is kept, deeply copied: the app's own keys, and `tasks` as pairs of id and task if there are any.

        Raises:
            InvalidMessage: something that was changed in place is nested too deep.
        """
        with self._lock:
            custom, tasks = dict(self.data), self._task_pairs()
        return {**_copied(custom), **({TASKS: tasks} if tasks else {})}

    def slice(self) -> JsonObject:
        """The same, apart: `tasks` as pairs of id and task, and the app's own keys as `custom`."""
        with self._lock:
            return {TASKS: self._task_pairs(), "custom": _copied(self.data)}

    def current(self) -> JsonObject:
        """What there is to show of a run, as JSON: `status`, `version`, `turns`, `tools` and the app's own keys."""
        with self._lock:
            return {
                "status": str(self.status),
                "version": self.version,
                "turns": self.turns,
                "tools": [asdict(tool) for tool in self._tools],
                **_copied(self.data),
            }

    # --- tasks ------------------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> dict[str, Task]:
        """A dict of its own, by id, in the order in which they were first set."""
        with self._lock:
            return dict(self._tasks)

    def get_task(self, task_id: str) -> Task | None:
        return self._tasks.get(task_id)

    def set_task(self, task: Task) -> None:
        """Add a task, or replace the one with its id."""
        _check_task(task)
        with self._lock:
            if TASKS in self.data:
                rule = f"is no list of tasks but a value that was stored there; delete state[{TASKS!r}] first"
                raise InvalidMessage(f"state.{TASKS}", type(self.data[TASKS]).__name__, rule)
            self._tasks[task.id] = task
            self._version += 1

    def delete_task(self, task_id: str) -> bool:
        """Remove a task; whether there was one. What other tasks say of it stays."""
        with self._lock:
            found = self._tasks.pop(task_id, None) is not None
            self._version += found
            return found

    def _task_pairs(self) -> list[list[Any]]:
        return [[task_id, task.to_json()] for task_id, task in self._tasks.items()]

    # --- the run ----------------------------------------------------------------------------------------------------

    def begin_run(self) -> None:
        """Forget the run before: running, no turns, no tokens. The version goes on."""
        with self._lock:
            self._status = Status.RUNNING
            self.turns = 0
            self._usage = Usage()

    @property
    def status(self) -> Status:
        return self._status

    @property
    def is_running(self) -> bool:
        return self._status is Status.RUNNING

    @property
    def is_terminal(self) -> bool:
        return self._status.is_terminal

    def run(self) -> None:
        """Have the run go on, out of waiting too."""
        self._turn_into(Status.RUNNING)

    def wait(self) -> None:
        """Park the run: it ends after this turn, and the next one continues the thread."""
        self._turn_into(Status.WAITING_FOR_INPUT)

    def complete(self) -> None:
        self._turn_into(Status.COMPLETED)

    def fail(self) -> None:
        self._turn_into(Status.FAILED)

    def cancel(self) -> None:
        self._turn_into(Status.CANCELLED)

    def _turn_into(self, status: Status) -> None:
        with self._lock:
            self._status = status
            self._version += 1

    @property
    def version(self) -> int:
        """Rises with each key that is set or deleted, each task and each status; from 0, for this object alone."""
        return self._version

    def increment_version(self) -> None:
        """Tell those who wait for a newer version that there is one, as after a change in place."""
        with self._lock:
            self._version += 1

    def should_return_from_wait(self, last_version: int) -> bool:
        """Whether one who saw `last_version` has something new to see, or nothing more to wait for."""
        return self.version > last_version or self.is_terminal

    def increment_turns(self) -> None:
        with self._lock:
            self.turns += 1

    @property
    def usage(self) -> Usage:
        """Tokens of this run."""
        return self._usage

    def add_usage(self, usage: Usage) -> None:
        with self._lock:
            self._usage += usage

    @property
    def tools(self) -> list[ToolDefinition]:
        """The tools that the model was last told of."""
        return list(self._tools)

    def set_tools(self, tools: list[ToolDefinition]) -> None:
        self._tools = list(tools)


def tasks_from(value: Any) -> dict[str, Task]:
    """Tasks by id, from a mapping or from pairs of id and task; each a `Task` or its JSON.

    Raises:
        InvalidMessage: what is no task.
    """
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise InvalidMessage(f"state.{TASKS}", type(value).__name__, "must be a mapping, or pairs of id and task")
    tasks = {task_id: task if isinstance(task, Task) else Task.from_json(task) for task_id, task in pairs}
    for task_id, task in tasks.items():
        _check_task(task)
        if task.id != task_id:
            raise InvalidMessage(f"state.{TASKS}", ascii(task_id)[:80], "stands for a task with another id")
    return tasks


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)


def _read(stored: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Task]]:
    """The app's own keys and the tasks; what stands under `tasks` and is none is the app's own."""
    custom: dict[str, Any] = _copied(dict(stored))
    found = custom.get(TASKS)
    try:
        tasks = tasks_from(found) if isinstance(found, list) else None
    except InvalidMessage:
        tasks = None
    if tasks is not None:
        del custom[TASKS]
    return custom, tasks or {}


def _check_items(items: Mapping[str, Any]) -> None:
    for key, value in items.items():
        if not isinstance(key, str):
            raise InvalidMessage("state", f"key {ascii(key)[:40]}", "keys must be strings")
        if key in RESERVED:
            rule = "is a reserved key; " + ("use set_task or merge" if key == TASKS else "use another")
            raise InvalidMessage("state", repr(key), rule)
        check_json(value, f"state.{ascii(key)[1:-1][:40]}", 1)


def _check_task(task: Task) -> None:
    shown = ascii(task.id)[:80]
    if not isinstance(task.id, str) or not task.id:
        raise InvalidMessage("task id", shown, "must be a string and not empty")
    if task.status not in get_args(TaskStatus):
        raise InvalidMessage(f"task {shown}: status", ascii(task.status)[:40], f"must be one of {get_args(TaskStatus)}")
    for name, text in (("subject", task.subject), ("description", task.description), ("active_form", task.active_form)):
        if not isinstance(text, str):
            raise InvalidMessage(f"task {shown}: {name}", type(text).__name__, "must be a string")
    for name, ids in (("blocked_by", task.blocked_by), ("blocks", task.blocks)):
        if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
            raise InvalidMessage(f"task {shown}: {name}", type(ids).__name__, "must be a list of ids")
    if not isinstance(task.metadata, dict):
        raise InvalidMessage(f"task {shown}: metadata", type(task.metadata).__name__, "must be a dict")
    check_json(task.metadata, f"task {shown}: metadata")


def _copied(value: Any, depth: int = 0) -> Any:
    """A deep copy of JSON that other threads may be changing."""
    if depth > MAX_JSON_DEPTH:
        raise InvalidMessage("state", "nested too deep", f"at most {MAX_JSON_DEPTH} levels are kept")
    if isinstance(value, dict):
        return {key: _copied(inner, depth + 1) for key, inner in list(value.items())}
    if isinstance(value, list | tuple):
        return [_copied(inner, depth + 1) for inner in list(value)]
    return value
