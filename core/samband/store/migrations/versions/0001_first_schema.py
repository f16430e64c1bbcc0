"""First schema.

Revision: 0001, the first one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from samband.store.columns import UtcInstant

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("last_four", sa.String(length=4), nullable=False),
        sa.Column("verbs", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("organizations", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.Column("revoked_at", UtcInstant(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
    )
    op.create_table(
        "binding",
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.String(length=63), nullable=False),
        sa.Column("record_id", sa.BigInteger(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=True),
        sa.Column("hash", sa.String(length=32), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("stream_id", "key", name=op.f("pk_binding")),
    )
    with op.batch_alter_table("binding", schema=None) as batch_op:
        batch_op.create_index("ix_binding_record", ["organization_id", "record_id"], unique=False)

    op.create_table(
        "change",
        sa.Column("organization_id", sa.String(length=63), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=63), nullable=False),
        sa.Column("record_id", sa.BigInteger(), nullable=False),
        sa.Column("op", sa.String(length=8), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("page_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "seq", name=op.f("pk_change")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "organization",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("record_seq", sa.BigInteger(), nullable=False),
        sa.Column("change_seq", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organization")),
    )
    op.create_table(
        "outcome",
        sa.Column("page_id", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("organization_id", sa.String(length=63), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("outcome", sa.String(length=8), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("field", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("page_id", "position", name=op.f("pk_outcome")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "record",
        sa.Column("organization_id", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=63), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("body", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("updated_at", UtcInstant(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "kind", "id", name=op.f("pk_record")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "integration",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("plugin", sa.String(length=63), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("settings", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("connection", sa.String(length=32), nullable=False),
        sa.Column("last_check", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.Column("updated_at", UtcInstant(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_integration_organization_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_integration")),
        sa.UniqueConstraint("organization_id", "plugin", name=op.f("uq_integration_organization_id_plugin")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_outbox_organization_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_table(
        "credential",
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("hints", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("updated_at", UtcInstant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["integration_id"], ["integration.id"], name=op.f("fk_credential_integration_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_credential_organization_id")),
        sa.PrimaryKeyConstraint("integration_id", name=op.f("pk_credential")),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("plugin", sa.String(length=63), nullable=False),
        sa.Column("plugin_version", sa.String(length=100), nullable=False),
        sa.Column("operation", sa.String(length=16), nullable=False),
        sa.Column("streams", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("progress", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("full", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", UtcInstant(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("starts", sa.Integer(), nullable=False),
        sa.Column("pages", sa.Integer(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("updated", sa.BigInteger(), nullable=False),
        sa.Column("unchanged", sa.BigInteger(), nullable=False),
        sa.Column("deleted", sa.BigInteger(), nullable=False),
        sa.Column("skipped", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("expected_total", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True),
        sa.Column("notes", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.Column("available_at", UtcInstant(), nullable=False),
        sa.Column("started_at", UtcInstant(), nullable=True),
        sa.Column("finished_at", UtcInstant(), nullable=True),
        sa.ForeignKeyConstraint(["integration_id"], ["integration.id"], name=op.f("fk_run_integration_id")),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_run_organization_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
    )
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.create_index(
            "ix_run_due",
            ["available_at"],
            unique=False,
            sqlite_where=sa.text("state IN ('queued', 'running', 'waiting', 'held')"),
            postgresql_where=sa.text("state IN ('queued', 'running', 'waiting', 'held')"),
        )
        batch_op.create_index("ix_run_integration", ["integration_id", "id"], unique=False)
        batch_op.create_index("ix_run_organization", ["organization_id", "id"], unique=False)
        batch_op.create_index(
            "uq_run_live",
            ["integration_id", "operation"],
            unique=True,
            sqlite_where=sa.text("state IN ('queued', 'running', 'waiting', 'held')"),
            postgresql_where=sa.text("state IN ('queued', 'running', 'waiting', 'held')"),
        )

    op.create_table(
        "stream",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("kind", sa.String(length=63), nullable=False),
        sa.Column("cursor", sa.Text(), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("reading_full", sa.Boolean(), nullable=False),
        sa.Column("digest", sa.String(length=16), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("unresolved_since", sa.BigInteger(), nullable=True),
        sa.Column("last_read_at", UtcInstant(), nullable=True),
        sa.ForeignKeyConstraint(["integration_id"], ["integration.id"], name=op.f("fk_stream_integration_id")),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_stream_organization_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stream")),
        sa.UniqueConstraint("integration_id", "name", name=op.f("uq_stream_integration_id_name")),
    )
    op.create_table(
        "dead_letter",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("operation", sa.String(length=16), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("occurrences", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.Column("updated_at", UtcInstant(), nullable=False),
        sa.Column("acknowledged_at", UtcInstant(), nullable=True),
        sa.Column("acknowledged_by", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["integration_id"], ["integration.id"], name=op.f("fk_dead_letter_integration_id")),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_dead_letter_organization_id")),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_dead_letter_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letter")),
    )
    with op.batch_alter_table("dead_letter", schema=None) as batch_op:
        batch_op.create_index(
            "uq_dead_letter_open",
            ["integration_id", "operation"],
            unique=True,
            sqlite_where=sa.text("acknowledged_at IS NULL"),
            postgresql_where=sa.text("acknowledged_at IS NULL"),
        )

    op.create_table(
        "idempotency",
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("route", sa.String(length=200), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_idempotency_organization_id")),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_idempotency_run_id")),
        sa.PrimaryKeyConstraint("organization_id", "route", "key", name=op.f("pk_idempotency")),
    )
    op.create_table(
        "page",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("change_count", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("updated", sa.BigInteger(), nullable=False),
        sa.Column("unchanged", sa.BigInteger(), nullable=False),
        sa.Column("deleted", sa.BigInteger(), nullable=False),
        sa.Column("skipped", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("committed_at", UtcInstant(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_page_organization_id")),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_page_run_id")),
        sa.ForeignKeyConstraint(["stream_id"], ["stream.id"], name=op.f("fk_page_stream_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_page")),
        sa.UniqueConstraint("run_id", "number", name=op.f("uq_page_run_id_number")),
    )


def downgrade() -> None:
    op.drop_table("page")
    op.drop_table("idempotency")
    with op.batch_alter_table("dead_letter", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_dead_letter_open",
            sqlite_where=sa.text("acknowledged_at IS NULL"),
            postgresql_where=sa.text("acknowledged_at IS NULL"),
        )

    op.drop_table("dead_letter")
    op.drop_table("stream")
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_run_live",
            sqlite_where=sa.text("state IN ('queued', 'running', 'waiting', 'held')"),
            postgresql_where=sa.text("state IN ('queued', 'running', 'waiting', 'held')"),
        )
        batch_op.drop_index("ix_run_organization")
        batch_op.drop_index("ix_run_integration")
        batch_op.drop_index(
            "ix_run_due",
            sqlite_where=sa.text("state IN ('queued', 'running', 'waiting', 'held')"),
            postgresql_where=sa.text("state IN ('queued', 'running', 'waiting', 'held')"),
        )

    op.drop_table("run")
    op.drop_table("credential")
    op.drop_table("outbox")
    op.drop_table("integration")
    op.drop_table("record")
    op.drop_table("outcome")
    op.drop_table("organization")
    op.drop_table("change")
    with op.batch_alter_table("binding", schema=None) as batch_op:
        batch_op.drop_index("ix_binding_record")

    op.drop_table("binding")
    op.drop_table("api_key")
