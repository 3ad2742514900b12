"""`doctor`: looks at everything that Threadkeep stands on, and says what to do about what is wrong."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from threadkeep.cli.exits import FAILED
from threadkeep.cli.options import Json
from threadkeep.cli.output import console, write_json

if TYPE_CHECKING:
    from threadkeep.cli.checks import Check
    from threadkeep.tasks.stores import Stores

commands = typer.Typer()
_MARKS = {"ok": "[green]✓[/green]", "warning": "[yellow]![/yellow]", "failed": "[red]✗[/red]"}


@commands.command(rich_help_panel="Operations")
def doctor(
    app: Annotated[
        str | None,
        typer.Option(
            "--app", "-A", help="A Celery app of your own to check, named as for celery -A.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check Redis, broker, workers, S3 and Postgres, and say what to do about what is wrong.

    ✓ is well, ! works but may lose or delay something, ✗ does not work; the exit code is 1 if there is any ✗.
    """
    from threadkeep.cli.stores import opened

    with opened() as stores:
        checks = _look(stores, app)
    if as_json:
        write_json({"ok": all(one.verdict != "failed" for one in checks), "checks": [asdict(one) for one in checks]})
    else:
        _write(checks)
    if any(one.verdict == "failed" for one in checks):
        raise typer.Exit(FAILED)


def _look(stores: "Stores", app: str | None) -> "list[Check]":
    from concurrent.futures import ThreadPoolExecutor
    from functools import partial

    from threadkeep.cli import checks

    groups = [
        partial(checks.check_redis, stores),
        partial(checks.check_broker, stores),
        partial(checks.check_workers, stores),
        partial(checks.check_s3, stores),
        partial(checks.check_catalog, stores),
        partial(checks.check_app, stores, app),
    ]
    with ThreadPoolExecutor(len(groups)) as pool:
        return [one for found in pool.map(lambda group: list(group()), groups) for one in found]


def _write(checks: "list[Check]") -> None:
    from rich.table import Table
    from rich.text import Text

    shown = Table.grid(padding=(0, 2, 0, 0))
    shown.add_column(no_wrap=True)
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for one in checks:
        shown.add_row(_MARKS[one.verdict], Text(one.subject), Text(one.found))
        if one.remedy:
            shown.add_row("", "", Text(f"→ {one.remedy}", style="bold"))
    console().print(shown)
    wrong = sum(one.verdict == "failed" for one in checks)
    console().print(f"\n{wrong} of {len(checks)} checks failed." if wrong else "\nAll is well.")
