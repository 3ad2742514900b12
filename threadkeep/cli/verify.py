"""`verify`: read archives, name what is damaged, and repair it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from threadkeep.cli.exits import FAILED, NOT_FOUND, refuse
from threadkeep.cli.options import Json
from threadkeep.cli.output import console, say, table, visible, write_json

if TYPE_CHECKING:
    from threadkeep.model import ThreadRef
    from threadkeep.tasks.stores import Stores
    from threadkeep.tasks.verify import Checked, Scrub

commands = typer.Typer()


@commands.command(rich_help_panel="Operations")
def verify(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Threads; all if none is named.")] = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            "-n",
            help="Only this namespace; for named threads THREADKEEP_NAMESPACE if not given.",
            show_default=False,
        ),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Bring back what is damaged from a copy in Redis or an earlier version.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Read archives to their last byte and name what is damaged; exit code 1 if something still is.

    `threadkeep verify ticket-42 --repair`

    A repair deletes nothing: what was damaged is kept under conflicts/.
    """
    from threadkeep.cli.stores import opened

    shown: list[Checked] = []
    with opened() as stores:
        scrub = _verify(stores, ids or [], namespace, repair, shown)
    if as_json:
        write_json({"counts": scrub.to_result(), "threads": [_facts(one) for one in shown]})
    else:
        _write(scrub, shown, repair=repair)
    if scrub.unsound:
        raise typer.Exit(FAILED)


def _verify(stores: "Stores", ids: list[str], namespace: str | None, repair: bool, shown: "list[Checked]") -> "Scrub":
    from threadkeep.cli.stores import address
    from threadkeep.tasks.verify import verify, verify_these

    def report(checked: "Checked") -> None:
        if not checked.sound or checked.repaired is not None:
            shown.append(checked)

    if not ids:
        return verify(stores, namespace=namespace, mend=repair, report=report)
    refs = [address(stores.settings, each, namespace) for each in dict.fromkeys(ids)]
    _require_known(stores, refs)
    return verify_these(stores, refs, mend=repair, report=report)


def _require_known(stores: "Stores", refs: "list[ThreadRef]") -> None:
    """A typing error is no damage: a thread that nothing knows of, not even an earlier version, ends the command."""
    from threadkeep.errors import ThreadkeepError
    from threadkeep.storage.link import run_now as now

    try:
        known = stores.catalog.get_many(refs)
    except ThreadkeepError:
        known = {}
    for ref in refs:
        here = ref in known or now(stores.hot.look(ref)).status != "absent" or stores.cold.head(ref) is not None
        if not here and next(stores.cold.earlier(ref), None) is None:
            raise refuse(f"thread {visible(str(ref))} is neither in Redis nor in the archive", NOT_FOUND)


def _facts(one: "Checked") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "namespace": one.ref.namespace,
        "id": one.ref.thread_id,
        "found": one.found,
        "now": one.now,
        "key": one.key or None,
        "reason": one.reason,
        "repaired": asdict(one.repaired) if one.repaired else None,
    }


def _write(scrub: "Scrub", shown: "list[Checked]", *, repair: bool) -> None:
    counts = ", ".join(f"{verdict} {number:,}" for verdict, number in sorted(scrub.counts.items()))
    say(f"Read: {counts or 'nothing is archived'}.")
    if not shown:
        return
    rows = table("thread", "found", "now", "what")
    rows.columns[0].min_width = 16
    for one in shown:
        rows.add_row(visible(str(one.ref)), one.found, one.now, _told(one))
    console().print(rows)
    if scrub.unsound and not repair:
        say("Nothing was changed; --repair brings back what is left somewhere.")


def _told(one: "Checked") -> str:
    if one.repaired is None:
        return one.reason
    told = _HOW[one.repaired.how]
    if one.repaired.lost_rev:
        told += f"; revisions after {one.repaired.rev} up to {one.repaired.lost_rev} are lost"
    return f"{told}; before: {one.repaired.aside}" if one.repaired.aside else told


_HOW = {
    "redis": "archived anew from Redis",
    "earlier": "an earlier version put back",
    "swapped": "both objects put in their places",
    "metadata": "metadata written anew",
    "tombstone": "tombstone written anew",
}
