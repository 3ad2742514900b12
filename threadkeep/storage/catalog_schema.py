"""The catalog's tables as SQLAlchemy sees them. The migrations make them; a test compares the two."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata: Final = MetaData(
    naming_convention={"pk": "pk_%(table_name)s", "ck": "ck_%(table_name)s_%(constraint_name)s"},
)

_BYTEWISE: Final = Text(collation="C")
"""Text in the order of its UTF-8 bytes, whatever the database's locale: pages skip and repeat no thread."""
_TIME: Final = DateTime(timezone=True)

threads: Final = Table(
    "threads",
    metadata,
    Column("namespace", _BYTEWISE, primary_key=True),
    Column("thread_id", _BYTEWISE, primary_key=True),
    Column("tier", Text, CheckConstraint("tier IN ('hot', 'cold')", name="tier"), nullable=False),
    Column("cached_until", _TIME),
    Column("stamp", BigInteger, nullable=False),
    Column("rev", BigInteger, nullable=False),
    Column("archived_rev", BigInteger, nullable=False),
    Column("object_rev", BigInteger),
    Column("object_key", Text),
    Column("etag", Text),
    Column("version_id", Text),
    Column("format", Text),
    Column("raw_bytes", BigInteger),
    Column("stored_bytes", BigInteger),
    Column("chain", Text),
    Column("archived_at", _TIME),
    Column("born", BigInteger),
    Column("created_at", _TIME),
    Column("codec", Text),
    Column("forked_from", Text),
    Column("labels", JSONB(none_as_null=True)),
    Column("labels_rev", BigInteger),
    Column("message_count", BigInteger),
    Column("count_rev", BigInteger),
    Column("active_at", _TIME),
    Column("erased_at", _TIME),
    Column("erased_rev", BigInteger),
    Column("erase_request", Text),
)

# `labels @> …` of any label; path operators make the index half as large and serve no other query of ours.
Index("ix_threads_labels", threads.c.labels, postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"})
# Idle threads of a tier.
Index("ix_threads_tier_active_at", threads.c.tier, threads.c.active_at)
# Copies that linger in Redis, in the order of a walk through them.
Index(
    "ix_threads_cached_until",
    threads.c.cached_until,
    threads.c.namespace,
    threads.c.thread_id,
    postgresql_where=text("tier = 'cold' AND erased_at IS NULL AND cached_until IS NOT NULL"),
)
# The forks of one thread; most threads are none, so the index holds only those that are.
Index("ix_threads_forked_from", threads.c.forked_from, postgresql_where=text("forked_from IS NOT NULL"))

thread_events: Final = Table(
    "thread_events",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("at", _TIME, nullable=False, server_default=text("now()")),
    Column("namespace", _BYTEWISE, nullable=False),
    Column("thread_id", _BYTEWISE, nullable=False),
    Column("kind", Text, nullable=False),
    Column("facts", JSONB, nullable=False),
)

# The newest events of one thread.
Index("ix_thread_events_thread", thread_events.c.namespace, thread_events.c.thread_id, thread_events.c.id)
# Retention.
Index("ix_thread_events_at", thread_events.c.at)

shard_epochs: Final = Table(
    "shard_epochs",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("epoch", Text, nullable=False),
    Column("seen_at", _TIME, nullable=False),
    Column("changes", Integer, nullable=False),
)
