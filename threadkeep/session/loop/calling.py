"""How a run calls what an app gave it: at once or one after the other, with an event loop or without."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any, Final, Protocol, TypeVar

from threadkeep.storage.link import run_now

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, T]]

MAX_THREADS: Final = 32
"""Tools that a session without an event loop runs at once; those beyond wait for a thread."""


class Calling(Protocol):
    """What differs between a run with an event loop and one without."""

    async def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """What a function of the app's gives, once it is there: awaitables are awaited.

        Raises:
            Whatever the function raises; a `StopIteration`, which no coroutine can raise, as a `RuntimeError`.
        """
        ...

    async def together(self, works: Sequence[Work[T]]) -> list[T | Exception]:
        """Do works of the core's at once; in their order, what each gave or raised.

        Raises:
            BaseException: the first in order that is a cancellation (see `is_cancellation`), once all have ended; or
                what interrupted the wait.
        """
        ...

    def blocking(self, work: Work[None]) -> None:
        """Finish a work of the core's in a thread in which a tool runs."""
        ...

    async def settled(self, future: "Future[T]") -> T:
        """What a future gives that another tool's thread, or another task, will settle."""
        ...


class SyncCalling:
    """Without an event loop: the core's coroutines never suspend, and tools that run at once have a thread each."""

    async def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        given = function(*args, **kwargs)
        return _finished(given) if inspect.isawaitable(given) else given

    async def together(self, works: Sequence[Work[T]]) -> list[T | Exception]:
        if len(works) == 1:
            return [_caught(works[0])]
        pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="threadkeep-tool")
        try:
            futures = [pool.submit(copy_context().run, _done, work) for work in works]
            wait(futures)
        finally:  # an interrupted wait leaves its tools behind: they cannot be stopped, and nobody waits for them
            pool.shutdown(wait=False, cancel_futures=True)
        return [_outcome(future) for future in futures]

    def blocking(self, work: Work[None]) -> None:
        run_now(work())

    async def settled(self, future: "Future[T]") -> T:
        return future.result()


class AsyncCalling:
    """With an event loop: coroutine functions are awaited, all others run in a thread, so that none blocks the loop.

    Made inside the loop that it belongs to.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if is_async(function):
            return await function(*args, **kwargs)
        given = await asyncio.to_thread(never_stopping, function, *args, **kwargs)
        return await given if inspect.isawaitable(given) else given

    async def together(self, works: Sequence[Work[T]]) -> list[T | Exception]:
        # When this is cancelled, gather cancels all of them and waits for them to end before it says so.
        outcomes = await asyncio.gather(*(work() for work in works), return_exceptions=True)
        return [_checked(outcome) for outcome in outcomes]

    def blocking(self, work: Work[None]) -> None:
        """Raises `RuntimeError` on the event loop itself, which would wait for itself for ever."""
        if _loop_is_running_here():
            raise RuntimeError("this would block the event loop that it waits for; make the tool's handler `async def`")
        asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    async def settled(self, future: "Future[T]") -> T:
        return await asyncio.shield(asyncio.wrap_future(future))


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine; objects are as their `__call__`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def is_cancellation(error: BaseException) -> bool:
    """Whether an error asks the program to stop, and so must never be taken for a tool's failure.

    Celery's soft time limit is an `Exception`, and is known by its name: Celery need not be there.
    """
    if not isinstance(error, Exception):
        return True
    return any(kind.__name__ == "SoftTimeLimitExceeded" for kind in type(error).__mro__)


def _done(work: Work[T]) -> T:
    return run_now(work())


def _caught(work: Work[Any]) -> Any:
    try:
        return _done(work)
    except Exception as error:  # noqa: BLE001  handed to the caller, in the place of a result
        return _checked(error)


def _outcome(future: "Future[Any]") -> Any:
    error = future.exception()
    return future.result() if error is None else _checked(error)


def _checked(outcome: Any) -> Any:
    if isinstance(outcome, BaseException) and is_cancellation(outcome):
        raise outcome
    return outcome


def never_stopping(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """A future cannot carry a `StopIteration`: whoever awaits it would wait for ever."""
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError(f"{function!r} raised StopIteration") from error


def _finished(awaitable: Awaitable[Any]) -> Any:
    """What an awaitable gives, on a loop of its own; in a thread of its own where a loop is running already."""
    if not _loop_is_running_here():
        return asyncio.run(_awaited(awaitable))
    pool = ThreadPoolExecutor(1, thread_name_prefix="threadkeep-loop")
    try:
        return pool.submit(copy_context().run, asyncio.run, _awaited(awaitable)).result()
    finally:
        pool.shutdown(wait=False)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _loop_is_running_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
