"""Who acts on a thread, and the worlds they start from."""

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from tests.crash.sight import NOTHING, Content, pairs
from tests.crash.world import Life, Me, Part, Start, World
from threadkeep import Session
from threadkeep.errors import MessageNotFound, ThreadNotFound
from threadkeep.model import ThreadRef, fresh_mark
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.flush import read_and_seal
from threadkeep.tasks.lost_race import put_archive


def says(session: Session, me: Me, *said: str) -> None:
    with me.doing(lambda was: was.plus(*said)):
        session.append(*({"role": "user", "content": text} for text in said), ids=list(said))


def opened(me: Me) -> Session:
    """The thread is made only where there is none."""
    with me.doing(Life.begun, must=False):
        return me.world.plant.keep.open(me.world.ref.thread_id, create=True)


def append(me: Me) -> None:
    with opened(me) as session:
        says(session, me, me.name)


def truncate(me: Me) -> None:
    """Cuts at a message of the tail, or of the base; wherever it is."""
    with opened(me) as session, suppress(MessageNotFound), me.doing(lambda was: was.up_to("m2")):
        session.truncate("m2")


def edit(me: Me) -> None:
    """Says something else instead of the last message: there are as many as before, in the tail as well."""
    with opened(me) as session:
        with suppress(MessageNotFound), me.doing(lambda was: was.up_to("m3")):
            session.truncate("m3")
        says(session, me, me.name)


def replace(me: Me) -> None:
    with opened(me) as session, me.doing(lambda was: was.saying(me.name)):
        session.replace({"role": "user", "content": me.name}, ids=[me.name])


def save_state(me: Me) -> None:
    session = opened(me)
    session.state["by"] = me.name
    with me.doing(lambda was: was.with_state(pairs({**dict(was.content.state), "by": me.name}))):
        session.close()


def look_and_leave(me: Me) -> None:
    with me.world.plant.keep.open(me.world.ref.thread_id):
        pass


def shown(messages: Sequence[Any], state: Any) -> Content:
    return Content(tuple(message["content"] for message in messages), pairs(state))


def read(me: Me) -> None:
    me.reading()
    try:
        view = me.world.plant.keep.read(me.world.ref.thread_id)
    except ThreadNotFound:
        me.saw(NOTHING)
    else:
        me.saw(shown(view.messages, view.state))


def fork(me: Me) -> None:
    me.reading()
    try:
        session = me.world.plant.keep.fork(me.world.ref.thread_id)
    except ThreadNotFound:
        me.saw(NOTHING)
    else:
        me.world.forks.append(ThreadRef.of(session.id))
        me.saw(shown(session.messages, session.state.to_json()))


def overwrite(me: Me) -> None:
    with me.doing(Life.anew):
        session = me.world.plant.keep.new(me.world.ref.thread_id, overwrite=True)
    with session:
        says(session, me, me.name)


def erase(me: Me) -> None:
    """Asked for, and then done by the worker that takes its message."""
    me.erasing = True
    erasing = now(me.world.plant.keep._threads.begin_erase(me.world.ref))
    me.world.plant.run("erase_thread", me.world.ref, id="erase", request=erasing.request, upto=erasing.upto)


def task(name: str, **how: Any) -> Callable[[Me], None]:
    def act(me: Me) -> None:
        me.world.plant.run(name, me.world.ref, id=f"{name}-{secrets.token_hex(4)}", **how)

    return act


def sweep(me: Me) -> None:
    me.world.plant.run("sweep", None, id=f"sweep-{secrets.token_hex(4)}", force=True)


def asks(script: str) -> Callable[[Me], None]:
    """One script on the thread's keys, as time or memory pressure would act on them."""

    def act(me: Me) -> None:
        keys = me.world.stores.hot.keys(me.world.ref)
        now(me.world.stores.hot.link.run("EVAL", script, 4, keys.head, keys.base, keys.log, keys.ids))

    return act


def visit(me: Me) -> None:
    """The thread is brought, written to and evicted: Redis knows no more of it than before, the archive is newer."""
    for act in (task("hydrate_thread"), append, task("flush_thread", mode="evict")):
        act(me)


def append_and_die(me: Me) -> None:
    """A session appends, and the flush of it ends behind its PUT: the archive is newer than Redis knows."""
    append(me)
    stores, ref, attempt = me.world.stores, me.world.ref, fresh_mark()
    start = now(stores.flow.begin_flush(ref, attempt, "linger"))
    if start.status == "go" and start.head is not None:
        prepared = read_and_seal(stores, ref, start, start.head, attempt, whole=False)
        assert prepared is not None
        put_archive(stores, ref, prepared)


EXPIRE = "if redis.call('PTTL', KEYS[1]) > 0 then redis.call('UNLINK', unpack(KEYS)) end"
EVICT_ONE = "if redis.call('PTTL', KEYS[1]) > 0 then redis.call('UNLINK', KEYS[4]) end"
END_LEASE = "if redis.call('HGET', KEYS[1], 'lease') then redis.call('HSET', KEYS[1], 'lease_until', 1) end"

PARTS = {
    part.name: part
    for part in (
        Part("append", append),
        Part("truncate", truncate),
        Part("edit", edit),
        Part("replace", replace),
        Part("save state", save_state),
        Part("checkpoint", task("flush_thread", mode="checkpoint")),
        Part("linger", task("flush_thread", mode="linger")),
        Part("evict", task("flush_thread", mode="evict")),
        Part("hydrate", task("hydrate_thread")),
        Part("look and leave", look_and_leave),
        Part("read", read),
        Part("visit", visit),
        Part("append and die", append_and_die),
        Part("sweep", sweep),
        Part("erase", erase),
        Part("overwrite", overwrite),
        Part("fork", fork),
        Part("expiry", asks(EXPIRE)),
        Part("eviction of a part", asks(EVICT_ONE)),
        Part("end of lease", asks(END_LEASE)),
        Part("describe", task("describe_thread", question="q")),
    )
}
CORE = ("append", "truncate", "linger", "evict", "hydrate", "sweep", "erase", "overwrite")


def worlds(world: World) -> dict[str, Start]:
    """Made by what makes them in life, and kept."""
    plant, ref, made = world.plant, world.ref, dict[str, Start]()
    short, longer = Content(("m1", "m2"), pairs({"step": 1})), Content(("m1", "m2", "m3"), pairs({"step": 1}))
    plant.working(lambda: _begin(world))
    _without_messages(world)
    made["hot"] = world.kept(short)
    plant.run("flush_thread", ref, id="world", mode="linger")
    made["cached"] = world.kept(short)
    plant.run("flush_thread", ref, id="world", mode="evict")
    made["cold"] = world.kept(short)
    world.put_in_place(made["cached"])
    with plant.keep.open(ref.thread_id) as session:
        session.append({"role": "user", "content": "m3"}, ids=["m3"])
    _without_messages(world)
    made["dirty"] = world.kept(longer)
    plant.keep.delete(ref.thread_id)
    plant.settle(ref)
    made["erased"] = world.kept(NOTHING)
    return made


def _begin(world: World) -> None:
    with world.plant.keep.new(world.ref.thread_id) as session:
        session.append(*({"role": "user", "content": text} for text in ("m1", "m2")), ids=["m1", "m2"])
        session.state["step"] = 1


def _without_messages(world: World) -> None:
    world.plant.lose_messages()
    head = world.stores.hot.keys(world.ref).head
    now(world.stores.hot.link.run("HDEL", head, "flush_token", "flush_mode", "flush_at"))
