"""How the commands write: tables for people, JSON for programs, and nothing that a terminal would obey."""

import json
import sys
import time
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def console(*, stderr: bool = False) -> "Console":
    """A console on stdout; off a terminal it is 80 columns wide and without colours, unless COLUMNS says otherwise."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=False, emoji=False)


def table(*columns: str, title: str | None = None) -> "Table":
    """A table without vertical lines. A column whose name starts with `>` is set flush right."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for name in columns:
        right = name.startswith(">")
        made.add_column(name.removeprefix(">"), justify="right" if right else "left", no_wrap=right, overflow="fold")
    return made


def write_json(value: Any) -> None:
    """One JSON document, or one line of NDJSON; ASCII, so that any pipe takes it."""
    sys.stdout.write(json.dumps(value) + "\n")


def say(text: str) -> None:
    """One line for people, as it is."""
    sys.stdout.write(text + "\n")


def visible(text: str) -> str:
    """Text whose control characters a terminal shows instead of obeying; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join([_shown(character) for character in text])


def _shown(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs"):
        return character
    if character in "\u200c\u200d":  # joiners, which scripts and emoji need
        return character
    return f"\\x{ord(character):02x}" if ord(character) < 0x100 else f"\\u{ord(character):04x}"


def size(count: float) -> str:
    """Bytes in at most five characters and a unit: `0 B`, `999 B`, `12.3 kB`, `1.6 MB`."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def duration(seconds: float) -> str:
    """`4 ms`, `0.32 s`, `12.5 s`, `3 min`, `5 h`, `12 d`."""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    for unit, length in (("min", 60), ("h", 3600)):
        if seconds < 120 * length or (unit == "h" and seconds < 48 * length):
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def ago(unix_seconds: float) -> str:
    """How long ago, or a dash where that is not known."""
    return duration(max(0.0, time.time() - unix_seconds)) if unix_seconds else "-"


def moment(unix_seconds: float) -> str:
    """A time in UTC to the second; empty where it is not known."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(unix_seconds)) if unix_seconds else ""
