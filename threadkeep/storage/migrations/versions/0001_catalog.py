"""Threads, their audit events, and the epochs of index shards."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_BYTEWISE = sa.Text(collation="C")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "threads",
        sa.Column("namespace", _BYTEWISE, nullable=False),
        sa.Column("thread_id", _BYTEWISE, nullable=False),
        sa.Column("tier", sa.Text, nullable=False),
        sa.Column("cached_until", _TIME),
        sa.Column("stamp", sa.BigInteger, nullable=False),
        sa.Column("rev", sa.BigInteger, nullable=False),
        sa.Column("archived_rev", sa.BigInteger, nullable=False),
        sa.Column("object_rev", sa.BigInteger),
        sa.Column("object_key", sa.Text),
        sa.Column("etag", sa.Text),
        sa.Column("version_id", sa.Text),
        sa.Column("format", sa.Text),
        sa.Column("raw_bytes", sa.BigInteger),
        sa.Column("stored_bytes", sa.BigInteger),
        sa.Column("chain", sa.Text),
        sa.Column("archived_at", _TIME),
        sa.Column("born", sa.BigInteger),
        sa.Column("created_at", _TIME),
        sa.Column("codec", sa.Text),
        sa.Column("forked_from", sa.Text),
        sa.Column("labels", JSONB),
        sa.Column("labels_rev", sa.BigInteger),
        sa.Column("message_count", sa.BigInteger),
        sa.Column("count_rev", sa.BigInteger),
        sa.Column("active_at", _TIME),
        sa.Column("erased_at", _TIME),
        sa.Column("erased_rev", sa.BigInteger),
        sa.Column("erase_request", sa.Text),
        sa.PrimaryKeyConstraint("namespace", "thread_id", name="pk_threads"),
        sa.CheckConstraint("tier IN ('hot', 'cold')", name=op.f("ck_threads_tier")),
    )
    op.create_index(
        "ix_threads_labels",
        "threads",
        ["labels"],
        postgresql_using="gin",
        postgresql_ops={"labels": "jsonb_path_ops"},
    )
    op.create_index("ix_threads_tier_active_at", "threads", ["tier", "active_at"])
    op.create_index(
        "ix_threads_forked_from",
        "threads",
        ["forked_from"],
        postgresql_where=sa.text("forked_from IS NOT NULL"),
    )
    op.create_table(
        "thread_events",
        sa.Column("id", sa.BigInteger, nullable=False),
        sa.Column("at", _TIME, nullable=False, server_default=sa.text("now()")),
        sa.Column("namespace", _BYTEWISE, nullable=False),
        sa.Column("thread_id", _BYTEWISE, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("facts", JSONB, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_thread_events"),
    )
    op.create_index("ix_thread_events_thread", "thread_events", ["namespace", "thread_id", "id"])
    op.create_index("ix_thread_events_at", "thread_events", ["at"])
    op.create_table(
        "shard_epochs",
        sa.Column("shard", sa.SmallInteger, autoincrement=False, nullable=False),
        sa.Column("epoch", sa.Text, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.Column("changes", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("shard", name="pk_shard_epochs"),
    )
