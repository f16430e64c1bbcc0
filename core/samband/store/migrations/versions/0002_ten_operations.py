"""The ten operations: tokens, schedules, webhooks, events out, exports, audit, alerts.

Revision: 0002, after 0001.

Columns are added with a default that the database keeps: SQLite would otherwise copy the whole table, and dropping
the old copy would take along what points to it. There is no way back but a backup.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from samband.store.columns import UtcInstant

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LIVE = "state IN ('queued', 'running', 'waiting', 'held')"


def upgrade() -> None:
    _extend_tables()
    _number_events()
    _create_tables()


def downgrade() -> None:
    raise NotImplementedError("Restore the backup that was made before the upgrade.")


def _extend_tables() -> None:
    op.add_column("api_key", sa.Column("created_by", sa.Text(), nullable=False, server_default=""))
    op.add_column("api_key", sa.Column("expires_at", UtcInstant(), nullable=True))
    op.add_column("api_key", sa.Column("last_used_at", UtcInstant(), nullable=True))
    op.add_column("credential", sa.Column("revision", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("credential", sa.Column("expires_at", UtcInstant(), nullable=True))
    for name in ("connection_since", "contact_at", "probed_at", "next_probe_at"):
        op.add_column("integration", sa.Column(name, UtcInstant(), nullable=True))
    op.add_column("integration", sa.Column("latency_ms", sa.Integer(), nullable=True))
    op.create_index("ix_integration_probe", "integration", ["next_probe_at"])
    op.add_column("organization", sa.Column("event_seq", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("organization", sa.Column("told_seq", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("outbox", sa.Column("seq", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("outbox", sa.Column("event_id", sa.String(length=32), nullable=False, server_default=""))
    op.add_column("page", sa.Column("deactivated", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("dead_letter", sa.Column("retry_run_id", sa.String(length=32), nullable=True))
    op.add_column("run", sa.Column("account", sa.String(length=300), nullable=False, server_default=""))
    op.add_column("run", sa.Column("selection", JSON, nullable=True))
    op.add_column("run", sa.Column("retry_of", sa.String(length=32), nullable=True))
    op.add_column("run", sa.Column("brake", JSON, nullable=True))
    op.add_column("run", sa.Column("cancel_requested_at", UtcInstant(), nullable=True))
    op.add_column("run", sa.Column("progress_at", UtcInstant(), nullable=True))
    op.create_index(
        "ix_run_live_organization", "run", ["organization_id", "state"],
        sqlite_where=sa.text(LIVE), postgresql_where=sa.text(LIVE),
    )  # fmt: skip


def _number_events() -> None:
    """Gives events that were written before they were numbered their place, and a stable id made of it."""
    op.execute(
        "UPDATE outbox SET seq = n.seq, event_id = 'e' || outbox.id FROM (SELECT id, row_number() OVER"
        " (PARTITION BY organization_id ORDER BY id) AS seq FROM outbox) AS n WHERE n.id = outbox.id"
    )
    # Plugins are not told now of what happened before they could be told.
    op.execute(
        "UPDATE organization SET event_seq = n.events, told_seq = n.events FROM"
        " (SELECT organization_id, count(*) AS events FROM outbox GROUP BY organization_id) AS n"
        " WHERE n.organization_id = organization.id"
    )
    op.create_index("uq_outbox_seq", "outbox", ["organization_id", "seq"], unique=True)
    op.create_index("uq_outbox_event", "outbox", ["event_id"], unique=True)


def _create_tables() -> None:

    op.create_table(
        "audit_entry",
        sa.Column("organization_id", sa.String(length=63), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at", UtcInstant(), nullable=False),
        sa.Column("actor", sa.String(length=300), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=300), nullable=False),
        sa.Column("detail", JSON, nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "seq", name=op.f("pk_audit_entry")),
    )
    op.create_table(
        "audit_head",
        sa.Column("organization_id", sa.String(length=63), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", name=op.f("pk_audit_head")),
    )
    op.create_table(
        "kept_answer",
        sa.Column("caller", sa.String(length=16), nullable=False),
        sa.Column("route", sa.String(length=200), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("organization_id", sa.String(length=63), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.Column("locked_until", UtcInstant(), nullable=False),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.PrimaryKeyConstraint("caller", "route", "key", name=op.f("pk_kept_answer")),
    )
    with op.batch_alter_table("kept_answer", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_kept_answer_created_at"), ["created_at"], unique=False)

    op.create_table(
        "sign_of_life",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("at", UtcInstant(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sign_of_life")),
    )
    op.create_table(
        "alert",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("integration_id", sa.String(length=32), nullable=True),
        sa.Column("subject", sa.String(length=300), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("severity", sa.String(length=16), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", JSON, nullable=False),
        sa.Column("opened_at", UtcInstant(), nullable=False),
        sa.Column("closed_at", UtcInstant(), nullable=True),
        sa.Column("acknowledged_at", UtcInstant(), nullable=True),
        sa.Column("acknowledged_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_alert_organization_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert")),
    )
    with op.batch_alter_table("alert", schema=None) as batch_op:
        batch_op.create_index("ix_alert_organization", ["organization_id", "id"], unique=False)
        batch_op.create_index(
            "uq_alert_open",
            ["organization_id", "subject", "kind"],
            unique=True,
            sqlite_where=sa.text("closed_at IS NULL"),
            postgresql_where=sa.text("closed_at IS NULL"),
        )

    op.create_table(
        "reimbursement",
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("id", sa.String(length=100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("body", JSON, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.Column("updated_at", UtcInstant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_reimbursement_organization_id")
        ),
        sa.PrimaryKeyConstraint("organization_id", "id", name=op.f("pk_reimbursement")),
    )
    with op.batch_alter_table("reimbursement", schema=None) as batch_op:
        batch_op.create_index("ix_reimbursement_status", ["organization_id", "status", "id"], unique=False)

    op.create_table(
        "subscription",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("types", JSON, nullable=False),
        sa.Column("secrets", sa.LargeBinary(), nullable=False),
        sa.Column("hint", sa.String(length=4), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("failing_since", UtcInstant(), nullable=True),
        sa.Column("fanned_seq", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.Column("updated_at", UtcInstant(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_subscription_organization_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription")),
    )
    with op.batch_alter_table("subscription", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_subscription_organization_id"), ["organization_id"], unique=False)

    op.create_table(
        "consent",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("organization_id", sa.String(length=63), nullable=False),
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.Column("expires_at", UtcInstant(), nullable=False),
        sa.Column("used_at", UtcInstant(), nullable=True),
        sa.ForeignKeyConstraint(
            ["integration_id"], ["integration.id"], name=op.f("fk_consent_integration_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_consent")),
    )
    op.create_table(
        "event_delivery",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("organization_id", sa.String(length=63), nullable=False),
        sa.Column("subscription_id", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.String(length=32), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", UtcInstant(), nullable=False),
        sa.Column("lease_until", UtcInstant(), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("is_replay", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.Column("finished_at", UtcInstant(), nullable=True),
        sa.ForeignKeyConstraint(
            ["subscription_id"], ["subscription.id"], name=op.f("fk_event_delivery_subscription_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event_delivery")),
    )
    with op.batch_alter_table("event_delivery", schema=None) as batch_op:
        batch_op.create_index(
            "ix_event_delivery_due",
            ["subscription_id", "next_at"],
            unique=False,
            sqlite_where=sa.text("state = 'pending'"),
            postgresql_where=sa.text("state = 'pending'"),
        )
        batch_op.create_index("ix_event_delivery_organization", ["organization_id", "id"], unique=False)
        batch_op.create_index(
            "ix_event_delivery_subject",
            ["subscription_id", "subject", "seq"],
            unique=False,
            sqlite_where=sa.text("state = 'pending'"),
            postgresql_where=sa.text("state = 'pending'"),
        )
        batch_op.create_index("ix_event_delivery_state", ["subscription_id", "state", "id"], unique=False)

    op.create_table(
        "export_item",
        sa.Column("key", sa.String(length=40), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("reimbursement_id", sa.String(length=100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.String(length=32), nullable=True),
        sa.Column("stream", sa.String(length=100), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("field", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("evidence", JSON, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.Column("sent_at", UtcInstant(), nullable=True),
        sa.Column("settled_at", UtcInstant(), nullable=True),
        sa.ForeignKeyConstraint(["integration_id"], ["integration.id"], name=op.f("fk_export_item_integration_id")),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_export_item_organization_id")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_export_item")),
    )
    with op.batch_alter_table("export_item", schema=None) as batch_op:
        batch_op.create_index("ix_export_item_claim", ["organization_id", "reimbursement_id"], unique=False)
        batch_op.create_index("ix_export_item_run", ["run_id"], unique=False)
        batch_op.create_index("ix_export_item_state", ["integration_id", "state"], unique=False)
        batch_op.create_index(
            "uq_export_item_live",
            ["organization_id", "reimbursement_id"],
            unique=True,
            sqlite_where=sa.text("state IN ('reserved', 'sent', 'accepted', 'posted', 'unknown')"),
            postgresql_where=sa.text("state IN ('reserved', 'sent', 'accepted', 'posted', 'unknown')"),
        )

    op.create_table(
        "inbox",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("organization_id", sa.String(length=63), nullable=False),
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("delivery_key", sa.String(length=64), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("triggers", JSON, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(length=32), nullable=True),
        sa.Column("replay_of", sa.BigInteger(), nullable=True),
        sa.Column("replayed_by", sa.Text(), nullable=False),
        sa.Column("received_at", UtcInstant(), nullable=False),
        sa.Column("processed_at", UtcInstant(), nullable=True),
        sa.ForeignKeyConstraint(
            ["integration_id"], ["integration.id"], name=op.f("fk_inbox_integration_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inbox")),
        sa.UniqueConstraint("integration_id", "delivery_key", name=op.f("uq_inbox_integration_id_delivery_key")),
    )
    with op.batch_alter_table("inbox", schema=None) as batch_op:
        batch_op.create_index("ix_inbox_integration", ["integration_id", "id"], unique=False)
        batch_op.create_index("ix_inbox_organization", ["organization_id", "id"], unique=False)
        batch_op.create_index(
            "ix_inbox_waiting",
            ["integration_id", "id"],
            unique=False,
            sqlite_where=sa.text("state = 'received'"),
            postgresql_where=sa.text("state = 'received'"),
        )

    op.create_table(
        "kept_token",
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("organization_id", sa.String(length=63), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", UtcInstant(), nullable=True),
        sa.Column("renew_at", UtcInstant(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", UtcInstant(), nullable=True),
        sa.Column("is_in_flight", sa.Boolean(), nullable=False),
        sa.Column("failure", JSON, nullable=True),
        sa.Column("failed_at", UtcInstant(), nullable=True),
        sa.Column("updated_at", UtcInstant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["integration_id"], ["integration.id"], name=op.f("fk_kept_token_integration_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("integration_id", name=op.f("pk_kept_token")),
    )
    op.create_table(
        "schedule",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("cron", sa.String(length=200), nullable=True),
        sa.Column("interval_s", sa.Integer(), nullable=True),
        sa.Column("zone", sa.String(length=64), nullable=False),
        sa.Column("streams", JSON, nullable=True),
        sa.Column("full", sa.Boolean(), nullable=False),
        sa.Column("overlap", sa.String(length=16), nullable=False),
        sa.Column("catch_up", sa.String(length=16), nullable=False),
        sa.Column("misfire_grace_s", sa.Integer(), nullable=False),
        sa.Column("jitter_s", sa.Integer(), nullable=False),
        sa.Column("anchor_at", UtcInstant(), nullable=False),
        sa.Column("next_planned_at", UtcInstant(), nullable=True),
        sa.Column("next_at", UtcInstant(), nullable=True),
        sa.Column("last_planned_at", UtcInstant(), nullable=True),
        sa.Column("paused_at", UtcInstant(), nullable=True),
        sa.Column("trouble", sa.Text(), nullable=False),
        sa.Column("overdue_since", UtcInstant(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.Column("updated_at", UtcInstant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["integration_id"], ["integration.id"], name=op.f("fk_schedule_integration_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_schedule_organization_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedule")),
        sa.UniqueConstraint("integration_id", "name", name=op.f("uq_schedule_integration_id_name")),
    )
    with op.batch_alter_table("schedule", schema=None) as batch_op:
        batch_op.create_index("ix_schedule_next", ["next_at"], unique=False)
        batch_op.create_index("ix_schedule_organization", ["organization_id", "id"], unique=False)

    op.create_table(
        "webhook",
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("organization_id", sa.String(length=63), nullable=False),
        sa.Column("plugin", sa.String(length=63), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("hint", sa.String(length=4), nullable=False),
        sa.Column("is_enabled", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.Column("updated_at", UtcInstant(), nullable=False),
        sa.Column("received_at", UtcInstant(), nullable=True),
        sa.ForeignKeyConstraint(
            ["integration_id"], ["integration.id"], name=op.f("fk_webhook_integration_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("integration_id", name=op.f("pk_webhook")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_webhook_key_hash")),
    )
    op.create_table(
        "webhook_count",
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("hour", UtcInstant(), nullable=False),
        sa.Column("outcome", sa.String(length=32), nullable=False),
        sa.Column("organization_id", sa.String(length=63), nullable=False),
        sa.Column("deliveries", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["integration_id"], ["integration.id"], name=op.f("fk_webhook_count_integration_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("integration_id", "hour", "outcome", name=op.f("pk_webhook_count")),
    )
    op.create_table(
        "difference",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("organization_id", sa.String(length=63), nullable=False),
        sa.Column("stream", sa.String(length=100), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("op", sa.String(length=8), nullable=False),
        sa.Column("record_id", sa.BigInteger(), nullable=True),
        sa.Column("before", JSON, nullable=False),
        sa.Column("after", JSON, nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("field", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_difference_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "position", name=op.f("pk_difference")),
    )
    op.create_table(
        "event_attempt",
        sa.Column("delivery_id", SERIAL, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("organization_id", sa.String(length=63), nullable=False),
        sa.Column("at", UtcInstant(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["event_delivery.id"], name=op.f("fk_event_attempt_delivery_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("delivery_id", "number", name=op.f("pk_event_attempt")),
    )
    op.create_table(
        "occurrence",
        sa.Column("schedule_id", sa.String(), nullable=False),
        sa.Column("planned_at", UtcInstant(), nullable=False),
        sa.Column("organization_id", sa.String(length=63), nullable=False),
        sa.Column("fired_at", UtcInstant(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("run_id", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["schedule.id"], name=op.f("fk_occurrence_schedule_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("schedule_id", "planned_at", name=op.f("pk_occurrence")),
    )
    with op.batch_alter_table("occurrence", schema=None) as batch_op:
        batch_op.create_index("ix_occurrence_run", ["run_id"], unique=False)
        batch_op.create_index(
            "ix_occurrence_waiting",
            ["schedule_id"],
            unique=False,
            sqlite_where=sa.text("state = 'waiting'"),
            postgresql_where=sa.text("state = 'waiting'"),
        )
