"""What one user of an app does, over and over: open a thread, say something, leave. Written once for both faces.

Over a `Threadkeep` no call suspends, so `run_now` runs a lane as a thread; over an `AsyncThreadkeep` it is a task.
"""

import inspect
import random
import traceback
from collections.abc import Callable
from typing import Any, Final

from tests.chaos.journal import Journal
from tests.chaos.messages import body_of
from threadkeep.errors import BrokerUnavailable, StoreUnavailable, ThreadkeepError
from threadkeep.model import Entry, ThreadRef
from threadkeep.storage.hot import HotTier

TRIES: Final = 4
"""How often an append without an answer is sent, before the next session has to repeat it."""
FORKS: Final = 2
"""Forks that one lane makes."""


class Lane:
    """One user.

    Args:
        keep: A `Threadkeep` or an `AsyncThreadkeep`.
        hot: The hot tier over the same kind of link; tells whether a thread is cold before it is opened.
        journal: The app's.
        name: Unlike that of any other lane, ever: the ids of its messages and forks start with it.
        pool: Threads that all apps share.
        stopping: Whether it should end.
    """

    def __init__(
        self, keep: Any, hot: HotTier, journal: Journal, name: str, pool: list[str], stopping: Callable[[], bool]
    ) -> None:
        self._keep, self._hot, self._journal, self._stopping = keep, hot, journal, stopping
        self._name, self._pool, self._forks = name, pool, list[str]()
        self._rng = random.Random(name)
        self._said = 0
        self._debts: dict[str, list[list[str]]] = {}

    async def live(self) -> None:
        """Visit threads until it is time to stop."""
        while not self._stopping():
            try:
                await self._visit()
            except ThreadkeepError:
                await self.pause(0.2, 0.6)
            except Exception:  # noqa: BLE001  the journal has it, and the checker will not let it pass
                await self.pause(1.0, 1.0)
            await self.pause(0.0, 0.8)

    async def _visit(self) -> None:
        thread = self._rng.choice([*self._pool, *self._forks])
        match self._rng.choices(("talk", "read", "stat", "fork"), (84, 9, 3, 4))[0]:
            case "read":
                await self._read(thread)
            case "stat":
                await self.attempt("stat", thread, lambda: self._keep.stat(thread), _stat_facts)
            case "fork" if len(self._forks) < FORKS:
                await self._fork(thread)
            case _:
                await self._talk(thread)

    # --- sessions ---------------------------------------------------------------------------------------------------

    async def _talk(self, thread: str) -> None:
        cold, create = await self._is_cold(thread), thread in self._pool
        wait = self._rng.choice((0.0, 0.0, 1.0))
        session = await self.attempt(
            "open", thread, lambda: self._keep.open(thread, create=create, wait=wait), _facts, cold=cold, create=create
        )
        await self._use(thread, session)

    async def _fork(self, source: str) -> None:
        view = await self._read(source)
        before = self._rng.choice([None, *(entry.id for entry in view.entries)])
        target = f"fork-{self._name}-{len(self._forks)}"
        self._forks.append(target)
        session = await self.attempt(
            "fork",
            target,
            lambda: self._keep.fork(source, id=target, before=before),
            _facts,
            source=source,
            before=before,
        )
        await self._use(target, session)

    async def _use(self, thread: str, session: Any) -> None:
        talk = Talk(self, thread, session, self._rng)
        try:
            await talk.look(first=True)
            while self._debts.get(thread):
                await talk.append(self._debts[thread][0])
                self._debts[thread].pop(0)
            for _ in range(self._rng.randint(1, 4)):
                await talk.step()
                await self.pause(0.0, 0.1)
        except ThreadkeepError:
            pass  # the journal has it; leaving is tried all the same
        if self._rng.random() > 0.03:  # else the app forgets to, and its lease ends by itself
            await talk.leave()

    async def _read(self, thread: str) -> Any:
        return await self.attempt("read", thread, lambda: self._keep.read(thread), _view_facts)

    # --- for `Talk` -------------------------------------------------------------------------------------------------

    def fresh_ids(self) -> list[str]:
        """Ids of one to five new messages."""
        start, self._said = self._said, self._said + self._rng.randint(1, 5)
        return [f"{self._name}-{number}" for number in range(start, self._said)]

    def owe(self, thread: str, ids: list[str]) -> None:
        """Have the next session of this thread send these messages again."""
        if ids not in self._debts.setdefault(thread, []):
            self._debts[thread].append(ids)

    async def attempt(
        self, do: str, thread: str, work: Callable[[], Any], told: Callable[[Any], dict[str, Any]], **intent: Any
    ) -> Any:
        """Do something, with what was meant and what came of it in the journal; errors go on."""
        number = self._journal.begin(do, thread, **intent)
        try:
            value = await done(work())
        except ThreadkeepError as error:
            self._journal.end(number, error=type(error).__name__, text=str(error)[:300])
            raise
        except Exception as error:
            self._journal.end(number, error=type(error).__name__, unexpected=traceback.format_exc()[-2000:])
            raise
        self._journal.end(number, **told(value))
        return value

    async def pause(self, least: float, most: float) -> None:
        await self._hot.link.pause(self._rng.uniform(least, most))

    async def _is_cold(self, thread: str) -> bool | None:
        try:
            return (await self._hot.look(ThreadRef.of(thread))).head is None
        except ThreadkeepError:
            return None


