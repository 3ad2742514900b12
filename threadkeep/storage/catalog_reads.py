"""What is asked of the catalog's tables, as SQLAlchemy's expressions."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Select,
    Text,
    and_,
    cast,
    extract,
    func,
    literal,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY, DOUBLE_PRECISION

from threadkeep.model import ThreadRef
from threadkeep.storage.catalog_schema import threads
from threadkeep.storage.ports import CatalogEntry, CatalogFilter


def seconds(column: ColumnElement[Any]) -> ColumnElement[float]:
    return cast(extract("epoch", column), DOUBLE_PRECISION)


ENTRY: Final = select(
    *(seconds(column).label(column.name) if isinstance(column.type, DateTime) else column for column in threads.c)
)


def _sum(column: ColumnElement[Any]) -> ColumnElement[int]:
    return cast(func.coalesce(func.sum(column), 0), BigInteger)


TOTALS: Final = (
    select(
        threads.c.tier,
        func.count().label("threads"),
        _sum(threads.c.message_count).label("messages"),
        _sum(threads.c.raw_bytes).label("raw_bytes"),
        _sum(threads.c.stored_bytes).label("stored_bytes"),
    )
    .where(threads.c.erased_at.is_(None))
    .group_by(threads.c.tier)
)


def is_thread(table: Any, ref: ThreadRef) -> ColumnElement[bool]:
    return and_(table.c.namespace == ref.namespace, table.c.thread_id == ref.thread_id)


def among(refs: Sequence[ThreadRef]) -> Select[Any]:
    """The rows of these threads; the statement's text is the same for any number of them."""
    halves = [[ref.namespace for ref in refs], [ref.thread_id for ref in refs]]
    wanted = func.unnest(*(cast(half, ARRAY(Text)) for half in halves)).table_valued("namespace", "thread_id")
    named = wanted.render_derived(name="wanted")
    return ENTRY.join(named, and_(threads.c.namespace == named.c.namespace, threads.c.thread_id == named.c.thread_id))


def conditions(where: CatalogFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [
        threads.c.erased_at.is_not(None) if where.erased else threads.c.erased_at.is_(None)
    ]
    if where.namespace is not None:
        found.append(threads.c.namespace == where.namespace)
    if where.tier is not None:
        found.append(threads.c.tier == where.tier)
    if where.labels:
        found.append(threads.c.labels.contains(where.labels))
    if where.id_prefix:
        found.append(func.starts_with(threads.c.thread_id, where.id_prefix))
    if where.idle_since is not None:
        found.append(or_(threads.c.active_at.is_(None), threads.c.active_at < func.to_timestamp(where.idle_since)))
    if where.after is not None:
        found.append(_behind(where.after, where.namespace))
    return found


def cached(at: float, after: CatalogEntry | None) -> Select[Any]:
    """Cold threads with a copy in Redis, in an order and under conditions that an index has."""
    place = (threads.c.cached_until, threads.c.namespace, threads.c.thread_id)
    cold = threads.c.tier == literal("cold", literal_execute=True)  # a partial index serves no parameter
    found = (
        ENTRY.where(cold, threads.c.erased_at.is_(None))
        .where(threads.c.cached_until > func.to_timestamp(at))
        .order_by(*(column.desc() for column in place))
    )
    if after is None:
        return found
    last = (func.to_timestamp(after.cached_until), literal(after.stat.namespace), literal(after.stat.thread_id))
    return found.where(tuple_(*place) < tuple_(*last))


def _behind(after: ThreadRef, namespace: str | None) -> ColumnElement[bool]:
    """Where a page starts: one step into the primary key, not a walk through all that came before."""
    if after.namespace == namespace:
        return threads.c.thread_id > after.thread_id
    # PostgreSQL would start at the namespace if this were combined with an equality on it.
    place = tuple_(threads.c.namespace, threads.c.thread_id)
    return place > tuple_(literal(after.namespace), literal(after.thread_id))
