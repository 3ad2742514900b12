"""`worker` and `beat`: Celery's own, started with what Threadkeep's promises stand on."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from threadkeep.cli.exits import FAILED

commands = typer.Typer()
PANEL = "Run"
APP: Final = "threadkeep.tasks.app"
EXTRA: Final = {"allow_extra_args": True, "ignore_unknown_options": False}


class QueueName(StrEnum):
    """The queues, as they are named on the command line."""

    HYDRATE = "hydrate"
    FLUSH = "flush"
    MAINTENANCE = "maintenance"

    @property
    def queue(self) -> str:
        """Its name at the broker."""
        return f"threadkeep.{self}"


@commands.command(rich_help_panel=PANEL, context_settings=EXTRA)
def worker(
    ctx: typer.Context,
    queue: Annotated[
        list[QueueName] | None,
        typer.Option("--queue", "-q", help="Read only this queue; may be repeated.", show_default=False),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--concurrency",
            min=1,
            help="Processes of each worker; Celery's default is one a CPU.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="First part of the node names.", show_default=False)
    ] = None,
) -> None:
    """Run Celery workers, until SIGTERM or Ctrl-C; running tasks end first.

    Without --queue two of them: one for hydrates alone, so that no backlog delays a person who waits, and one for
    flushes and maintenance. If one ends by itself, the other is stopped too.

    `threadkeep worker -c 4`

    `threadkeep worker --queue hydrate -c 8 -- --max-tasks-per-child 200`

    What stands behind `--` is passed on to Celery.
    """
    from threadkeep.config import Settings

    Settings.load()  # a malformed setting ends here, with its name
    if queue:
        _become(worker_command(list(dict.fromkeys(queue)), name=name, concurrency=concurrency, extra=ctx.args))
    groups = [[QueueName.HYDRATE], [QueueName.FLUSH, QueueName.MAINTENANCE]]
    names = [f"{name}-hydrate" if name else None, f"{name}-flush" if name else "flush"]
    run_both(
        [
            worker_command(group, name=own, concurrency=concurrency, extra=ctx.args)
            for group, own in zip(groups, names, strict=True)
        ]
    )


@commands.command(rich_help_panel=PANEL, context_settings=EXTRA)
def beat(
    ctx: typer.Context,
    schedule: Annotated[
        Path | None,
        typer.Option(
            "--schedule",
            help="Where beat notes when it last ran; a temporary file if not given. Losing it does no harm.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run Celery's beat, which has a worker sweep every THREADKEEP_SWEEP_EVERY seconds. Any number may run.

    `threadkeep beat`

    What stands behind `--` is passed on to Celery.
    """
    from threadkeep.config import Settings

    Settings.load()
    kept = schedule or Path(tempfile.gettempdir()) / f"threadkeep-beat-{os.getuid()}"
    _become(_celery("beat", f"--schedule={kept}", "--pidfile=", "--loglevel=INFO", *ctx.args))


def worker_command(
    queues: Sequence[QueueName], *, name: str | None, concurrency: int | None, extra: Sequence[str]
) -> list[str]:
    """The command line of one worker; the node is named for its queues if no name is given."""
    flags = [f"--hostname={name or '-'.join(queues)}@%h"]
    flags.append(f"--queues={','.join(queue.queue for queue in queues)}")
    if concurrency is not None:
        flags.append(f"--concurrency={concurrency}")
    return _celery("worker", *flags, "-E", "--loglevel=INFO", *extra)


def run_both(command_lines: Sequence[Sequence[str]]) -> NoReturn:
    """Run the workers as children, hand signals on, and end when all have ended."""
    pair = _Children()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pair.stop)
    for command in command_lines:
        pair.start(command)
    by_itself = pair.wait()
    if by_itself:
        sys.stderr.write("threadkeep: a worker ended by itself, so the other was stopped; see its log above\n")
    raise typer.Exit(FAILED if by_itself else 0)


class _Children:
    """Processes that live and end together, and do not outlive us.

    Each leads a session of its own, so that a Ctrl-C reaches it once, through us; a second one cuts its tasks.
    """

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []
        self._asked = False

    def start(self, command: Sequence[str]) -> None:
        """Start one, unless all have been asked to stop meanwhile."""
        from threadkeep.local.guard import guard

        if not self._asked:
            child = subprocess.Popen(command, env=worker_environment(os.environ), start_new_session=True)
            self._children.append(child)
            guard.watch(child.pid, signal.SIGTERM)

    def stop(self, *_: object) -> None:
        """Ask all to stop; a handler of signals."""
        self._asked = True
        for child in self._children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)

    def wait(self) -> bool:
        """Wait until one has ended, stop the others, and wait for them; whether the first ended by itself."""
        from threadkeep.local.guard import guard

        while self._children and all(child.poll() is None for child in self._children):
            time.sleep(0.1)
        by_itself = not self._asked
        if by_itself:
            self.stop()
        for child in self._children:
            child.wait()
            guard.forget(child.pid)
        return by_itself


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """SIGTERM means a soft shutdown: tasks get some time, then are given back to the queue."""
    return {"REMAP_SIGTERM": "SIGQUIT", **environ}


def _celery(subcommand: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", APP, subcommand, *arguments]


def _become(command: Sequence[str]) -> NoReturn:
    os.execvpe(command[0], list(command), worker_environment(os.environ))  # noqa: S606  no shell is wanted
