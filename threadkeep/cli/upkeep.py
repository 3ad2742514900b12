"""`sweep` and `db`: what cron and deployments run."""

from typing import Annotated

import typer

from threadkeep.cli.exits import FAILED
from threadkeep.cli.options import Json
from threadkeep.cli.output import say, write_json

commands = typer.Typer()
db = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="The catalog's tables.")
PANEL = "Operations"


@commands.command(rich_help_panel=PANEL)
def sweep(
    force: Annotated[bool, typer.Option("--force", help="Sweep even if another sweep has taken this period.")] = False,
    as_json: Json = False,
) -> None:
    """Sweep once, here: queue what is due, end what lapsed, tell the catalog. For cron, where no beat runs.

    `* * * * * threadkeep sweep`
    """
    from threadkeep.cli.stores import opened, publisher
    from threadkeep.tasks.sweeper import sweep as run

    with opened() as stores:
        counts = run(stores, publisher(stores.settings), force=force).to_result()
    if as_json:
        write_json(counts)
    elif counts.get("skipped"):
        say("Another sweep has taken this period; nothing was done.")
    else:
        told = ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in counts.items())
        say(f"Swept: {told or 'nothing is hot'}.")


@db.command()
def upgrade() -> None:
    """Make the catalog's tables, or bring them up to date. Safe to repeat, and to run twice at once."""
    from threadkeep.config import Settings
    from threadkeep.storage import migrations

    settings = Settings.load()
    before = migrations.pending(settings)
    migrations.upgrade(settings)
    say(f"Applied {', '.join(before)}." if before else "The tables are up to date.")


@db.command("status")
def db_status(as_json: Json = False) -> None:
    """Say which revisions of the tables are not applied yet; exit code 1 if there are any."""
    from threadkeep.config import Settings
    from threadkeep.storage import migrations

    missing = migrations.pending(Settings.load())
    if as_json:
        write_json({"pending": missing})
    else:
        say(f"Not applied yet: {', '.join(missing)}. Run: threadkeep db upgrade" if missing else "Up to date.")
    if missing:
        raise typer.Exit(FAILED)
