"""The command line: `threadkeep`. A module for each subject; a command imports what it needs when it runs."""

import sys
from typing import Annotated

import typer

from threadkeep.cli import (
    catalog,
    demo,
    doctor,
    erase,
    ls,
    show,
    status,
    threads,
    transfer,
    up,
    upkeep,
    verify,
    workers,
)
from threadkeep.cli.exits import Commands

app = typer.Typer(
    name="threadkeep",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Keeps AI-agent conversations: hot in Redis while in use, cold in S3 when idle, indexed in Postgres.",
    epilog="Settings come from THREADKEEP_* variables. Exit codes: 0 done, 1 failed, 2 wrong usage or settings, "
    "3 no such thread, 4 a store, the broker or the workers did not answer.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("threadkeep")
        except PackageNotFoundError:  # run from a source tree that is not installed
            number = "(not installed)"
        sys.stdout.write(f"threadkeep {number}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    pass


for _commands in (
    demo.commands,
    up.commands,
    workers.commands,
    ls.commands,
    show.commands,
    threads.commands,
    erase.commands,
    transfer.commands,
    status.commands,
    doctor.commands,
    verify.commands,
    upkeep.commands,
):
    app.add_typer(_commands)
app.add_typer(catalog.commands, name="catalog", rich_help_panel=upkeep.PANEL)
app.add_typer(upkeep.db, name="db", rich_help_panel=upkeep.PANEL)


def main() -> None:
    """What the console script runs."""
    for stream in (sys.stdout, sys.stderr):
        # A message may hold what the terminal's encoding cannot show, such as half of an emoji.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    app(prog_name="threadkeep")
