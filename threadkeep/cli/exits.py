"""Exit codes, and how an error becomes one clear line and one of them."""

import logging
import os
import sys
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperGroup

from threadkeep.cli.output import visible
from threadkeep.errors import InvalidThreadId, SettingsError, ThreadExists, ThreadkeepError, ThreadNotFound

FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
UNAVAILABLE: Final = 4
"""A store, the broker or the workers did not answer; the same command may succeed later."""


def exit_code(error: ThreadkeepError) -> int:
    """The exit code that an error ends a command with."""
    match error:
        case ThreadNotFound():
            return NOT_FOUND
        case InvalidThreadId() | SettingsError():
            return USAGE
        case _:
            return UNAVAILABLE if error.retryable else FAILED


class Commands(TyperGroup):
    """All commands; an error of ours ends any of them with one line on stderr instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        if ctx.params.get("debug"):
            logging.basicConfig(level=logging.INFO, stream=sys.stderr)
            return super().invoke(ctx)
        logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(message)s")
        try:
            return super().invoke(ctx)
        except ThreadkeepError as error:
            sys.stderr.write(f"threadkeep: {visible(_told(error))}\n{_hint(error)}")
            raise typer.Exit(exit_code(error)) from None


def refuse(problem: str, code: int = FAILED) -> typer.Exit:
    """Say on stderr why a command ends here; the caller raises what is returned."""
    sys.stderr.write(f"threadkeep: {visible(problem)}\n")
    return typer.Exit(code)


def _told(error: ThreadkeepError) -> str:
    """The error's own words, but for advice that only a program can follow."""
    if isinstance(error, ThreadNotFound):
        return f"thread {error.thread} is neither in Redis nor in the archive"
    if isinstance(error, ThreadExists):
        return f"thread {error.thread} exists already ({error.tier}); it was left as it is"
    return str(error)


def _hint(error: ThreadkeepError) -> str:
    """Where nothing is configured but a stack runs in this folder, that is most likely what was meant."""
    if exit_code(error) != UNAVAILABLE or any(name.startswith("THREADKEEP_") for name in os.environ):
        return ""
    if not Path(".threadkeep", "state.json").exists():
        return ""
    return 'A stack runs in this folder; to use it: eval "$(threadkeep env)"\n'
