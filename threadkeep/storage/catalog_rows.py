"""How rows of the catalog become columns, merge and are read back; every catalog agrees on it."""

from collections.abc import Mapping
from typing import Any, Final

from threadkeep.model import ThreadStat
from threadkeep.storage.ports import CatalogEntry, CatalogRow, RowRevs

Columns = dict[str, Any]
"""One row of `threads` by column name; times are Unix seconds, None is unknown."""

GROWING: Final = ("rev", "archived_rev", "stamp", "born", "object_rev", "active_at")
"""Columns that keep the greatest value ever written, as `labels_rev` and `count_rev` do within one life."""

FOLLOWS: Final[dict[str, tuple[str, ...]]] = {
    "tier": ("stamp",),
    "cached_until": ("stamp",),
    "object_key": ("object_rev",),
    "etag": ("object_rev",),
    "version_id": ("object_rev",),
    "format": ("object_rev",),
    "raw_bytes": ("object_rev",),
    "stored_bytes": ("object_rev",),
    "chain": ("object_rev",),
    "archived_at": ("object_rev",),
    "codec": ("born",),
    "forked_from": ("born",),
    "created_at": ("born",),
    "labels": ("born", "labels_rev"),
    "message_count": ("born", "count_rev"),
}
"""Columns and the versions that they follow, the weightiest first.

The side with the higher version gives the value, even an unknown one. Where a version is equal, or unknown to
one side, what is written replaces what is there unless it is None. So the same rows, in any order and however
often, end in the same row.
"""

LIFE_REVS: Final = ("labels_rev", "count_rev")
"""Revisions that start over with each life of a thread (each `born`)."""

OBJECT_COLUMNS: Final = tuple(name for name, versions in FOLLOWS.items() if versions == ("object_rev",))
FORGOTTEN: Final = (*GROWING, *LIFE_REVS, *FOLLOWS)
"""All that an erasure takes from a row; its address and its mark stay."""

EMPTY: Final[Columns] = dict.fromkeys(FORGOTTEN) | {"tier": "cold", "stamp": 0, "rev": 0, "archived_rev": 0}
"""What an erased row holds apart from its address and its mark."""


def to_columns(row: CatalogRow) -> Columns:
    """The columns that a row writes, JSON throughout; `created_at` is the time that `born` tells."""
    described = any(
        value is not None
        for value in (
            row.object_key,
            row.etag,
            row.version_id,
            row.format,
            row.raw_bytes,
            row.stored_bytes,
            row.chain,
            row.archived_at,
        )
    )
    return {
        "namespace": row.ref.namespace,
        "thread_id": row.ref.thread_id,
        "tier": row.tier,
        "cached_until": row.cached_until,
        "stamp": row.stamp,
        "rev": row.rev,
        "archived_rev": row.archived_rev,
        "object_rev": row.archived_rev if described else None,
        "object_key": row.object_key,
        "etag": row.etag,
        "version_id": row.version_id,
        "format": row.format,
        "raw_bytes": row.raw_bytes,
        "stored_bytes": row.stored_bytes,
        "chain": row.chain,
        "archived_at": row.archived_at,
        "born": row.born or None,
        "created_at": row.born / 1e6 if row.born else None,
        "codec": row.codec,
        "forked_from": row.forked_from,
        "labels": row.labels,
        "labels_rev": row.rev if row.labels is not None else None,
        "message_count": row.count,
        "count_rev": row.rev if row.count is not None else None,
        "active_at": row.active_at,
    }


def as_seen(row: CatalogRow, entry: CatalogEntry) -> Columns:
    """What must still be so of a row that was read as `entry`, and what of `row` decides how it is replaced."""
    return {
        "namespace": row.ref.namespace,
        "thread_id": row.ref.thread_id,
        "stamp": entry.revs.stamp,
        "rev": entry.stat.rev,
        "archived_rev": entry.stat.archived_rev,
        "object_rev": entry.revs.object,
        "etag": entry.stat.etag or None,
        "born": row.born or None,
        "now_rev": row.rev,
        "codec": row.codec,
    }


def to_entry(columns: Mapping[str, Any], *, now: float) -> CatalogEntry:
    """A row as it is read at `now` (Unix seconds). An erased thread's tier is `absent`."""
    erased = columns["erased_at"] is not None
    hot = columns["tier"] == "hot"
    stat = ThreadStat(
        columns["namespace"],
        columns["thread_id"],
        "absent" if erased else columns["tier"],
        cached=hot or (columns["cached_until"] or 0) > now,
        rev=columns["rev"],
        archived_rev=columns["archived_rev"],
        count=columns["message_count"] or 0,
        raw_bytes=columns["raw_bytes"] or 0,
        stored_bytes=columns["stored_bytes"] or 0,
        etag=columns["etag"] or "",
        born=columns["born"] or 0,
        codec=columns["codec"] or "plain",
        labels=columns["labels"] or {},
        forked_from=columns["forked_from"],
    )
    return CatalogEntry(
        stat,
        object_key=columns["object_key"],
        version_id=columns["version_id"],
        chain=columns["chain"],
        cached_until=columns["cached_until"],
        created_at=columns["created_at"] or 0.0,
        active_at=columns["active_at"] or 0.0,
        archived_at=columns["archived_at"],
        erased_at=columns["erased_at"],
        revs=RowRevs(
            columns["stamp"],
            columns["object_rev"],
            columns["labels_rev"],
            columns["count_rev"],
            columns["erased_rev"],
        ),
    )
