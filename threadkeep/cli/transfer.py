"""`import` and `export`: threads as files."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from threadkeep.cli.exits import USAGE, refuse
from threadkeep.cli.options import Namespace, ThreadId, Wait, parse_label
from threadkeep.cli.output import say, size, visible
from threadkeep.model import fresh_mark

if TYPE_CHECKING:
    from threadkeep.cli.reading import Found

commands = typer.Typer()
PANEL = "Threads"


class Format(StrEnum):
    """What `--format` takes."""

    JSONL = "jsonl"
    ARCHIVE = "archive"
    V1 = "v1"


@commands.command("import", rich_help_panel=PANEL)
def import_thread(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file; - for stdin.", show_default=False)],
    id: Annotated[  # noqa: A002
        str | None,
        typer.Option("--id", help="The new thread's id; an archive's own, else a random one.", show_default=False),
    ] = None,
    namespace: Namespace = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="NAME=VALUE", help="A label for the thread; may be repeated."),
    ] = None,
    wait: Wait = None,
) -> None:
    """Make a thread from a file: all of it or nothing.

    The file may hold lines of JSON (plain messages, or entries as `show --json` and `export` write them), an archive
    (the bytes of an object in the bucket, or its lines as zstdcat shows them), or a snapshot of zeitlich's, version 1.

    `threadkeep import conversation.jsonl --id ticket-42`
    """
    from threadkeep.cli.creating import create_thread
    from threadkeep.cli.files import parse
    from threadkeep.cli.stores import opened
    from threadkeep.storage.limits import ReadLimits

    with opened() as stores:
        limits = ReadLimits.of(stores.settings)
        name, body = _read(file, limits.object)
        parsed = parse(body, where=name, limits=limits)
        labels = {**parsed.labels, **dict(parse_label(item) for item in label or ())}
        ref = create_thread(stores, parsed, thread_id=id, namespace=namespace, labels=labels, wait=wait)
    say(f"Imported {len(parsed.entries):,} messages ({size(len(body))} of {parsed.what}) as {visible(str(ref))}.")


@commands.command("export", rich_help_panel=PANEL)
def export_thread(
    id: ThreadId,  # noqa: A002
    namespace: Namespace = None,
    format: Annotated[  # noqa: A002
        Format,
        typer.Option(
            "--format",
            "-f",
            help="`jsonl`: one entry a line. `archive`: as the bucket holds it, state and labels included. "
            "`v1`: a snapshot for zeitlich, gzipped if FILE ends in .gz.",
        ),
    ] = Format.JSONL,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write here instead of to stdout.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    archived: Annotated[
        bool, typer.Option("--archived", help="What S3 holds, even if Redis has newer; Redis is not asked.")
    ] = False,
) -> None:
    """Write a thread to a file, from Redis or S3, without bringing it back.

    `threadkeep export ticket-42 --format archive -o ticket-42.ndjson.zst`
    """
    from threadkeep.cli.reading import read_thread
    from threadkeep.cli.stores import address, opened

    if format is Format.ARCHIVE and output is None and sys.stdout.isatty():
        raise refuse("an archive is binary; name a file with -o, or send it into a pipe", USAGE)
    with opened() as stores:
        found = read_thread(stores, address(stores.settings, id, namespace), archived=archived)
    body = _encode(found, format, gzipped=output is not None and output.suffix == ".gz")
    if output is None:
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
        return
    _write(output, body)
    sys.stderr.write(f"Wrote {len(found.records):,} messages, {size(len(body))}, to {visible(str(output))}.\n")


def _encode(found: "Found", form: Format, *, gzipped: bool) -> bytes:
    from threadkeep.storage.snapshot_v1 import write_v1

    match form:
        case Format.JSONL:
            return b"".join([record + b"\n" for record in found.records])
        case Format.ARCHIVE:
            return found.archive
        case Format.V1:
            return write_v1(found.entries, found.state, codec=found.seal.codec, compress=gzipped)


def _read(file: str, most: int) -> tuple[str, bytes]:
    """A file's name and bytes, or those of stdin; refused beyond `most` bytes, however many there are."""
    name = "stdin" if file == "-" else file
    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as source:
            body = source.read(most + 1)
    except OSError as error:
        raise refuse(f"{name}: {error.strerror}", USAGE) from None
    if len(body) > most:
        raise refuse(f"{name}: it is larger than THREADKEEP_MAX_THREAD_BYTES allows", USAGE)
    return name, body


def _write(output: Path, body: bytes) -> None:
    """The whole file or none of it; into a pipe or a device as it is."""
    try:
        if output.exists() and not output.is_file():
            output.write_bytes(body)
        else:
            _replace(output, body)
    except OSError as error:
        raise refuse(f"{output}: {error.strerror}", USAGE) from None


def _replace(output: Path, body: bytes) -> None:
    """Through a file beside it that nobody else can have put there, as a link to another place for one."""
    part = output.with_name(f".{fresh_mark()}.part")
    try:
        with part.open("xb") as file:
            file.write(body)
        part.replace(output)
    except OSError:
        part.unlink(missing_ok=True)
        raise
