"""`demo`: one thread through both tiers and back, on real servers, with every number measured."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from threadkeep.cli.exits import FAILED
from threadkeep.cli.output import console, duration, say

if TYPE_CHECKING:
    from threadkeep.local.stack import Stack

commands = typer.Typer()

PLAIN: Final[dict[str, Any]] = {
    "flush_delay": 0,
    "s3_sse": None,
    "s3_sse_kms_key": None,
    "s3_storage_class": None,
    "s3_tags": {},
}
"""What the environment may ask of a real deployment, and the demo's own servers need not have."""


@commands.command(rich_help_panel="Run")
def demo(
    messages: Annotated[
        int, typer.Option("--messages", min=10, max=20_000, help="How long the conversation is.")
    ] = 300,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave all of it running afterwards, to look around; Ctrl-C ends it.")
    ] = False,
) -> None:
    """Watch a thread go from Redis to S3 and back, byte for byte, on servers started for it. Under a minute.

    Exit code 1 if anything that came back differs from what was sent.
    """
    from contextlib import ExitStack

    from threadkeep.cli.demo_play import play
    from threadkeep.cli.demo_report import write
    from threadkeep.local.stack import temporary_stack

    with ExitStack() as running:
        with step("Starting Valkey, PostgreSQL and an S3 server"):
            stack = running.enter_context(temporary_stack(**PLAIN))
        with step("Starting two workers and beat"):
            stack.start_workers()
            stack.start_beat()
        report = play(stack.settings, messages, step=step)
        write(report)
        if keep:
            _leave_running(stack, report.thread_id)
    if report.differences:
        raise typer.Exit(FAILED)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is being done, and afterwards how long it took."""
    out = console()
    started = time.perf_counter()
    with out.status(f"{what} …"):
        yield
    out.print(f"[green]✓[/green] {what} [dim]{duration(time.perf_counter() - started)}[/dim]")


def _leave_running(stack: "Stack", thread_id: str) -> None:
    stack.start_flower()
    say("")
    for row in stack.describe():
        if row.url:
            say(f"{row.name:<12} {row.url}")
    say(f"Flower login: threadkeep / {stack.flower_password}")
    say("In another terminal:")
    say(f'  eval "$(threadkeep env --data-dir {stack.data_dir})"')
    say(f"  threadkeep show {thread_id} --last 5; threadkeep ls; threadkeep status; threadkeep doctor")
    say("Ctrl-C ends it, and removes it all.")
    stack.wait()