class Talk:
    """One open session of a lane."""

    def __init__(self, lane: Lane, thread: str, session: Any, rng: random.Random) -> None:
        self._lane, self._thread, self._session, self._rng = lane, thread, session, rng
        self._state: int | None = None

    async def look(self, *, first: bool = False) -> None:
        """Read all messages, and at first the state as it was found."""

        def told(entries: list[Entry]) -> dict[str, Any]:
            state = {"state": self._session.state.get("n")} if first else {}
            return {"rev": self._session.rev, **seen(entries), **state}

        await self._lane.attempt("look", self._thread, lambda: self._session.entries, told)

    async def step(self) -> None:
        """Mostly say something, at times something rarer."""
        steps = {self._say: 62, self._think: 13, self._checkpoint: 8, self.look: 7, self._truncate: 8, self._replace: 2}
        await self._rng.choices(list(steps), list(steps.values()))[0]()

    async def append(self, ids: list[str]) -> None:
        """Send messages until they are acknowledged; if they never are, the next session sends them again."""
        try:
            await self._appended(ids)
        except ThreadkeepError:
            self._lane.owe(self._thread, ids)
            raise

    async def leave(self) -> None:
        """What the end of the `with` block does."""
        await self._write("leave", lambda: self._session.close(), state=self._state)  # noqa: PLW0108  made when called

    async def _say(self) -> None:
        await self.append(self._lane.fresh_ids())

    async def _appended(self, ids: list[str]) -> None:
        bodies = [body_of(message_id) for message_id in ids]
        for turn in range(TRIES):
            try:
                await self._write("append", lambda: self._session.append(*bodies, ids=ids), ids=ids, turn=turn)
            except (StoreUnavailable, BrokerUnavailable):
                if turn + 1 == TRIES:
                    raise
                await self._lane.pause(0.2, 0.8)
            else:
                return

    async def _think(self) -> None:
        self._state = self._rng.randrange(10**9)
        self._session.state["n"] = self._state

    async def _checkpoint(self) -> None:
        wait = self._rng.choice((None, 2.0))
        await self._write("checkpoint", lambda: self._session.checkpoint(wait=wait), state=self._state)

    async def _truncate(self) -> None:
        entries = await done(self._session.entries)
        if len(entries) < 3:
            return
        at = len(entries) // 2 if len(entries) > 60 else self._rng.randrange(max(0, len(entries) - 8), len(entries))
        await self._write("truncate", lambda: self._session.truncate(entries[at].id), id=entries[at].id)

    async def _replace(self) -> None:
        ids = self._lane.fresh_ids()
        bodies = [body_of(message_id) for message_id in ids]
        await self._write("replace", lambda: self._session.replace(*bodies, ids=ids), ids=ids)

    async def _write(self, do: str, work: Callable[[], Any], **intent: Any) -> None:
        session = self._session
        await self._lane.attempt(do, self._thread, work, lambda _: _facts(session), base=session.rev, **intent)


async def done(value: Any) -> Any:
    """A value of either face: what an `AsyncThreadkeep` gives is awaited."""
    return await value if inspect.isawaitable(value) else value


def seen(entries: list[Entry]) -> dict[str, Any]:
    """Ids of messages, and of those whose body is not what was sent."""
    damaged = [entry.id for entry in entries if entry.body != body_of(entry.id)]
    return {"ids": [entry.id for entry in entries], "damaged": damaged}


def _facts(session: Any) -> dict[str, Any]:
    return {"rev": session.rev, "count": session.count}


def _view_facts(view: Any) -> dict[str, Any]:
    return {"rev": view.rev, **seen(view.entries), "state": (view.state or {}).get("n")}


def _stat_facts(stat: Any) -> dict[str, Any]:
    return {"rev": stat.rev, "tier": stat.tier}
