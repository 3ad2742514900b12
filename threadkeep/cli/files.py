"""What a file to be imported holds: lines of JSON, an archive, or a snapshot of zeitlich's. Pure."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from threadkeep.errors import ThreadkeepError
from threadkeep.model import Entry, JsonObject, fresh_id
from threadkeep.session.codecs import codec_for
from threadkeep.storage.framing import is_archive
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.snapshot_v1 import read_v1

_GZIP_MAGIC: Final = b"\x1f\x8b"


class FileRefused(ThreadkeepError):
    """A file holds something that cannot become a thread."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem)
        self.where, self.problem = where, problem

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}. Nothing was imported."


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """A thread to be made.

    Attributes:
        what: What the file is called in messages to people.
        entries: The messages, oldest first; their ids differ.
        codec: The codec of all of them.
        namespace: The address that an archive's last seal names; None where there is none.
        thread_id: The same.
    """

    what: str
    entries: list[Entry]
    codec: str = "plain"
    state: JsonObject | None = None
    labels: dict[str, str] = field(default_factory=dict)
    namespace: str | None = None
    thread_id: str | None = None


def parse(body: bytes, *, where: str, limits: ReadLimits) -> ParsedFile:
    """Find out what a file is by its content, and read it.

    Raises:
        FileRefused: names the line and what is wrong with it.
        ArchiveCorrupt: an archive or a snapshot that is damaged.
    """
    if is_archive(body):
        return _archive(body, where, limits)
    if body.startswith(_GZIP_MAGIC) or _is_snapshot(body):
        snapshot = read_v1(body, thread="", where=where, limits=limits)
        return ParsedFile("a version 1 snapshot", snapshot.entries, codec=snapshot.codec, state=snapshot.state)
    return _lines(body, where)


def _archive(body: bytes, where: str, limits: ReadLimits) -> ParsedFile:
    from threadkeep.cli.reading import read_archive

    seal, records = read_archive(body, where=where, limits=limits)
    if seal is None:
        raise FileRefused(where, "it is empty")
    return ParsedFile(
        "an archive",
        [Entry.from_record(record, where=where) for record in records],
        codec=seal.codec,
        state=seal.state,
        labels=seal.labels,
        namespace=seal.namespace,
        thread_id=seal.thread_id,
    )


def _is_snapshot(body: bytes) -> bool:
    """A snapshot is one JSON object with `messages`, not lines of them."""
    try:
        value = json.loads(body)
    except ValueError:
        return False
    return isinstance(value, dict) and "messages" in value and "v" in value


def _lines(body: bytes, where: str) -> ParsedFile:
    entries: list[Entry] = []
    first_line: dict[str, int] = {}
    seal: JsonObject = {}
    for number, value in _values(body, where):
        if isinstance(value, dict) and "$threadkeep" in value:
            seal = value["$threadkeep"]
            continue
        entry = _entry(value, f"{where}, line {number}")
        if entry.id in first_line:
            raise FileRefused(f"{where}, line {number}", f"its id stands in line {first_line[entry.id]} already")
        if entries and entry.fmt != entries[0].fmt:
            problem = f"it is {entry.fmt!r} where the lines before are {entries[0].fmt!r}; a thread has one codec"
            raise FileRefused(f"{where}, line {number}", problem)
        first_line[entry.id] = number
        entries.append(entry)
    if not entries:
        raise FileRefused(where, "it holds no messages")
    return ParsedFile(
        "JSON lines",
        entries,
        codec=entries[0].fmt,
        state=seal.get("state"),
        labels=seal.get("labels") or {},
        namespace=seal.get("namespace"),
        thread_id=seal.get("id"),
    )


def _values(body: bytes, where: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(body.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except UnicodeDecodeError:
            raise FileRefused(f"{where}, line {number}", "it is no UTF-8 text") from None
        except (ValueError, RecursionError) as error:
            problem = f"it is no JSON: {getattr(error, 'msg', 'nested too deep')}"
            if column := getattr(error, "colno", 0):
                problem += f" at column {column}"
            raise FileRefused(f"{where}, line {number}", problem) from None


def _entry(value: Any, where: str) -> Entry:
    """An entry as it was exported, or one made around a plain message."""
    if not isinstance(value, dict) or not {"v", "id", "kind", "body"} <= value.keys():
        message_id = fresh_id()
        (part,) = codec_for("plain").encode(value, message_id)
        return Entry(message_id, part.kind, part.body)
    if value["v"] != 1:
        raise FileRefused(where, f"its version {value['v']!r} is not the 1 that this version reads")
    entry = Entry(value["id"], value["kind"], value["body"], value.get("fmt", "plain"), value.get("meta") or {})
    if not isinstance(entry.id, str):
        raise FileRefused(where, "its id is no string")
    return entry
