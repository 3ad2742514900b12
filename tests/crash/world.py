"""One thread put in place quickly for each run, who acts on it, and what must be true of it after every step."""

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import redis
from psycopg import sql

from tests.crash.plant import Plant
from tests.crash.sight import NOTHING, Content, Hot, Pairs, Sight, Stored, check_keys, understood
from threadkeep.errors import ThreadErased, ThreadkeepError
from threadkeep.model import StoredObject, ThreadRef
from threadkeep.storage.catalog_engine import database_url
from threadkeep.tasks.conf import QUEUES
from threadkeep.testing.faults import Step
from threadkeep.testing.footprints import footprint
from threadkeep.testing.schedule import Actor, Footprint

OF_NO_EFFECT = frozenset({"tries", "epoch", "epochs", "events", "broker"})
"""What is written and then makes no difference to anybody here: nobody dies, Redis keeps its memory, what is queued is
delivered in the end, and audit events are only read by people."""


@dataclass(frozen=True)
class Life:
    """What a thread is, and in which of its lives: one that is made anew, or replaced by a new one, is another."""

    content: Content
    number: int = 0

    @property
    def messages(self) -> tuple[str, ...]:
        if self.content.messages is None:
            raise LookupError("there is no thread")
        return self.content.messages

    def saying(self, *messages: str) -> "Life":
        return replace(self, content=replace(self.content, messages=messages))

    def plus(self, *messages: str) -> "Life":
        return self.saying(*self.messages, *messages)

    def up_to(self, message: str) -> "Life":
        return self.saying(*self.messages[: self.messages.index(message)])

    def with_state(self, state: Pairs) -> "Life":
        return replace(self, content=replace(self.content, messages=self.messages, state=state))

    def anew(self) -> "Life":
        return Life(Content(()), self.number + 1)

    def begun(self) -> "Life":
        """Made only where there is none."""
        return self.anew() if self.content == NOTHING else self

    def ended(self) -> "Life":
        return Life(NOTHING, self.number)


Effect = Callable[[Life], Life]


@dataclass(frozen=True)
class Start:
    """A world to start from: what the thread is in it, its keys as they are dumped, its object, and what refills the
    catalog."""

    life: Life
    keys: list[tuple[bytes, int, bytes]]
    found: tuple[StoredObject, bytes] | None
    refill: str


@dataclass(frozen=True)
class Part:
    """A role, and what is done in it."""

    name: str
    act: Callable[["Me"], Any]


class Me:
    """An actor during one run; says what it is about to do to the thread, so that this can be told from damage.

    Attributes:
        effect: What one of its next steps may do.
        done: Whether one has done it.
        undone: Whether an erasure took away what it did since, so that it may do it once more.
        erases: The life that it asked to erase, once it has.
        disturbed: Whether its steps may fail: then an error leaves open whether it was done.
        inside: Whether it acts in a session that is open already.
    """

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name = world, name
        self.effect: Effect | None = None
        self.done = self.undone = False
        self.erases: int | None = None
        self.erasing = False
        self.disturbed = self.inside = False
        self.seen: list[Content] = []

    @contextmanager
    def doing(self, effect: Effect, *, must: bool = True) -> Iterator[None]:
        """One step in here has this effect: exactly one if the call succeeds and it `must`, none if it fails."""
        self.effect, self.done, self.undone = effect, False, False
        try:
            yield
        except ThreadErased:
            raise  # if it was done before, it is gone as well
        except ThreadkeepError as error:
            if self.done and not self.disturbed:
                raise AssertionError(f"it was done, and then {type(error).__name__}: {error}") from error
            raise
        else:
            assert self.done or not must, "it was acknowledged and had no effect"
        finally:
            self.effect = None

    def reading(self) -> None:
        """From here on whatever the thread is will do as an answer."""
        self.seen = [self.world.life.content]

    def saw(self, found: Content) -> None:
        """What it was shown must have been true at some moment since it began to read."""
        assert found in self.seen, f"it was shown {found}, which never was"

    def wants(self, life: Life) -> Life | None:
        """What the thread is to become by it; None if that is nothing else than it is."""
        if self.effect is None or (self.done and not self.undone):
            return None
        try:
            return self.effect(life)
        except (LookupError, ValueError):
            return None


