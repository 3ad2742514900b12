"""What each step of Threadkeep touches: which of them may change places and which may not."""

import re
from functools import cache
from typing import Final

from threadkeep.storage.scripts import script
from threadkeep.testing.faults import Step
from threadkeep.testing.schedule import Footprint

KEYS: Final = {
    "HEAD": "head",
    **dict.fromkeys(("BASE", "LOG", "IDS", "key"), "content"),
    **{name: name.lower() for name in ("TICKET", "INDEX", "ERASING", "TRIES", "EPOCH", "OWED")},
}
"""How scripts call their keys, and what these belong to."""
READING: Final = frozenset(
    (
        *(
            "EXISTS",
            "GET",
            "GETRANGE",
            "HGET",
            "HGETALL",
            "HMGET",
            "LLEN",
            "LRANGE",
            "PTTL",
            "SMEMBERS",
            "STRLEN",
            "TYPE",
        ),
        *("ZCARD", "ZRANGE", "ZRANGEBYSCORE", "ZSCORE"),
    )
)
EVERYTHING: Final = frozenset({*KEYS.values(), "kept", "object", "conflicts", "rows", "events", "epochs"})

_EXPIRING: Final = frozenset({"PERSIST", "PEXPIRE"})
"""All parts of a thread expire together: that they do is the head's business."""
_CLOCK: Final = frozenset({"head", "content", "owed"})
"""Moments are compared with those at which these changed."""
_S3_READING: Final = ("Get", "Head", "List")
_SQL: Final = {
    "SELECT": Footprint(reads=frozenset({"rows", "events"})),
    "INSERT INTO threads": Footprint(writes=frozenset({"rows", "events"})),
    "INSERT INTO thread_events": Footprint(writes=frozenset({"events"})),
    "DELETE FROM thread_events": Footprint(writes=frozenset({"events"})),
    "INSERT INTO shard_epochs": Footprint(writes=frozenset({"epochs"})),
}
"""Transactions by how they begin; the one that erases begins with a row."""

_FUNCTION: Final = re.compile(r"^local function (\w+)\([^)]*\)([^\n]* end|.*?\nend)$", re.MULTILINE | re.DOTALL)
_CALL: Final = re.compile(r"redis\.call\('(\w+)'(?=([^\n]*))")
_NAME: Final = re.compile(r"\b(?:[A-Z]{3,}|key)\b")


def footprint(step: Step) -> Footprint:
    """What a step touches; at least that, where it cannot be known exactly."""
    return _footprint(step.kind, step.name)


@cache
def _footprint(kind: str, name: str) -> Footprint:
    match kind:
        case "redis":
            command, _, part = name.removesuffix(" …").partition(" ")
            return of_command(command, part) if command.isupper() else of_script(command)
        case "s3":
            return _of_request(name)
        case "sql":
            known = [found for start, found in _SQL.items() if name.startswith(start)]
            return known[0] if known else Footprint(writes=EVERYTHING)
        case _:
            return Footprint(writes=frozenset({"broker"}))


def of_command(command: str, part: str) -> Footprint:
    """A command on one of the keys. What is staged is its stager's own, and news are heard by nobody who runs here."""
    if part in ("staged", "news"):
        return Footprint()
    if command == "HMGET" and part == "head":  # the fields that change with the content: whether a copy is of one piece
        return Footprint(frozenset({"content"}))
    what = _KEPT.get(part) or frozenset({KEYS[part.upper()]})
    return Footprint(what) if command in READING else Footprint(writes=what)


_KEPT: Final = {**dict.fromkeys(("answer", "erased", "graves"), frozenset({"kept"})), "": EVERYTHING}


def _of_request(name: str) -> Footprint:
    what = frozenset({"conflicts" if name.endswith("conflicts") else "object"})
    if name.startswith("Copy"):
        return Footprint(frozenset({"object"}), what)
    return Footprint(what) if name.startswith(_S3_READING) else Footprint(writes=what)


@cache
def of_script(name: str) -> Footprint:
    """What a script touches, read from its text and from that of the functions of the prelude that it calls."""
    text = script(name).text
    functions = dict(_FUNCTION.findall(text))
    body = _FUNCTION.sub("", text)
    reads, writes = set(_CLOCK if name == "clock" else ()), set[str]()
    for chunk in (body, *(functions[called] for called in _called(body, functions))):
        for command, arguments in _CALL.findall(chunk):
            (reads if command in READING else writes).update(_touched(name, command, arguments))
    return Footprint(frozenset(reads), frozenset(writes))


def _touched(name: str, command: str, arguments: str) -> set[str]:
    """By one call in a script. The head's `gen` is the content's."""
    touched = {KEYS[key] for key in _NAME.findall(arguments) if key in KEYS}
    if command in _EXPIRING:
        touched = {"head"}
    if command == "HSET" and "'gen'" in arguments:
        touched.add("content")
    if name.startswith("erase") and "KEYS[1" in arguments:
        touched.add("kept")
    return touched


def _called(text: str, functions: dict[str, str]) -> set[str]:
    """The functions that a text calls, and those that these call."""
    found = set[str]()
    new = {name for name in functions if re.search(rf"\b{name}\(", text)}
    while new:
        found |= new
        inner = {name for called in new for name in functions if re.search(rf"\b{name}\(", functions[called])}
        new = inner - found
    return found
