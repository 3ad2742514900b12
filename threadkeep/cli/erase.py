"""`erase`: have a worker remove a thread everywhere, and say what it removed."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from threadkeep.cli.exits import FAILED, USAGE, refuse
from threadkeep.cli.options import Json, Namespace, ThreadId, Wait
from threadkeep.cli.output import say, visible, write_json

if TYPE_CHECKING:
    from threadkeep.model import ThreadRef, ThreadStat
    from threadkeep.tasks.receipt import Receipt
    from threadkeep.tasks.stores import Stores

commands = typer.Typer()
PANEL = "Threads"


@commands.command(rich_help_panel=PANEL)
def erase(
    id: ThreadId,  # noqa: A002
    namespace: Namespace = None,
    wait: Wait = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    request: Annotated[
        str | None,
        typer.Option(
            "--receipt", metavar="REQUEST", help="Erase nothing: say what that request removed.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove a thread from Redis, S3 (old versions too) and the catalog, for good. Its forks live on, and are named.

    `threadkeep erase ticket-42 --wait 60`
    """
    from threadkeep.cli.stores import address, opened

    with opened() as stores:
        ref = address(stores.settings, id, namespace)
        if request is None:
            request = _begin(stores, ref, asking=not yes, wait=wait, as_json=as_json)
            if request is None:
                return
        receipt = _receipt(stores, ref, request)
        _tell(ref, receipt, as_json=as_json)
    if receipt.outcome == "spared":
        raise typer.Exit(FAILED)


def _begin(stores: "Stores", ref: "ThreadRef", *, asking: bool, wait: float | None, as_json: bool) -> str | None:
    """Ask for the erasure, or join the one that is under way; the request if it is complete."""
    from threadkeep.cli.stores import threads_of
    from threadkeep.errors import ThreadNotFound
    from threadkeep.storage.link import run_now as now
    from threadkeep.tasks.describe import find

    name = visible(str(ref))
    if now(stores.hot.look(ref)).status != "erasing":
        stat = find(stores, ref)
        if stat.tier == "absent" and not _listed(stores, ref):
            raise ThreadNotFound(str(ref))
        if asking:
            _confirm(f"Erase {name} ({_described(stat)})?")
    threads = threads_of(stores)
    erasing = now(threads.begin_erase(ref))
    joined = erasing.status == "under_way"
    if wait is not None:
        now(threads.wait_erased(ref, erasing.request, wait))
        return erasing.request
    if as_json:
        outcome = "under_way" if joined else "queued"
        write_json({"address": ref.member, "outcome": outcome, "request": erasing.request})
    elif joined:
        say(f"{name} is being erased already: request {erasing.request}.")
    else:
        say(f"Queued the erasure of {name}: request {erasing.request}.")
    return None


def _listed(stores: "Stores", ref: "ThreadRef") -> bool:
    """Whether the catalog still tells something of a thread that no other store has."""
    from threadkeep.errors import ThreadkeepError

    try:
        entry = stores.catalog.get(ref)
    except ThreadkeepError:
        return False
    return entry is not None and entry.erased_at is None


def _receipt(stores: "Stores", ref: "ThreadRef", request: str) -> "Receipt":
    """What a request removed, with the forks that the catalog has heard of since."""
    from dataclasses import replace

    from threadkeep.errors import ThreadkeepError
    from threadkeep.storage.link import run_now as now
    from threadkeep.tasks.erase import find_receipt

    receipt = find_receipt(stores, ref, request)
    if receipt is None and now(stores.hot.look(ref)).status == "erasing":
        raise refuse(f"{visible(str(ref))} is being erased; there is no receipt of request {visible(request)} yet")
    if receipt is None:
        days = stores.settings.events_keep_days
        told = f"Redis keeps receipts for 30 days, the catalog for {days}"
        raise refuse(f"there is no receipt of request {visible(request)} for {visible(str(ref))}; {told}")
    try:
        since = [str(fork) for fork in stores.catalog.forks_of(ref)]
    except ThreadkeepError:
        since = []
    return replace(receipt, forks=sorted({*receipt.forks, *since}))


def _tell(ref: "ThreadRef", receipt: "Receipt", *, as_json: bool) -> None:
    from threadkeep.cli.output import console, table

    name = visible(str(ref))
    if as_json:
        write_json({"address": ref.member, **receipt.facts()})
        return
    if receipt.outcome == "spared":
        say(f"{name} was born after request {visible(receipt.request)}; it was left alone.")
        return
    say(f"Erased {name} (request {visible(receipt.request)}).\n")
    shown = table("store", "what", ">removed")
    for row in _rows(receipt):
        shown.add_row(*row)
    console().print(shown)
    if receipt.s3.tombstone:
        say(f"A tombstone stays at {visible(receipt.s3.tombstone)}.")
    if receipt.forks:
        say(f"Forked from it, and kept: {', '.join(map(visible, receipt.forks))}.")
    if not receipt.catalog:
        say("The catalog did not answer; the next sweep tells it.")


def _rows(receipt: "Receipt") -> list[tuple[str, str, str]]:
    redis, s3 = receipt.redis, receipt.s3
    return [
        ("Redis", f"the thread, at revision {redis.rev}" if redis.thread else "the thread", _yes(redis.thread)),
        ("", "its messages", f"{redis.messages:,}"),
        ("S3", "the archive", _yes(s3.object)),
        ("", "versions of it", f"{s3.versions:,}"),
        ("", "objects of version 1", f"{s3.v1:,}"),
        ("", "copies under conflicts/", f"{s3.conflicts:,}"),
        ("Postgres", "its row and the facts of its events", "yes" if receipt.catalog else "not yet"),
    ]


def _yes(was_there: bool) -> str:
    return "yes" if was_there else "none there"


def _described(stat: "ThreadStat") -> str:
    from threadkeep.cli.output import size

    if stat.tier == "absent":
        return "known to the catalog alone"
    used = ", in use by a session, which ends" if stat.leased else ""
    return f"{stat.tier}, {stat.count:,} messages, {size(stat.raw_bytes)}{used}"


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise refuse("nothing was erased: this is no terminal to ask at; add --yes", USAGE)
    if not typer.confirm(question, err=True):
        raise refuse("nothing was erased", FAILED)
