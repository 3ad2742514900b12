"""What changes the catalog's tables: the upsert that merges rows in any order, and the erasure."""

from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    DateTime,
    Insert,
    Text,
    Update,
    and_,
    bindparam,
    case,
    column,
    delete,
    func,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION, JSONB, insert

from threadkeep.model import ThreadRef
from threadkeep.storage.catalog_reads import is_thread
from threadkeep.storage.catalog_rows import EMPTY, FOLLOWS, GROWING, LIFE_REVS, OBJECT_COLUMNS, Columns
from threadkeep.storage.catalog_schema import shard_epochs, thread_events, threads
from threadkeep.storage.ports import CatalogEvent

PRUNED_AT_ONCE: Final = 10_000
"""Events that one transaction deletes: well within the time limit of a statement."""

_SEEN: Final = ("namespace", "thread_id", "stamp", "rev", "archived_rev", "object_rev", "etag", "born")
"""What tells that a row is still as it was read; `born` is the new row's."""
_WRITTEN: Final = ("namespace", "thread_id", *GROWING, *LIFE_REVS, *FOLLOWS)


def _upsert() -> Insert:
    """`:rows` is a JSON array of `to_columns` objects, so the statement's text never changes."""
    given = func.jsonb_to_recordset(bindparam("rows", type_=JSONB)).table_valued(
        *(column(name, DOUBLE_PRECISION() if _is_time(name) else threads.c[name].type) for name in _WRITTEN)
    )
    given = given.render_derived(name="given", with_types=True)
    values = [func.to_timestamp(given.c[name]) if _is_time(name) else given.c[name] for name in _WRITTEN]
    statement = insert(threads).from_select(list(_WRITTEN), select(*values))
    new: Any = statement.excluded
    changes: dict[str, Any] = {name: func.greatest(threads.c[name], new[name]) for name in GROWING}
    changes |= {name: _later(new, name, ("born",), func.greatest(new[name], threads.c[name])) for name in LIFE_REVS}
    changes |= {
        name: _later(new, name, versions, func.coalesce(new[name], threads.c[name]))
        for name, versions in FOLLOWS.items()
    }
    changes |= {"erased_at": null(), "erase_request": null()}
    return statement.on_conflict_do_update(
        index_elements=[threads.c.namespace, threads.c.thread_id], set_=changes, where=_outlives_erasure(new)
    )


def _is_time(name: str) -> bool:
    return isinstance(threads.c[name].type, DateTime)


def _later(new: Any, name: str, versions: tuple[str, ...], tie: ColumnElement[Any]) -> ColumnElement[Any]:
    choices = []
    for version in versions:
        choices.append((new[version] > threads.c[version], new[name]))
        choices.append((new[version] < threads.c[version], threads.c[name]))
    return case(*choices, else_=tie)


def _outlives_erasure(new: Any) -> ColumnElement[bool]:
    """Whether what is written belongs to a life after the erasure, if there was one.

    `erased_rev` stays when a thread comes back, so late rows of the erased life stay out. A row that does not
    tell its `born` joins a living thread by its revision, and revives none.
    """
    alive = and_(threads.c.erased_at.is_(None), new.rev > threads.c.erased_rev)
    return or_(threads.c.erased_rev.is_(None), func.coalesce(new.born > threads.c.erased_rev, alive))


_UPSERT: Final = _upsert()


def record(connection: Connection, rows: list[Columns], events: list[CatalogEvent]) -> None:
    for distinct in _rounds(rows):
        connection.execute(_UPSERT, {"rows": distinct})
    if events:
        lines = [asdict(event.ref) | {"kind": event.kind, "facts": event.facts} for event in events]
        connection.execute(insert(thread_events), lines)


def _rounds(rows: list[Columns]) -> list[list[Columns]]:
    """Split rows so that no thread occurs twice in a round, each round in key order.

    One statement cannot change a row twice. Every writer locks rows in key order, and a later round locks
    nothing new, so writers never deadlock.
    """
    seen: dict[tuple[str, str], int] = {}
    found: list[list[Columns]] = []
    for row in sorted(rows, key=lambda row: (row["namespace"], row["thread_id"])):
        key = (row["namespace"], row["thread_id"])
        turn = seen.get(key, 0)
        seen[key] = turn + 1
        if turn == len(found):
            found.append([])
        found[turn].append(row)
    return found


