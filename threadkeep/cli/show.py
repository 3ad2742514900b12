"""`show`: a conversation as text, read from whichever tier has it."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from threadkeep.cli.options import Json, Namespace, ThreadId
from threadkeep.cli.output import console, size, visible, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from threadkeep.cli.reading import Found
    from threadkeep.model import Entry

commands = typer.Typer()

_STYLES = {"system": "magenta", "user": "bold cyan", "assistant": "bold green", "tool": "yellow"}


@commands.command(rich_help_panel="Threads")
def show(
    id: ThreadId,  # noqa: A002
    namespace: Namespace = None,
    last: Annotated[
        int | None, typer.Option("--last", min=1, metavar="N", help="Only the last N messages.", show_default=False)
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Show calls and results of tools in full.")] = False,
    archived: Annotated[
        bool, typer.Option("--archived", help="What S3 holds, even if Redis has newer; Redis is not asked.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a conversation from Redis or S3, without bringing it back and without changing anything.

    `threadkeep show ticket-42 --last 10`

    With --json each message is one line: {"v", "id", "kind", "fmt", "body", "meta"}.
    """
    from threadkeep.cli.reading import broken_parts, read_thread
    from threadkeep.cli.reading import last as last_of
    from threadkeep.cli.stores import address, opened

    with opened() as stores:
        ref = address(stores.settings, id, namespace)
        broken = [] if archived else broken_parts(stores, ref)
        if broken:
            _warn(str(ref), broken)
        found = read_thread(stores, ref, archived=archived)
    chosen = list(last_of(found.entries, last))
    if as_json:
        for _, entry in chosen:
            write_json(json.loads(entry.to_record()))
        return
    out = console()
    _heading(out, found)
    if len(chosen) < len(found.entries):
        out.print(f"… {len(found.entries) - len(chosen):,} earlier messages\n", style="dim")
    for number, entry in chosen:
        _message(out, number, entry, full=full)


def _warn(name: str, broken: list[str]) -> None:
    from rich.text import Text

    what = f"{visible(name)} is broken in Redis: {', '.join(broken)} missing or cut short. What S3 holds may be older."
    remedy = f"threadkeep hydrate {visible(name)} mends it, or says what is lost."
    console(stderr=True).print(Text.assemble(("! ", "yellow"), f"{what} {remedy}"))


def _heading(out: "Console", found: "Found") -> None:
    from rich.text import Text

    raw = sum(map(len, found.records)) + len(found.records)
    place = "Redis" if found.where == "redis" else "S3"
    newer = ", newer than its archive" if found.dirty else ""
    out.print(Text(visible(str(found.ref)), style="bold"))
    out.print(f"{len(found.records):,} messages, {size(raw)}, from {place}{newer}", style="dim")
    facts = [f"rev {found.seal.rev}, codec {visible(found.seal.codec)}"]
    facts += [f"{visible(name)}={visible(value)}" for name, value in found.seal.labels.items()]
    if found.seal.forked_from:
        facts.append(f"forked from {visible(found.seal.forked_from)}")
    out.print(Text(", ".join(facts), style="dim"))
    if found.state is not None:
        out.print(Text(visible(f"state {json.dumps(found.state, ensure_ascii=False)[:400]}"), style="dim"))
    out.print()


def _message(out: "Console", number: int, entry: "Entry", *, full: bool) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from threadkeep.cli.rendering import brief, parts_of

    when = entry.meta.get("ts")
    title = Text.assemble(
        (f"{number} ", "dim"),
        (entry.kind, _STYLES[entry.kind]),
        (f"  {visible(entry.id)}" + (f"  {visible(str(when))}" if when else ""), "dim"),
    )
    out.print(title)
    for part in parts_of(entry.body):
        text = part.text if full else brief(part)
        mark, style = _MARKS[part.what]
        out.print(Padding(Text(f"{mark}{visible(text)}", style=style), (0, 0, 0, 2), expand=False))
    out.print()


_MARKS = {
    "text": ("", ""),
    "thinking": ("(thinking) ", "dim italic"),
    "call": ("→ ", "yellow"),
    "result": ("← ", "dim"),
    "other": ("", "dim"),
}
