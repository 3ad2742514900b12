"""Functions of an app are called with an event loop and without, and whoever asks to stop is obeyed."""

import asyncio
import contextvars
import functools
import signal
import threading

import pytest

from tests.waiting import until
from threadkeep.session.loop.calling import MAX_THREADS, AsyncCalling, SyncCalling, is_async, is_cancellation
from threadkeep.storage.link import run_now

MARK = contextvars.ContextVar("mark", default="none")


def finish(face, work):
    """What `work(calling)` gives, over one way of calling."""
    if face == "sync":
        return run_now(work(SyncCalling()))

    async def main():
        return await work(AsyncCalling())

    return asyncio.run(main())


@pytest.fixture(params=["sync", "async"])
def face(request):
    return request.param


def works(calling, *functions):
    return [functools.partial(calling.call, function) for function in functions]


def together(face, *functions):
    return finish(face, lambda calling: calling.together(works(calling, *functions)))


async def later(value):
    await asyncio.sleep(0)
    return value


class Later:
    async def __call__(self, value):
        return await later(value)


class Awaitable:
    def __init__(self, value):
        self._value = value

    def __await__(self):
        return later(self._value).__await__()


# --- one function ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [lambda value: value, later, Later(), functools.partial(later), lambda value: later(value + 0), Awaitable],
    ids=["function", "coroutine function", "object", "partial", "function that gives a coroutine", "awaitable"],
)
def test_what_is_awaitable_is_awaited(face, function):
    assert finish(face, lambda calling: calling.call(function, 5)) == 5


def test_arguments_come_as_they_are_given_whatever_their_names(face):
    def take(*args, **kwargs):
        return args, kwargs

    given = finish(face, lambda calling: calling.call(take, 1, function=2, self=3, args=4))
    assert given == ((1,), {"function": 2, "self": 3, "args": 4})


def test_an_error_comes_as_it_was_raised(face):
    def fail():
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        finish(face, lambda calling: calling.call(fail))


def test_a_stop_iteration_leaves_nobody_waiting(face):
    with pytest.raises(RuntimeError, match="StopIteration"):
        finish(face, lambda calling: calling.call(next, iter(())))


def test_without_a_loop_a_plain_function_runs_where_it_is_called():
    assert finish("sync", lambda calling: calling.call(threading.get_ident)) == threading.get_ident()


def test_with_a_loop_a_plain_function_does_not_block_it():
    async def main():
        calling, loops_turn = AsyncCalling(), threading.Event()
        call = asyncio.create_task(calling.call(loops_turn.wait, 20))
        asyncio.get_running_loop().call_soon(loops_turn.set)
        return await call

    assert asyncio.run(main())


def test_without_a_loop_of_its_own_a_session_works_where_a_loop_is_running():
    """As in a notebook: the coroutine gets a loop in another thread, and what the app put in its context."""

    async def who():
        await asyncio.sleep(0)
        return threading.get_ident(), MARK.get()

    async def notebook():
        MARK.set("mine")
        return run_now(SyncCalling().call(who))

    thread, mark = asyncio.run(notebook())
    assert (thread != threading.get_ident(), mark) == (True, "mine")


@pytest.mark.parametrize(
    ("function", "expected"),
    [(later, True), (Later(), True), (functools.partial(later), True), (len, False), (lambda: later(1), False)],
)
def test_a_function_is_async_if_calling_it_gives_a_coroutine_for_certain(function, expected):
    assert is_async(function) is expected


# --- several at once ------------------------------------------------------------------------------------------------


def test_results_and_errors_come_in_order(face):
    def fail():
        raise LookupError("mine")

    one, two, three = together(face, lambda: "one", fail, lambda: later("three"))
    assert (one, three) == ("one", "three")
    assert (type(two), str(two)) == (LookupError, "mine")
    [alone] = together(face, fail)
    assert type(alone) is LookupError
    assert together(face) == []


def test_as_many_run_at_once_as_there_are_threads():
    everyone = threading.Barrier(MAX_THREADS, timeout=30)
    assert len(together("sync", *[everyone.wait] * (MAX_THREADS + MAX_THREADS))) == 2 * MAX_THREADS
    assert not everyone.broken


