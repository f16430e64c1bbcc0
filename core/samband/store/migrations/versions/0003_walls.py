"""Walls in the database itself: organisations apart on PostgreSQL, an audit trail that cannot be rewritten, and no
integration that is switched on without credentials.

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
        _demand_credentials_on_postgresql()
    else:
        _freeze_on_sqlite()
        _demand_credentials_on_sqlite()


def downgrade() -> None:
    raise NotImplementedError("Restore the backup that was made before the upgrade.")


def _wall(table: str, column: str) -> None:
    """Shows a session only its own organisation's rows, or all of them when it says so with ``*``.

    A session that says nothing sees nothing. FORCE binds the tables' owner too; only a superuser is beyond it. The
    setting is read in a subquery so that it is looked at once for a statement and not for every row. CASE rather than
    OR, because the planner takes half of the rows to pass it: of an OR it expects one in a hundred, and then chooses
    plans that suit a handful of rows (measured: 58 s instead of 0.6 s for a full read of 30,000 records).
    """
    now = "(SELECT current_setting('samband.organization', true))"
    mine = f"CASE {now} WHEN '*' THEN true ELSE {column} = {now} END"
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
    # REPLACE removes the row in its way without asking the trigger above.
    op.execute(
        "CREATE TRIGGER audit_entry_no_replace BEFORE INSERT ON audit_entry WHEN EXISTS"
        " (SELECT 1 FROM audit_entry WHERE organization_id = NEW.organization_id AND seq = NEW.seq)"
        " BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END"
    )


_NO_CREDENTIALS = "an enabled integration has credentials"


def _demand_credentials_on_postgresql() -> None:
    # Each side locks what it looks at, so that switching on and taking the credentials away cannot pass each other.
    op.execute(
        "CREATE FUNCTION samband_demand_credentials() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM 1 FROM credential WHERE integration_id = NEW.id FOR KEY SHARE;"
        f" IF NOT FOUND THEN RAISE EXCEPTION '{_NO_CREDENTIALS}' USING ERRCODE = 'check_violation'; END IF;"
        " RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER integration_has_credentials BEFORE INSERT OR UPDATE OF state ON integration FOR EACH ROW"
        " WHEN (NEW.state = 'enabled') EXECUTE FUNCTION samband_demand_credentials()"
    )
    op.execute(
        "CREATE FUNCTION samband_keep_credentials() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM 1 FROM integration WHERE id = OLD.integration_id AND state = 'enabled' FOR SHARE;"
        f" IF FOUND THEN RAISE EXCEPTION '{_NO_CREDENTIALS}' USING ERRCODE = 'check_violation'; END IF;"
        " RETURN OLD; END $$"
    )
    op.execute(
        "CREATE TRIGGER credential_is_kept BEFORE DELETE ON credential FOR EACH ROW"
        " EXECUTE FUNCTION samband_keep_credentials()"
    )


def _demand_credentials_on_sqlite() -> None:
    refuse = f"BEGIN SELECT RAISE(ABORT, '{_NO_CREDENTIALS}'); END"
    lacks = "NEW.state = 'enabled' AND NOT EXISTS (SELECT 1 FROM credential WHERE integration_id = NEW.id)"
    needed = "EXISTS (SELECT 1 FROM integration WHERE id = OLD.integration_id AND state = 'enabled')"
    for name, deed, condition in (
        ("integration_has_credentials", "UPDATE OF state ON integration", lacks),
        ("integration_begins_disabled", "INSERT ON integration", lacks),
        ("credential_is_kept", "DELETE ON credential", needed),
    ):
        op.execute(f"CREATE TRIGGER {name} BEFORE {deed} WHEN {condition} {refuse}")
