"""The conversation that the demo keeps: an agent that reviews this very package, file by file. Pure but for reading it.

Every tool result is a page of a file as it lies on the disk, and every number that the agent says is counted from it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from threadkeep.model import Entry, Kind

PAGE_LINES: Final = 120
SUFFIXES: Final = (".py", ".lua", ".md", ".toml", ".mako")
_FOLDERS: Final = ("threadkeep", "docs", "examples", "tests")
_DEFINITION: Final = re.compile(r"^ *(?:async )?(class|def) (\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Page:
    """Some lines of one file; `first` counts from 1."""

    path: str
    first: int
    lines: list[str]

    @property
    def last(self) -> int:
        return self.first + len(self.lines) - 1

    @property
    def text(self) -> str:
        return "".join(self.lines)


class Talk:
    """Entries of a conversation, one after the other; the same files make the same bodies."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count = 0
        self._pages = pages(root)

    def question(self, text: str) -> Entry:
        """What the user says."""
        return self._entry("user", {"role": "user", "content": text})

    def review(self, count: int) -> Iterator[Entry]:
        """`count` entries in which the agent reads on: it says what it saw and calls the tool, and the tool answers."""
        return islice(self._review(), count)

    def ask_more(self, count: int) -> Iterator[Entry]:
        """The user asks for more, and the agent reads on: `count` entries in all."""
        yield self.question("Go on, and look at the tests too.")
        yield from self.review(count - 1)

    def _review(self) -> Iterator[Entry]:
        said = "I read it file by file."
        while True:
            page = next(self._pages)
            call = f"toolu_{self._count:05d}"
            arguments = {"path": page.path, "offset": page.first, "limit": PAGE_LINES}
            use = {"type": "tool_use", "id": call, "name": "read_file", "input": arguments}
            asks = {"role": "assistant", "content": [{"type": "text", "text": said}, use]}
            yield self._entry("assistant", asks)
            result = {"type": "tool_result", "tool_use_id": call, "content": page.text}
            yield self._entry("tool", {"role": "user", "content": [result]})
            said = remark(page)

    def _entry(self, kind: Kind, body: dict[str, Any]) -> Entry:
        self._count += 1
        return Entry(f"msg-{self._count:05d}", kind, body)


def repository() -> Path:
    """The root of the source tree, or the installed package where there is none."""
    package = Path(__file__).parents[1]
    return package.parent if (package.parent / "pyproject.toml").is_file() else package


def files(root: Path) -> list[Path]:
    """What the agent reads, in the same order every time."""
    folders = [root / name for name in _FOLDERS if (root / name).is_dir()] or [root]
    found = {path for folder in folders for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file()}
    return sorted(found)


def pages(root: Path) -> Iterator[Page]:
    """All pages of all files, over and over."""
    while True:
        for path in files(root):
            lines = path.read_text(errors="replace").splitlines(keepends=True)
            for at in range(0, len(lines), PAGE_LINES):
                yield Page(path.relative_to(root).as_posix(), at + 1, lines[at : at + PAGE_LINES])


def remark(page: Page) -> str:
    """What the agent says of a page: what it defines, counted."""
    defined = _DEFINITION.findall(page.text)
    names = ", ".join(f"`{name}`" for _, name in defined[:6])
    more = f" and {len(defined) - 6} more" if len(defined) > 6 else ""
    what = f"it defines {names}{more}" if defined else f"{sum(1 for line in page.lines if line.strip())} lines of text"
    return f"`{page.path}`, lines {page.first} to {page.last}: {what}. I go on."