def test_coroutine_functions_run_at_once_on_one_loop():
    async def meet(mine, others):
        mine.set()
        await asyncio.wait_for(others.wait(), 20)
        return asyncio.get_running_loop()

    async def main():
        calling, one, two = AsyncCalling(), asyncio.Event(), asyncio.Event()
        both = works(calling, functools.partial(meet, one, two), functools.partial(meet, two, one))
        return await calling.together(both), asyncio.get_running_loop()

    loops, mine = asyncio.run(main())
    assert loops == [mine, mine]


def test_one_alone_runs_where_it_is_called_without_a_loop():
    assert together("sync", threading.get_ident) == [threading.get_ident()]


def test_each_sees_the_context_of_the_app(face):
    token = MARK.set("mine")
    try:
        assert together(face, MARK.get, MARK.get) == ["mine", "mine"]
    finally:
        MARK.reset(token)


def test_what_one_sets_in_its_context_no_other_sees(face):
    has_set = threading.Event()

    def setting():
        MARK.set("changed")
        has_set.set()

    def looking():
        assert has_set.wait(20)
        return MARK.get()

    assert together(face, setting, looking) == [None, "none"]
    assert MARK.get() == "none"


# --- stopping -------------------------------------------------------------------------------------------------------


class SoftTimeLimitExceeded(Exception):
    """Called as Celery's is, of which ours may be a subclass."""


class Ours(SoftTimeLimitExceeded):
    pass


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyboardInterrupt(), True),
        (SystemExit(), True),
        (asyncio.CancelledError(), True),
        (GeneratorExit(), True),
        (SoftTimeLimitExceeded(), True),
        (Ours(), True),
        (TimeoutError(), False),
        (ValueError(), False),
    ],
)
def test_what_asks_to_stop_is_told_from_what_went_wrong(error, expected):
    assert is_cancellation(error) is expected


@pytest.mark.parametrize("kind", [SystemExit, SoftTimeLimitExceeded, asyncio.CancelledError])
@pytest.mark.parametrize("count", [1, 2])
def test_one_that_asks_to_stop_stops_them_all_once_they_have_ended(kind, count):
    ended = []

    def stop():
        raise kind

    with pytest.raises(kind):
        together("sync", stop, *[lambda: ended.append(True)] * (count - 1))
    assert len(ended) == count - 1


class Watched(list):
    """Works that say when all of them have been handed over."""

    def __init__(self, works):
        super().__init__(works)
        self.handed_over = threading.Event()

    def __iter__(self):
        yield from super().__iter__()
        self.handed_over.set()


def test_an_interrupted_wait_leaves_its_functions_behind():
    """What a signal's handler raises in the waiting thread: Ctrl-C, or Celery's soft time limit."""
    running, released, begun = threading.Barrier(MAX_THREADS + 1, timeout=30), threading.Event(), []

    def endless():
        begun.append(threading.current_thread())
        running.wait()
        released.wait(30)

    def interrupt(number, frame):
        raise SoftTimeLimitExceeded

    calling = SyncCalling()
    many = Watched(works(calling, *[endless] * (MAX_THREADS + 5)))

    def send():
        running.wait()
        many.handed_over.wait(20)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        with pytest.raises(SoftTimeLimitExceeded):
            run_now(calling.together(many))
        assert all(thread.is_alive() for thread in begun)
    finally:
        signal.signal(signal.SIGUSR1, before)
        sender.join()
        released.set()
    until(lambda: not any(thread.is_alive() for thread in begun))
    assert len(begun) == MAX_THREADS


def test_a_cancelled_wait_cancels_coroutines_and_waits_for_them():
    ended = []

    async def patient(name):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    async def main():
        calling = AsyncCalling()
        both = works(calling, functools.partial(patient, "one"), functools.partial(patient, "two"))
        waiting = asyncio.create_task(calling.together(both))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return sorted(ended)

    assert asyncio.run(main()) == ["one", "two"]


# --- the way back into the core -------------------------------------------------------------------------------------


def test_a_thread_can_finish_a_work_of_the_core(face):
    done = []

    async def work():
        done.append("core")

    async def use(calling):
        await calling.call(lambda: calling.blocking(work))

    finish(face, use)
    assert done == ["core"]


def test_a_loop_is_never_made_to_wait_for_itself():
    async def work():
        """Never begun."""

    async def use(calling):
        calling.blocking(work)

    with pytest.raises(RuntimeError, match="make the tool's handler `async def`"):
        finish("async", use)


def test_a_loop_is_needed_to_call_with_one():
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncCalling()
