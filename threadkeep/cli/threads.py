"""`flush` and `hydrate`: have workers move a thread, or all that are idle."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from threadkeep.cli.exits import refuse
from threadkeep.cli.options import Namespace, ThreadId, Wait, parse_age
from threadkeep.cli.output import say, visible

if TYPE_CHECKING:
    from threadkeep.model import ThreadRef
    from threadkeep.tasks.stores import Stores

commands = typer.Typer()
PANEL = "Threads"


@commands.command(rich_help_panel=PANEL)
def flush(
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="The thread's id.", show_default=False)] = None,  # noqa: A002
    namespace: Namespace = None,
    idle: Annotated[
        str | None,
        typer.Option(
            "--idle",
            metavar="AGE",
            help="Instead of one, all that Redis alone has the newest of and that are unchanged for so long: 90s, 12h.",
            show_default=False,
        ),
    ] = None,
    wait: Wait = None,
    force: Annotated[
        bool, typer.Option("--force", help="Try a thread again that was set aside because its flushes died.")
    ] = False,
) -> None:
    """Have a thread archived, and evicted from Redis unless it is in use; or all threads that are idle.

    `threadkeep flush ticket-42 --wait 30`

    `threadkeep flush --idle 1h --wait 600`
    """
    if (id is None) == (idle is None):
        raise typer.BadParameter("name a thread, or say --idle AGE")
    if idle is not None:
        from threadkeep.cli.idle import flush_idle

        flush_idle(parse_age(idle), namespace, wait)
    else:
        _flush_one(str(id), namespace, wait, force=force)


def _flush_one(thread_id: str, namespace: str | None, wait: float | None, *, force: bool) -> None:
    from threadkeep.cli.stores import address, opened, threads_of
    from threadkeep.model import fresh_mark
    from threadkeep.storage.link import run_now as now

    with opened() as stores:
        ref = address(stores.settings, thread_id, namespace)
        _check_set_aside(stores, ref, "flush", force=force)
        threads, token = threads_of(stores), fresh_mark()
        seen = now(stores.hot.look(ref))
        match now(stores.hot.request_flush(ref, "evict", token)):
            case "enqueue":
                now(threads.enqueuer.marked_flush(stores.hot, ref, "evict", token))
                say(f"Queued a flush of {visible(str(ref))}.")
            case "coalesced":
                say(f"A flush of {visible(str(ref))} is queued already.")
            case "clean":
                say(f"Nothing new to archive. {_whereabouts(stores, ref)}")
                return
            case "erasing":
                raise refuse(f"{visible(str(ref))} is being erased.")
            case _:
                _require_archived(stores, ref)
                say(f"Nothing to archive: {visible(str(ref))} is cold.")
                return
        if wait is not None and seen.head is not None:
            now(threads.wait_archived(ref, seen.head.rev, "evict", wait))
            say(_whereabouts(stores, ref))


@commands.command(rich_help_panel=PANEL)
def hydrate(
    id: ThreadId,  # noqa: A002
    namespace: Namespace = None,
    wait: Wait = None,
    force: Annotated[
        bool, typer.Option("--force", help="Try a thread again that was set aside because its hydrates died.")
    ] = False,
) -> None:
    """Have a cold thread brought back into Redis, as when somebody is about to open it.

    `threadkeep hydrate ticket-42 --wait 30`
    """
    from threadkeep.cli.stores import address, opened, threads_of
    from threadkeep.errors import ThreadNotFound
    from threadkeep.storage.link import run_now as now

    with opened() as stores:
        ref = address(stores.settings, id, namespace)
        _check_set_aside(stores, ref, "hydrate", force=force)
        threads = threads_of(stores)
        if wait is None:
            asked = now(threads.ask(ref, keep=stores.settings.hydrate_wait))
            if asked.status == "absent":
                raise ThreadNotFound(str(ref))
            told = {"present": "is in Redis already", "enqueue": "will be brought back: queued"}
            say(f"{visible(str(ref))} {told.get(asked.status, 'will be brought back: queued already')}.")
            return
        if now(threads.bring(ref, wait)).status == "absent":
            raise ThreadNotFound(str(ref))
        say(f"{visible(str(ref))} is in Redis.")


def _check_set_aside(stores: "Stores", ref: "ThreadRef", kind: Any, *, force: bool) -> None:
    from threadkeep.storage.link import run_now as now

    if force:
        now(stores.flow.forget_runs(ref, kind))
        return
    deaths = now(stores.flow.deaths(ref, kind))
    if deaths >= stores.settings.poison_after:
        raise refuse(
            f"thread {visible(str(ref))} was set aside after {deaths} runs of {kind} that died; it is safe where "
            f"it is. See the workers' logs for what killed them, then: threadkeep {kind} {visible(str(ref))} --force"
        )


def _require_archived(stores: "Stores", ref: "ThreadRef") -> None:
    from threadkeep.errors import ThreadNotFound
    from threadkeep.tasks.describe import find

    if find(stores, ref).tier == "absent":
        raise ThreadNotFound(str(ref))


def _whereabouts(stores: "Stores", ref: "ThreadRef") -> str:
    from threadkeep.cli.output import duration
    from threadkeep.storage.link import run_now as now

    head, name = now(stores.hot.look(ref)).head, visible(str(ref))
    if head is None:
        return f"{name} is archived, and gone from Redis."
    left = int(now(stores.hot.link.run("PTTL", stores.hot.keys(ref).head))) / 1000
    if left > 0:
        return f"{name} is archived; a clean copy stays in Redis for up to {duration(left)}, for who asked."
    return f"{name} is archived up to when you asked; it is in use, so it stays in Redis."
