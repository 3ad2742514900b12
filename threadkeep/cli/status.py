"""`status`: how much is where, what waits, and what is stuck."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from threadkeep.cli.exits import UNAVAILABLE
from threadkeep.cli.options import Json
from threadkeep.cli.output import console, duration, size, table, visible, write_json

if TYPE_CHECKING:
    from threadkeep.tasks.stores import Stores

commands = typer.Typer()


@dataclass(frozen=True, slots=True)
class Part:
    """What one store told, or why it did not."""

    facts: dict[str, Any]
    problem: str = ""


@commands.command(rich_help_panel="Operations")
def status(as_json: Json = False) -> None:
    """Show threads and bytes per tier, queue depths, the oldest dirty thread, and what was set aside.

    What a store that is down would have told is left out, and the store is named; the exit code is then 4.
    """
    from concurrent.futures import ThreadPoolExecutor

    from threadkeep.cli.stores import opened

    with opened() as stores, ThreadPoolExecutor() as pool:
        asked = {name: pool.submit(_told, ask, stores) for name, ask in _QUESTIONS.items()}
        parts = {name: future.result() for name, future in asked.items()}
    if as_json:
        told = {name: part.facts or None for name, part in parts.items()}
        write_json({**told, "problems": {name: part.problem for name, part in parts.items() if part.problem}})
    else:
        _write(parts)
    if any(part.problem for part in parts.values()):
        raise typer.Exit(UNAVAILABLE)


def _told(ask: "Callable[[Stores], dict[str, Any]]", stores: "Stores") -> Part:
    from threadkeep.cli.checks import reason_of
    from threadkeep.errors import ThreadkeepError

    try:
        return Part(ask(stores))
    except ThreadkeepError as error:
        return Part({}, reason_of(error))


def _tiers(stores: "Stores") -> dict[str, Any]:
    from dataclasses import asdict

    return {tier: asdict(totals) for tier, totals in stores.catalog.totals().items()}


def _hot(stores: "Stores") -> dict[str, Any]:
    from threadkeep.storage.hot_facts import hot_facts, redis_facts
    from threadkeep.storage.link import run_now as now

    facts = now(hot_facts(stores.hot, stores.flow))
    server = now(redis_facts(stores.hot.link))
    return {
        "used_memory": server.used_memory,
        "indexed": facts.indexed,
        "dirty": facts.dirty,
        "leased": facts.leased,
        "oldest_dirty_seconds": round(facts.oldest_dirty, 1),
        "oldest_dirty_thread": str(facts.oldest) if facts.oldest else None,
        "set_aside": now(_set_aside(stores)),
    }


async def _set_aside(stores: "Stores") -> list[dict[str, Any]]:
    limit = stores.settings.poison_after
    return [
        {"thread": str(ref), "task": kind, "deaths": deaths}
        async for kind, ref, deaths in stores.flow.unfinished()
        if deaths >= limit
    ]


def _queues(stores: "Stores") -> dict[str, Any]:
    from threadkeep.tasks.adoption import make_app
    from threadkeep.tasks.inspect import queue_depths

    return dict(queue_depths(make_app(stores.settings, publisher=True)))


_QUESTIONS = {"tiers": _tiers, "hot": _hot, "queues": _queues}
_STORES = {"tiers": "catalog", "hot": "Redis", "queues": "broker"}


def _write(parts: dict[str, Part]) -> None:
    from rich.text import Text

    out = console()
    for name, part in parts.items():
        if part.problem:
            out.print(Text.assemble(("✗ ", "red"), f"{_STORES[name]}: {part.problem}"))
    if tiers := parts["tiers"].facts:
        _write_tiers(tiers)
    if hot := parts["hot"].facts:
        out.print(
            f"Hot now: {hot['dirty']:,} dirty, {hot['leased']:,} leased, {hot['indexed']:,} in the index; "
            f"Redis uses {size(hot['used_memory'])}",
            markup=False,
        )
        if hot["oldest_dirty_thread"]:
            age, thread = duration(hot["oldest_dirty_seconds"]), visible(hot["oldest_dirty_thread"])
            out.print(f"Oldest dirty thread: {thread}, for {age}", markup=False)
        for item in hot["set_aside"]:
            thread = visible(item["thread"])
            stuck = f"set aside: {thread}, after {item['deaths']} runs of {item['task']} that died"
            out.print(Text.assemble(("! ", "yellow"), stuck))
    if queues := parts["queues"].facts:
        waiting = ", ".join(f"{name.removeprefix('threadkeep.')} {depth:,}" for name, depth in queues.items())
        out.print(f"Waiting in queues: {waiting}", markup=False)
        if queues.get("threadkeep.dead"):
            out.print(
                "[yellow]![/yellow] dead letters were delivered too often; what they asked for, the sweep repeats"
            )


def _write_tiers(tiers: dict[str, Any]) -> None:
    shown = table("tier", ">threads", ">messages", ">raw", ">archived", ">ratio")
    for tier, total in tiers.items():
        ratio = f"{total['raw_bytes'] / total['stored_bytes']:.1f}x" if total["stored_bytes"] else "-"
        shown.add_row(
            tier,
            f"{total['threads']:,}",
            f"{total['messages']:,}",
            size(total["raw_bytes"]),
            size(total["stored_bytes"]),
            ratio,
        )
    console().print(shown)