def replace(connection: Connection, rows: list[Columns], seen: list[Columns]) -> list[tuple[str, str]]:
    """Take from rows that still are as they were `seen` what keeps others from changing them, then merge `rows`.

    Rows are locked in key order, as every writer locks them.
    """
    told = func.jsonb_to_recordset(bindparam("seen", type_=JSONB)).table_valued(
        *(column(name, threads.c[name].type) for name in _SEEN), column("now_rev", BigInteger), column("codec", Text)
    )
    told = told.render_derived(name="told", with_types=True)
    still: Any = and_(*(threads.c[name].is_not_distinct_from(told.c[name]) for name in _SEEN if name != "born"))
    outlives = or_(threads.c.erased_rev.is_(None), told.c.born > threads.c.erased_rev)
    locked = select(threads.c.namespace, threads.c.thread_id).join(told, still).where(outlives)
    in_order = locked.order_by(threads.c.namespace, threads.c.thread_id).with_for_update(of=threads)
    found = [(row.namespace, row.thread_id) for row in connection.execute(in_order, {"seen": seen})]
    connection.execute(_reset(told).where(still, outlives), {"seen": seen})
    record(connection, [row for row in rows if (row["namespace"], row["thread_id"]) in found], [])
    return found


def _reset(told: Any) -> Update:
    """What a row follows starts over; labels and a source stay where the new row cannot tell of them."""
    no_newer = threads.c.labels_rev <= told.c.now_rev
    return update(threads).values(
        **dict.fromkeys((*OBJECT_COLUMNS, "object_rev", "born", "count_rev", "active_at", "cached_until")),
        rev=0,
        archived_rev=0,
        stamp=0,
        labels_rev=case((no_newer, threads.c.labels_rev)),
        forked_from=case((told.c.codec.is_(None), threads.c.forked_from)),
    )


def erase(connection: Connection, ref: ThreadRef, request_id: str, rev: int) -> None:
    """Mark the address, then strip what was born up to `rev`, then what a successor still shows of it."""
    mark = insert(threads).values(**asdict(ref), erased_rev=rev, **EMPTY)
    highest = func.greatest(threads.c.erased_rev, mark.excluded.erased_rev)
    key = [threads.c.namespace, threads.c.thread_id]
    connection.execute(mark.on_conflict_do_update(index_elements=key, set_={"erased_rev": highest}))

    here = update(threads).where(is_thread(threads, ref))
    stripped = EMPTY | {
        "erased_at": func.coalesce(threads.c.erased_at, func.now()),
        "erase_request": func.coalesce(threads.c.erase_request, request_id),
    }
    undescribed = dict.fromkeys(("object_rev", *OBJECT_COLUMNS))
    connection.execute(here.where(func.coalesce(threads.c.born, 0) <= rev).values(stripped))
    connection.execute(here.where(threads.c.object_rev <= rev).values(undescribed))
    connection.execute(here.where(threads.c.archived_rev <= rev).values(archived_rev=0))

    birth = select(threads.c.created_at).where(is_thread(threads, ref)).scalar_subquery()
    its_events = update(thread_events).where(is_thread(thread_events, ref), thread_events.c.kind != "erased")
    connection.execute(its_events.where(or_(birth.is_(None), thread_events.c.at < birth)).values(facts={}))


def remember_epoch(connection: Connection, shard: int, epoch: str) -> int | None:
    """How often the shard's epoch has changed; 0 for its first, None if this call changed nothing."""
    first = insert(shard_epochs).values(shard=shard, epoch=epoch, seen_at=func.now(), changes=0)
    other = first.on_conflict_do_update(
        index_elements=[shard_epochs.c.shard],
        set_={"epoch": first.excluded.epoch, "seen_at": func.now(), "changes": shard_epochs.c.changes + 1},
        where=shard_epochs.c.epoch != first.excluded.epoch,
    )
    changes: int | None = connection.scalar(other.returning(shard_epochs.c.changes))
    return changes


def prune(connection: Connection, older_than_days: int) -> int:
    at = thread_events.c.at
    old = select(thread_events.c.id).where(at < func.now() - func.make_interval(0, 0, 0, older_than_days))
    batch = old.order_by(at).limit(PRUNED_AT_ONCE).with_for_update(skip_locked=True)
    return connection.execute(delete(thread_events).where(thread_events.c.id.in_(batch))).rowcount
