"""`ls`: what the catalog lists."""

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from threadkeep.cli.options import Json, parse_age, parse_label
from threadkeep.cli.output import ago, console, moment, size, table, visible, write_json

if TYPE_CHECKING:
    from threadkeep.storage.ports import CatalogEntry

commands = typer.Typer()


class Tier(StrEnum):
    """What `--tier` takes."""

    HOT = "hot"
    COLD = "cold"
    ERASED = "erased"


@commands.command("ls", rich_help_panel="Threads")
def list_threads(  # noqa: PLR0917  one parameter an option
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only this namespace.", show_default=False)
    ] = None,
    tier: Annotated[Tier | None, typer.Option("--tier", help="Only this tier.", show_default=False)] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="NAME=VALUE", help="Only threads with this label; may be repeated."),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="Only ids that start with this.", show_default=False)
    ] = None,
    idle: Annotated[
        str | None,
        typer.Option("--idle", metavar="AGE", help="Only threads unchanged for so long: 12h, 7d.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Threads to list, at most.")] = 100,
    after: Annotated[
        str | None,
        typer.Option(
            "--after",
            metavar="ADDRESS",
            help="Go on behind this thread, as the last page's end says.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List threads from the catalog, which is at most one sweep behind.

    `threadkeep ls --tier cold --label tenant=acme --idle 7d`

    With --json each thread is one line.
    """
    from threadkeep.cli.stores import opened
    from threadkeep.model import ThreadRef
    from threadkeep.storage.ports import CatalogFilter

    where = CatalogFilter(
        namespace=namespace,
        tier=_KEPT_IN.get(tier) if tier else None,
        labels=dict(parse_label(item) for item in label) if label else None,
        id_prefix=prefix,
        idle_since=time.time() - parse_age(idle) if idle else None,
        erased=tier is Tier.ERASED,
        after=ThreadRef.from_member(after) if after else None,
    )
    with opened() as stores:
        rows = stores.catalog.page(where, limit + 1)
    more, rows = len(rows) > limit, rows[:limit]
    if as_json:
        for row in rows:
            write_json(_facts(row))
        return
    _write_table(rows)
    if more:
        member = ThreadRef(rows[-1].stat.namespace, rows[-1].stat.thread_id).member
        console().print(f"There are more: add --after {member}", style="dim", soft_wrap=True)


_KEPT_IN: Final[dict[Tier, Literal["hot", "cold"]]] = {Tier.HOT: "hot", Tier.COLD: "cold"}


def _write_table(rows: "list[CatalogEntry]") -> None:
    from rich.text import Text

    from threadkeep.model import ThreadRef

    if not rows:
        console().print("No such thread in the catalog.", style="dim")
        return
    labelled = any(row.stat.labels for row in rows)
    shown = table("thread", "tier", ">messages", ">raw", ">archived", ">idle", *(["labels"] if labelled else []))
    shown.columns[0].min_width, shown.columns[1].no_wrap = 16, True
    for row in rows:
        stat = row.stat
        labels = ", ".join(f"{visible(name)}={visible(value)}" for name, value in stat.labels.items())
        shown.add_row(
            Text(visible(str(ThreadRef(stat.namespace, stat.thread_id)))),
            _tier(row),
            f"{stat.count:,}",
            size(stat.raw_bytes),
            size(stat.stored_bytes) if stat.archived_rev else "-",
            ago(row.active_at or row.archived_at or 0),
            *([Text(labels)] if labelled else []),
        )
    console().print(shown)


def _tier(row: "CatalogEntry") -> str:
    if row.erased_at is not None:
        return "[dim]erased[/dim]"
    if row.stat.tier == "hot":
        return "[red]hot[/red]"
    return "[blue]cold[/blue], cached" if row.stat.cached else "[blue]cold[/blue]"


def _facts(row: "CatalogEntry") -> dict[str, Any]:
    from threadkeep.model import ThreadRef

    stat = row.stat
    return {
        "namespace": stat.namespace,
        "id": stat.thread_id,
        "address": ThreadRef(stat.namespace, stat.thread_id).member,
        "tier": "erased" if row.erased_at is not None else stat.tier,
        "cached": stat.cached,
        "messages": stat.count,
        "raw_bytes": stat.raw_bytes,
        "stored_bytes": stat.stored_bytes,
        "rev": stat.rev,
        "archived_rev": stat.archived_rev,
        "etag": stat.etag or None,
        "key": row.object_key,
        "codec": stat.codec,
        "labels": stat.labels,
        "forked_from": stat.forked_from,
        "created_at": moment(row.created_at) or None,
        "active_at": moment(row.active_at) or None,
        "archived_at": moment(row.archived_at or 0) or None,
        "erased_at": moment(row.erased_at or 0) or None,
    }
