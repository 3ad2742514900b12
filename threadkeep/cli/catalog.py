"""`catalog`: hold the catalog against what is stored, or make it anew."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from threadkeep.cli.exits import FAILED
from threadkeep.cli.options import Json
from threadkeep.cli.output import console, say, table, visible, write_json

if TYPE_CHECKING:
    from threadkeep.tasks.rebuild import Rebuilt
    from threadkeep.tasks.stores import Stores

commands = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="What the catalog says of the threads.")


@commands.command()
def reconcile(
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only this namespace.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Hold the catalog against the bucket and Redis, and set right what it says; exit code 1 if something is amiss.

    What is missing from the bucket and still in Redis is archived anew; what is damaged is left for `verify`.
    """
    from threadkeep.cli.stores import opened
    from threadkeep.tasks.reconcile import reconcile as run

    with opened() as stores:
        done = run(stores, namespace=namespace)
    if as_json:
        write_json(done.to_result())
    else:
        told = ", ".join(f"{name} {number:,}" for name, number in done.to_result().items())
        say(f"Compared: {told or 'nothing is archived'}.")
    if done.unsound:
        raise typer.Exit(FAILED)


@commands.command()
def rebuild(
    quick: Annotated[
        bool, typer.Option("--quick", help="By the objects' metadata alone: without labels, codec and source.")
    ] = False,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, max=64, metavar="N", help="Objects read at a time.")
    ] = 8,
    as_json: Json = False,
) -> None:
    """Make the catalog anew from the bucket and Redis, its tables too if they are gone.

    Rows that are there are set right. Safe to interrupt, to repeat, and beside running workers. Exit code 1 if an
    object was found damaged.
    """
    from threadkeep.cli.stores import opened
    from threadkeep.storage import migrations
    from threadkeep.tasks.rebuild import rebuild as run

    with opened() as stores:
        migrations.remake(stores.settings)
        with _progress(stores) as progress:
            done = run(stores, quick=quick, width=concurrency, progress=progress)
    if as_json:
        write_json(done.to_result())
    else:
        _write(done)
    if done.problems:
        raise typer.Exit(FAILED)


@contextmanager
def _progress(stores: "Stores") -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, for which the objects are counted first; nothing elsewhere."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    total = sum(1 for _ in stores.cold.scan())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out) as bar:
        task = bar.add_task("Reading objects", total=total)
        yield lambda number: bar.advance(task, number)


def _write(done: "Rebuilt") -> None:
    say(
        f"Read {done.objects:,} objects: wrote {done.rows:,} archived threads, {done.tombstones:,} erased ones, "
        f"and {done.hot:,} hot ones."
    )
    if done.problems:
        shown = table("thread", "found", "what")
        shown.columns[0].min_width = 16
        for ref, verdict, reason in done.problems:
            shown.add_row(visible(str(ref)), verdict, reason)
        console().print(shown)
    for ref in done.kept:
        say(f"{visible(str(ref))}: the catalog knows something later, and keeps it.")
