"""Arguments and options that several commands share."""

import re
from typing import Annotated, Final

import typer

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_age(text: str | float) -> float:
    """Seconds of `90s`, `15m`, `12h`, `7d` or `2w`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", str(text).strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} must look like 90s, 15m, 12h, 7d or 2w")
    return float(found[1]) * _UNITS[found[2]]


def parse_label(text: str) -> tuple[str, str]:
    """Name and value of `name=value`."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"{text!r} must look like name=value")
    return name, value


ThreadId = Annotated[str, typer.Argument(metavar="ID", help="The thread's id.", show_default=False)]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Its namespace; THREADKEEP_NAMESPACE if not given.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON for programs.")]
Wait = Annotated[
    float | None,
    typer.Option(
        "--wait", min=0, metavar="SECONDS", help="Wait until it is done, at most so long.", show_default=False
    ),
]