class World:
    """The stage: `start` puts a world in place, `stepped` and `ended` hold it to the promises.

    Attributes:
        ref: The thread.
        forks: Threads that were made of it.
        begin: What each run starts from.
        parts: Who acts.
        life: What the thread is, by what was done to it so far.
        thorough: Whether every run is followed to its very end, even if what it left is what another has left.
    """

    def __init__(self, plant: Plant) -> None:
        self.plant, self.stores = plant, plant.stores
        self.ref = ThreadRef.of(f"t-{secrets.token_hex(6)}")
        self.forks: list[ThreadRef] = []
        self.begin: Start | None = None
        self.parts: Sequence[Part] = ()
        self.thorough = False
        self.sight = Sight(plant.settings)
        self.names = self.stores.hot.keys(self.ref)
        self._broker = redis.Redis.from_url(plant.settings.broker_url)
        url = database_url(plant.settings).set(drivername="postgresql").render_as_string(hide_password=False)
        self._sql = psycopg.connect(url, autocommit=True)
        self._settled: set[str] = set()
        self._cast: list[Me] = []
        self._erased: list[str] = []
        self._marked, self._leased, self._born = False, False, 0
        self._stored: Stored | None = None
        self._asides: set[str] = set()
        self.life = Life(NOTHING)

    def close(self) -> None:
        for connection in (self.sight, self._broker, self._sql):
            connection.close()

    # --- worlds -----------------------------------------------------------------------------------------------------

    def kept(self, content: Content) -> Start:
        """What is there now, to be put in place again and again."""
        redis = self.sight.redis
        keys = [(key, redis.pttl(key), redis.dump(key)) for key in sorted(self._keys())]
        refill = [*map(self._refill, ("threads", "shard_epochs")), "DELETE FROM thread_events"]
        self._stored = self.sight.stored(self.ref)
        return Start(Life(content), keys, self.sight.cold.get(self.ref), "; ".join(refill))

    def _refill(self, table: str) -> str:
        found = self._sql.execute(f"SELECT coalesce(json_agg(t), '[]')::text FROM {table} t").fetchone()
        rows = sql.Literal(found[0]).as_string(self._sql)
        return f"DELETE FROM {table}; INSERT INTO {table} SELECT * FROM json_populate_recordset(null::{table}, {rows})"

    def put_in_place(self, start: Start) -> None:
        with self.sight.redis.pipeline() as pipe:
            if left := self._keys():
                pipe.unlink(*left)
            for key, ttl, dump in start.keys:
                pipe.restore(key, max(ttl, 0), dump)
            pipe.execute()
        self.plant.lose_messages()
        self._sql.execute(start.refill)
        self._put_object(start.found)

    def _put_object(self, found: tuple[StoredObject, bytes] | None) -> None:
        bucket, names = self.sight.cold.bucket, self.sight.cold.keys
        if self._asides:
            bucket.purge(names.conflicts(self.ref), lambda version: True)
        for fork in self.forks:
            bucket.delete(names.thread(fork))
        if found is None:
            bucket.delete(names.thread(self.ref))
        elif self._stored != understood(found):
            bucket.put(names.thread(self.ref), found[1], found[0].meta)
        self.forks, self._asides, self._stored = [], set(), understood(found)

    def _keys(self) -> list[bytes]:
        return list(self.sight.redis.scan_iter(f"{self.sight.prefix}:*", count=10_000))

    # --- the stage --------------------------------------------------------------------------------------------------

    def start(self) -> list[Actor]:
        assert self.begin is not None
        self.put_in_place(self.begin)
        self.life, self._marked, self._leased, self._erased = self.begin.life, False, False, []
        self._born = self.sight.hot(self.ref).born
        self._cast = [Me(self, f"{part.name} {number}") for number, part in enumerate(self.parts)]
        return [
            Actor(part.name, lambda part=part, me=me: part.act(me), idle=self._help)
            for part, me in zip(self.parts, self._cast, strict=True)
        ]

    def _help(self) -> bool:
        """Whoever waits is the worker meanwhile that brings the thread."""
        self.plant.run("hydrate_thread", self.ref, id=f"help-{secrets.token_hex(4)}")
        return True

    def stepped(self, number: int, step: Step) -> None:
        if not touched(step).writes:
            return
        if step.name.endswith("conflicts"):
            self._asides = self.sight.asides(self.ref)
        elif step.kind == "s3":
            self._look_at_object()
        hot = self.sight.hot(self.ref)
        assert hot.content is not None or hot.erasing or not self._leased, "a leased thread has left Redis"
        self._leased = hot.leased
        self._follow(self._cast[number], hot)
        check_keys(hot, self._stored)

    def ended(self, outcomes: Sequence[Any]) -> None:
        left = self._left()
        if self.thorough or left not in self._settled:
            self.settle()
            self._settled.add(left)

    # --- what must be true after every step -------------------------------------------------------------------------

    def _follow(self, me: Me, hot: Hot) -> None:
        """The thread is what it was, or what the actor whose step it was said that it would make of it."""
        if hot.erasing != self._marked:
            self._follow_mark(me, hot)
        found = self._found(hot)
        born_anew = hot.content is not None and hot.born != self._born
        self._born = self._born if hot.content is None else hot.born
        wanted = me.wants(self.life)
        if hot.erasing or (found == self.life.content and not (born_anew and wanted and wanted.content == found)):
            return
        assert wanted is not None, f"{me.name} made {found} of {self.life.content}"
        assert found == wanted.content, f"{me.name} made {found} of {self.life.content}, not {wanted.content}"
        self._become(wanted)
        me.done, me.undone = True, False

    def _follow_mark(self, me: Me, hot: Hot) -> None:
        """A mark is set only by who was asked to erase, and ends the life that there was when it was asked."""
        self._marked = hot.erasing
        if not hot.erasing:
            return
        assert me.erasing, f"{me.name} marked the thread for erasure"
        me.erases = self.life.number if me.erases is None else me.erases
        if self.life.number <= me.erases and self.life.content != NOTHING:
            self._erased += self.life.messages
            self._become(self.life.ended())
            for each in self._cast:
                each.undone = each.done

    def _become(self, life: Life) -> None:
        self.life = life
        for me in self._cast:
            me.seen.append(life.content)

    def _found(self, hot: Hot) -> Content:
        """What somebody would get who opens the thread now."""
        return hot.content or (self._stored and self._stored.content) or NOTHING

    def _look_at_object(self) -> None:
        before, after = self._stored, self.sight.stored(self.ref)
        self._stored = after
        if before is None or before == after:
            return
        assert after is not None, "the archive object is gone"
        if after.rev < before.rev:
            assert before.attempt in self._asides, f"the archive went back from {before.rev} to {after.rev}"

    # --- what must be true in the end -------------------------------------------------------------------------------

    def settle(self) -> None:
        """Leases end, queues empty, sweeps come; then the thread is evicted and brought back."""
        self._pass_time()
        try:
            self.plant.settle(self.ref, *self.forks)
        finally:
            self._asides = self.sight.asides(self.ref)
            self._look_at_object()
        self._check_settled(self.sight.hot(self.ref))
        self._pass_time()
        self.plant.run("flush_thread", self.ref, id="last", mode="evict")
        assert self.sight.hot(self.ref).content is None, "what is clean and unleased did not leave"
        self.plant.run("hydrate_thread", self.ref, id="last")
        assert (self.sight.hot(self.ref).content or NOTHING) == self.life.content, "it came back otherwise"
        self._check_erased()

    def _pass_time(self) -> None:
        """Leases end, and nobody waits any more for a copy that was brought."""
        for field in ("lease_until", "keep_until"):
            if self.sight.redis.hget(self.names.head, field):
                self.sight.redis.hset(self.names.head, field, 1)

    def _check_settled(self, hot: Hot) -> None:
        assert not hot.erasing, "an erasure does not end"
        found = self._found(hot)
        assert found == self.life.content, f"in the end there is {found}, and should be {self.life.content}"
        assert hot.content is None or not hot.dirty, "something stays dirty"
        assert not hot.listed, "something stays in the index"
        for key in (f"{self.names.shard}owed", self.names.tries):
            assert not self.sight.redis.exists(key), f"{key} is not empty in the end"
        self._check_catalog()

    def _check_catalog(self) -> None:
        entry, there = self.stores.catalog.get(self.ref), self._stored
        if self.life.content == NOTHING:
            assert entry is None or entry.erased_at is not None, "the catalog lists a thread that is gone"
            return
        assert entry is not None, "the catalog does not know the thread"
        assert there is not None
        assert (entry.stat.etag, entry.stat.archived_rev) == (there.etag, there.rev), "the catalog is behind"
        told = entry.stat.count, entry.stat.tier
        assert told == (len(self.life.messages), "cold"), f"the catalog says {told} of {self.life.content}"
        assert entry.erased_at is None, "the catalog has a living thread for erased"

    def _check_erased(self) -> None:
        """Of what was erased nothing is anywhere, but in what is staged and expires."""
        if not self._erased:
            return
        assert not self._asides, "something of an erased thread lies under conflicts/"
        for key in self._keys():
            assert b":staged:" not in key or self.sight.redis.pttl(key) > 0, "what is staged stays for ever"

    def _left(self) -> str:
        """All that is there but for the names of marks and moments: what is equal here goes on equally."""
        names = self.names.all
        with self.sight.redis.pipeline() as pipe:
            for key in (names[0], names[4], names[6]):  # head, ticket, erasing
                pipe.hgetall(key)
            for key in (names[5], names[9]):  # index, owed
                pipe.zrange(key, 0, -1, withscores=True)
            found = [sorted(each.items() if isinstance(each, dict) else each) for each in pipe.execute()]
        hot = replace(self.sight.hot(self.ref), rev=0, archived=0)
        rows = self._sql.execute("SELECT to_jsonb(t) - 'stored_bytes' FROM threads t ORDER BY thread_id").fetchall()
        queued = [self._broker.llen(f"{self.plant.settings.broker_prefix}{queue}") for queue in QUEUES]
        return unnamed(repr((self.life, self._erased, found, hot, self._stored, len(self._asides), rows, queued)))


def touched(step: Step) -> Footprint:
    """What a step touches of what makes a difference here."""
    whole = footprint(step)
    return Footprint(whole.reads - OF_NO_EFFECT, whole.writes - OF_NO_EFFECT)


def unnamed(text: str) -> str:
    """Marks are numbered as they appear, revisions by their order; other moments, and compressed sizes, go."""
    text = re.sub(r"'base_bytes', b'\d+'|\d{4}-\d\d-\d\dT[\d:.+]+|(?<!\d)\d{13}(?!\d)", "", text)
    marks: dict[str, str] = {}
    text = re.sub(r"\b(?=\d*[a-f])[0-9a-f]{16,}\b", lambda found: marks.setdefault(found[0], f"<{len(marks)}>"), text)
    revisions = sorted(set(re.findall(r"(?<!\d)\d{16}(?!\d)", text)))
    return re.sub(r"(?<!\d)\d{16}(?!\d)", lambda found: f"<rev {revisions.index(found[0])}>", text)
