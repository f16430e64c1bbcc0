"""Alembic's entry: uses the connection it is handed, inside the transaction that is already open."""

from __future__ import annotations

from alembic import context

from samband.store.models import Table

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Table.metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
