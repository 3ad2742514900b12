"""Conversations of coding agents, made at run time from the standard library's own sources: the same on every run.

Each group of four messages is a question, an answer, a call of a tool that reads a file, and what the tool gave. Files
come in a shuffled order, are read from their first line to their last, and none comes twice before all have come.
"""

import hashlib
import json
import random
import re
import sysconfig
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

Message = dict[str, Any]

SIZES: Final[dict[int, int]] = {20: 17_000, 200: 300_000, 2_000: 4_000_000, 20_000: 50_000_000}
"""Messages, and bytes of JSON in all."""
SEED: Final = 20_250_101
NEW: Final = 20
"""Messages that each resumed session appends."""

_DOCSTRING: Final = re.compile(r'"""(.{80,2000}?)"""', re.DOTALL)
_QUESTIONS: Final = (
    "What does {path} do when this goes wrong?",
    "Please look at {path} and tell me how it works.",
    "I get an unexpected result from {path}. Where should I look?",
    "Before we change {path}: which promises does it make?",
)


@dataclass(frozen=True, slots=True)
class Corpus:
    """A thread of `messages`, and what is appended to it later."""

    messages: list[Message]
    more: list[Message]

    @property
    def bytes(self) -> int:
        return sum(len(json.dumps(message)) for message in self.messages)

    @property
    def sha256(self) -> str:
        return digest([*self.messages, *self.more])


def make(count: int, size: int | None = None, *, more: int = NEW) -> Corpus:
    """`count` messages of about `size` bytes in all, and `more` of the same kind to append."""
    size = size or SIZES[count]
    made = list(conversation(count + more, size * (count + more) // count))
    return Corpus(made[:count], made[count:])


def conversation(count: int, size: int) -> Iterator[Message]:
    """Questions, answers, calls and results in turn."""
    chance = random.Random(SEED)
    reading = _reading(chance)
    spent = 0
    for group in range(-(-count // 4)):
        path, line, docstring, rest = next(reading)
        question = f"{chance.choice(_QUESTIONS).format(path=path)} {docstring[:120]}"
        answer = f"{docstring[:400]} I will read {path} from line {line}."
        call = f"toolu_{chance.getrandbits(64):016x}"
        due = size * 4 * (group + 1) // count - spent - len(question) - len(answer) - 500
        excerpt = _lines(rest, int(max(due, 100) * chance.uniform(0.8, 1.2)))
        use = {"type": "tool_use", "id": call, "name": "read_file", "input": {"path": path, "offset": line}}
        result = {"type": "tool_result", "tool_use_id": call, "content": [{"type": "text", "text": excerpt}]}
        messages: list[Message] = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ]
        spent += sum(len(json.dumps(message)) for message in messages)
        reading.send(len(excerpt))
        yield from messages[: count - 4 * group]


def digest(messages: list[Message]) -> str:
    """One sha256 over all messages in order, however their keys are ordered."""
    found = hashlib.sha256()
    for message in messages:
        found.update(json.dumps(message, sort_keys=True).encode())
        found.update(b"\n")
    return found.hexdigest()


def write(corpus: Corpus, path: Path) -> None:
    """One line each: the messages, then what is appended."""
    lines = [json.dumps([len(corpus.messages), len(corpus.more)])]
    lines += [json.dumps(message) for message in [*corpus.messages, *corpus.more]]
    path.write_text("\n".join(lines))


def read(path: Path) -> Corpus:
    lines = path.read_text().split("\n")
    count, _ = json.loads(lines[0])
    messages = [json.loads(line) for line in lines[1:]]
    return Corpus(messages[:count], messages[count:])


def _reading(chance: random.Random) -> Generator[Any, int | None, None]:
    """Where to read next: a path, a line, a docstring of the file and what is left of it; is told how much was read."""
    while True:
        for path in chance.sample(_sources(), len(_sources())):
            text = path.read_text(encoding="utf-8", errors="replace")
            docstrings = [" ".join(found.split()) for found in _DOCSTRING.findall(text)] or [text[:200]]
            at, line = 0, 1
            while at < len(text):
                taken = (yield (_shown(path), line, docstrings[line % len(docstrings)], text[at:])) or 0
                line += text.count("\n", at, at + taken)
                at += taken
                yield


@cache
def _sources() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    found = (path for path in root.rglob("*.py") if not {"site-packages", "__pycache__"} & set(path.parts))
    return sorted(path for path in found if path.stat().st_size > 500)


def _shown(path: Path) -> str:
    return str(path.relative_to(sysconfig.get_path("stdlib")))


def _lines(text: str, most: int) -> str:
    """The first lines, of about `most` characters in all."""
    if len(text) <= most:
        return text
    end = text.find("\n", most)
    return text if end < 0 else text[: end + 1]
