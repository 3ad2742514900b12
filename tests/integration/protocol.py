"""Stops a flush, a hydrate or an erase between two of its steps, to let something else happen there."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from threadkeep.model import ThreadRef
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.storage.parts import entries_of
from threadkeep.tasks.stores import Stores


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def messages_in(stores: Stores, ref: ThreadRef) -> list[Any]:
    """The bodies of a thread as Redis holds it."""
    contents = now(stores.hot.read(ref))
    assert contents is not None, f"{ref} is not in Redis"
    return [entry.body for entry in entries_of(contents, ref, limits=ReadLimits(10**9))]


class Racing:
    """Runs `meanwhile` once, just before the next `put` or `extend` of S3, or `settle` or `restore` of Redis."""

    def __init__(self, stores: Stores, step: str, meanwhile: Callable[[], Any]) -> None:
        self._owner: Any = stores.cold if step in ("put", "extend") else stores.flow
        self._step, self._meanwhile = step, meanwhile
        self._original = getattr(self._owner, step)
        self.happened = False

    def __enter__(self) -> Self:
        setattr(self._owner, self._step, self._raced)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        delattr(self._owner, self._step)
        assert error is not None or self.happened, f"no {self._step} came"

    def _raced(self, *args: Any, **kwargs: Any) -> Any:
        if not self.happened:
            self.happened = True
            self._meanwhile()
        return self._original(*args, **kwargs)
