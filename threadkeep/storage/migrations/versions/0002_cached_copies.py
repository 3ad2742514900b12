"""An index for the copies that linger in Redis: a sweep walked all threads for them."""

from alembic import op
from sqlalchemy import text

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_threads_cached_until",
        "threads",
        ["cached_until", "namespace", "thread_id"],
        postgresql_where=text("tier = 'cold' AND erased_at IS NULL AND cached_until IS NOT NULL"),
    )
