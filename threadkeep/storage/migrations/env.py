"""Run by Alembic: applies revisions on the connection that `upgrade` has opened, inside its transaction."""

from alembic import context

from threadkeep.storage.catalog_schema import metadata
from threadkeep.storage.migrations import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_name=lambda name, kind, _parents: kind != "table" or name in metadata.tables,
)
with context.begin_transaction():
    context.run_migrations()
