"""Walls in the database itself: organisations apart on PostgreSQL, and an audit trail that cannot be rewritten.

Revision: 0003, after 0002.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

OWNED = (
    "alert", "audit_entry", "audit_head", "binding", "change", "consent", "credential", "dead_letter", "difference",
    "event_attempt", "event_delivery", "export_item", "idempotency", "inbox", "integration", "kept_answer", "kept_token",
    "occurrence", "outbox", "outcome", "page", "record", "reimbursement", "run", "schedule", "stream", "subscription",
    "webhook", "webhook_count",
)  # fmt: skip
"""Every table whose rows carry their organisation. (`api_key` and `sign_of_life` belong to the host.)"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table in OWNED:
            _wall(table, "organization_id")
        _wall("organization", "id")
        _freeze_on_postgresql()
    else:
        _freeze_on_sqlite()


def downgrade() -> None:
    raise NotImplementedError("Restore the backup that was made before the upgrade.")


def _wall(table: str, column: str) -> None:
    """Shows a session only its own organisation's rows, or all of them when it says so with ``*``.

    A session that says nothing sees nothing. FORCE binds the tables' owner too; only a superuser is beyond it. The
    setting is read in a subquery so that it is looked at once for a statement and not for every row.
    """
    mine = f"(SELECT current_setting('samband.organization', true)) IN ('*', {column})"
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY organization_wall ON {table} USING ({mine}) WITH CHECK ({mine})")


def _freeze_on_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION samband_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN RAISE EXCEPTION 'the audit trail is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_entry_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entry"
        " FOR EACH STATEMENT EXECUTE FUNCTION samband_refuse_change()"
    )


def _freeze_on_sqlite() -> None:
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_entry_no_{verb.lower()} BEFORE {verb} ON audit_entry"
            " BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END"
        )
