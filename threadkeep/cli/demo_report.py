"""The demo's report: what was measured, and how it is shown."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from threadkeep.cli.output import console, duration, size, table
from threadkeep.model import Entry
from threadkeep.strict_json import dump_json


@dataclass(frozen=True, slots=True)
class Row:
    """A thread after one step: bytes in each tier, and what its object in S3 says of itself."""

    what: str
    thread: str
    seconds: float
    redis: int
    s3: int
    catalog: str
    rev: int
    count: int
    etag: str


@dataclass(slots=True)
class Report:
    """All that the demo measured; `differences` is empty if everything came back as it was sent.

    Attributes:
        raw_bytes: Records of the first part of the conversation, before compression.
        sha256: Over the bodies as sent.
        sha256_back: Over the bodies as they came back.
        first_compressed: Bytes of records that the first flush compressed.
        second_compressed: Bytes of records that the second flush compressed.
        appended_only: Whether the second object begins with the bytes of the first.
    """

    thread_id: str
    rows: list[Row] = field(default_factory=list)
    messages: int = 0
    raw_bytes: int = 0
    sha256: str = ""
    sha256_back: str = ""
    first_stored: int = 0
    second_stored: int = 0
    first_compressed: int = 0
    second_compressed: int = 0
    appended_only: bool = False
    differences: list[str] = field(default_factory=list)


def digest(entries: Iterable[Entry]) -> str:
    """Hex sha256 over the JSON of all bodies, one after the other."""
    whole = hashlib.sha256()
    for entry in entries:
        whole.update(dump_json(entry.body))
    return whole.hexdigest()


def write(report: Report) -> None:
    """Write the report: the steps, the archive's revisions, the facts, the verdict."""
    out = console()
    out.print()
    out.print(_steps(report))
    out.print(_revisions(report))
    for name, fact in _facts(report):
        out.print(f"[bold]{name:<12}[/bold] {fact}")
    out.print()
    for difference in report.differences:
        out.print(f"[red]✗ {difference}[/red]")
    if not report.differences:
        went = f"All {report.messages:,} messages went to S3 and came back the same, byte for byte."
        out.print(f"[green]✓[/green] [bold]{went}[/bold]")


def _steps(report: Report) -> object:
    shown = table("after this", "thread", ">took", ">in Redis", ">in S3", "catalog")
    for row in report.rows:
        s3 = size(row.s3) if row.s3 else "-"
        shown.add_row(row.what, row.thread, duration(row.seconds), size(row.redis), s3, row.catalog)
    return shown


def _revisions(report: Report) -> object:
    shown = table("object in S3", ">revision", ">messages", "ETag")
    seen: set[tuple[str, int]] = set()
    for row in report.rows:
        if row.rev and (row.thread, row.rev) not in seen:
            seen.add((row.thread, row.rev))
            shown.add_row(row.thread, str(row.rev), f"{row.count:,}", row.etag)
    return shown


def _facts(report: Report) -> Iterable[tuple[str, str]]:
    yield (
        "Sent",
        f"{size(report.raw_bytes)} in {report.messages:,} messages; sha256 of the bodies {report.sha256[:16]}…",
    )
    yield "Came back", f"sha256 of the bodies {report.sha256_back[:16]}…"
    if report.first_stored:
        ratio = report.first_compressed / report.first_stored
        yield "Compression", f"{size(report.first_compressed)} became {size(report.first_stored)}: {ratio:.1f} to 1"
    yield (
        "Second flush",
        f"compressed {size(report.second_compressed)}, where the first compressed {size(report.first_compressed)}",
    )
    same = "are still the same" if report.appended_only else "are not the same any more"
    yield "Append-only", f"the object's first {report.first_stored:,} of {report.second_stored:,} bytes {same}"
