"""One blocking API over `Threadkeep` and `AsyncThreadkeep`, so that a test is written once and run over both."""

import asyncio
import functools
import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from threadkeep import AsyncSession, AsyncThreadkeep, Threadkeep
from threadkeep.config import Settings
from threadkeep.model import fresh_id


class Face(ABC):
    """Every method of `Threadkeep`, by its name: `new`, `open`, `fork`, `read`, `stat`, `exists`, `flush`, `delete`…

    `new`, `open` and `fork` give an open session, which is a context manager; all of its methods and properties are
    there too, and block. What is handed in (models, tools, hooks) goes to the library as it is.

    Attributes:
        name: `sync` or `async`.
        keep: The `Threadkeep` or `AsyncThreadkeep` itself.
        settings: What it was made with.
    """

    name: str
    keep: Any

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._others = ExitStack()

    def __getattr__(self, name: str) -> Any:
        return self.finished(getattr(self.keep, name))

    @abstractmethod
    def finished(self, value: Any) -> Any:
        """A value of the library's as a test sees it: what would be awaited is done, at once or when called."""

    @abstractmethod
    def adapted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A plain function as this face's app would write it: itself, or a coroutine function.

        Either way it may call this face and its sessions: a coroutine runs the function in a thread.
        """

    def fresh_id(self) -> str:
        """An id that no other test has."""
        return f"{self.name}-{fresh_id(8)}"

    def tuned(self, **changes: Any) -> "Face":
        """This face over settings of which some differ; closed with this one."""
        return self._others.enter_context(type(self)(self.settings.model_copy(update=changes)))

    def gather(self, *thunks: Callable[[], Any], return_exceptions: bool = False) -> list[Any]:
        """Call all of them at once; their results in order, once all have ended.

        Raises:
            BaseException: the first that failed, in order, unless `return_exceptions` puts it among the results.
        """
        start = threading.Barrier(len(thunks))
        with ThreadPoolExecutor(len(thunks)) as pool:
            calls = [pool.submit(_after, start, thunk) for thunk in thunks]
        return [_outcome(call, return_exceptions) for call in calls]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._others.close()


class SyncFace(Face):
    """`Threadkeep` as it is."""

    name = "sync"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.keep = Threadkeep(settings)

    def finished(self, value: Any) -> Any:
        return value

    def adapted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.keep.close()


class AsyncFace(Face):
    """`AsyncThreadkeep` on an event loop of its own, which runs all the while, so that leases are renewed."""

    name = "async"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.keep = AsyncThreadkeep(settings)
        self._loop = LoopThread()

    def finished(self, value: Any) -> Any:
        if inspect.isawaitable(value):
            value = self._loop.run(value)
        if inspect.isroutine(value):
            return lambda *args, **kwargs: self.finished(self._loop.run(_called(value, *args, **kwargs)))
        return BlockingSession(self, value) if isinstance(value, AsyncSession) else value

    def adapted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(function, *args, **kwargs)

        return coroutine

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._loop.run(self.keep.close())
        self._loop.stop()


class BlockingSession:
    """An `AsyncSession` for a test without a loop; `session` is the session itself."""

    session: AsyncSession

    def __init__(self, face: AsyncFace, session: AsyncSession) -> None:
        vars(self).update(_face=face, session=session)

    def __getattr__(self, name: str) -> Any:
        return self._face.finished(getattr(self.session, name))

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.session, name, value)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._face.finished(self.session.__aexit__(kind, error, trace))


class LoopThread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), name="test-loop", daemon=True)
        self._thread.start()
        self._started.wait()

    async def _live(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await self._stopped.wait()

    def run(self, work: Awaitable[Any]) -> Any:
        """What `work` comes to; safe to call from any thread but the loop's own."""
        assert threading.current_thread() is not self._thread, "inside a coroutine, await the library's own methods"
        return asyncio.run_coroutine_threadsafe(_awaited(work), self._loop).result()

    def stop(self) -> None:
        """Cancel what is still running, and wait for the thread."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


async def _called(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a function comes to that is called inside the loop, as an app would."""
    value = function(*args, **kwargs)
    return await value if inspect.isawaitable(value) else value


def _after(start: threading.Barrier, thunk: Callable[[], Any]) -> Any:
    start.wait()
    return thunk()


def _outcome(call: Future[Any], return_exceptions: bool) -> Any:
    error = call.exception()
    if error is None:
        return call.result()
    if return_exceptions:
        return error
    raise error
