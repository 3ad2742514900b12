"""Lua operations: each is one file of `lua/`, sent with what it uses of the prelude."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

_DEFINED: Final = re.compile(r"^local (?:function )?([\w, ]+)", re.MULTILINE)
_COMMENT: Final = re.compile(r"--[^\n]*")


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua operation as Redis gets it."""

    name: str
    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """The operation `lua/<name>.lua`, behind the blocks of `lua/prelude.lua` that it needs.

    Redis runs all of a script's text at each call, its definitions too, which would take longer than most operations.
    """
    body = _text(name)
    text = "\n\n".join((*needed(_text("prelude"), body), body))
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def needed(prelude: str, body: str) -> list[str]:
    """The blocks of a prelude whose names a body uses, or another block that is needed, in their order."""
    kept, used = list[str](), _COMMENT.sub("", body)
    for block in reversed(prelude.strip().split("\n\n")):
        code = _COMMENT.sub("", block)
        names = [name.strip() for found in _DEFINED.findall(code) for name in found.split(",")]
        if any(re.search(rf"\b{name}\b", used) for name in names):
            kept.append(block)
            used += code
    return kept[::-1]


def _text(name: str) -> str:
    return (files("threadkeep.storage") / "lua" / f"{name}.lua").read_text()
