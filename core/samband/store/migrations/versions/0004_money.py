"""Money: claims with their history, corrections, mappings, the other side's chart, vouchers, kept files.

Revision: 0004, after 0003. There is no way back but a backup.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from samband.store.columns import UtcInstant

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
LIVE = "state IN ('reserved', 'sent', 'accepted', 'posted', 'unknown')"
OWNED = ("chart_copy", "correction", "drop_point", "kept_file", "mapping", "reimbursement_version")


def upgrade() -> None:
    _create_tables()
    _extend_items()
    _begin_histories()
    if op.get_bind().dialect.name == "postgresql":
        for table in OWNED:
            _wall(table)


def downgrade() -> None:
    raise NotImplementedError("Restore the backup that was made before the upgrade.")


def _begin_histories() -> None:
    """Gives claims that are there already the version they are in as their first known one."""
    op.execute(
        "INSERT INTO reimbursement_version"
        " (organization_id, reimbursement_id, version, status, body, digest, actor, created_at)"
        " SELECT organization_id, id, version, status, body, digest, '', updated_at FROM reimbursement"
    )


def _wall(table: str) -> None:
    """The same wall as around the other tables; revision 0003 tells why it is written like this."""
    now = "(SELECT current_setting('samband.organization', true))"
    mine = f"CASE {now} WHEN '*' THEN true ELSE organization_id = {now} END"
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY organization_wall ON {table} USING ({mine}) WITH CHECK ({mine})")


def _extend_items() -> None:
    op.add_column("export_item", sa.Column("purpose", sa.String(length=16), nullable=False, server_default="booking"))
    op.add_column("export_item", sa.Column("reverses", sa.String(length=40), nullable=True))
    op.add_column("export_item", sa.Column("voucher_number", sa.Integer(), nullable=True))
    op.add_column("export_item", sa.Column("voucher", JSON, nullable=True))
    op.add_column("export_item", sa.Column("mapping_version", sa.Integer(), nullable=True))
    op.add_column("export_item", sa.Column("period", sa.String(length=7), nullable=True))
    op.add_column("export_item", sa.Column("route", sa.String(length=40), nullable=True))
    op.add_column("export_item", sa.Column("accepted_at", UtcInstant(), nullable=True))
    op.add_column("export_item", sa.Column("posted_at", UtcInstant(), nullable=True))
    op.add_column("export_item", sa.Column("looked_up_at", UtcInstant(), nullable=True))
    op.drop_index("uq_export_item_live", table_name="export_item")
    op.create_index(
        "uq_export_item_live",
        "export_item",
        ["organization_id", "reimbursement_id"],
        unique=True,
        sqlite_where=sa.text(f"purpose = 'booking' AND {LIVE}"),
        postgresql_where=sa.text(f"purpose = 'booking' AND {LIVE}"),
    )
    op.create_index(
        "uq_export_item_reversal",
        "export_item",
        ["organization_id", "reverses"],
        unique=True,
        sqlite_where=sa.text(f"purpose = 'reversal' AND {LIVE}"),
        postgresql_where=sa.text(f"purpose = 'reversal' AND {LIVE}"),
    )
    op.create_index("ix_export_item_period", "export_item", ["organization_id", "period"], unique=False)
    op.create_index(
        "uq_export_item_voucher",
        "export_item",
        ["integration_id", "voucher_number"],
        unique=True,
        sqlite_where=sa.text("voucher_number IS NOT NULL"),
        postgresql_where=sa.text("voucher_number IS NOT NULL"),
    )


def _create_tables() -> None:
    op.create_table(
        "correction",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("reimbursement_id", sa.String(length=100), nullable=False),
        sa.Column("item_key", sa.String(length=40), nullable=False),
        sa.Column("reversal_key", sa.String(length=40), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("body", JSON, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("proposed_by", sa.String(length=200), nullable=False),
        sa.Column("decided_by", sa.String(length=200), nullable=True),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.Column("decided_at", UtcInstant(), nullable=True),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_correction_organization_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_correction")),
    )
    op.create_index("ix_correction_state", "correction", ["organization_id", "state", "id"], unique=False)
    op.create_index(
        "uq_correction_open",
        "correction",
        ["organization_id", "reimbursement_id"],
        unique=True,
        sqlite_where=sa.text("state IN ('proposed', 'approved')"),
        postgresql_where=sa.text("state IN ('proposed', 'approved')"),
    )
    op.create_table(
        "reimbursement_version",
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("reimbursement_id", sa.String(length=100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("body", JSON, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_reimbursement_version_organization_id")
        ),
        sa.PrimaryKeyConstraint(
            "organization_id", "reimbursement_id", "version", name=op.f("pk_reimbursement_version")
        ),
    )
    op.create_table(
        "chart_copy",
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("body", JSON, nullable=False),
        sa.Column("findings", JSON, nullable=False),
        sa.Column("read_at", UtcInstant(), nullable=False),
        sa.Column("next_read_at", UtcInstant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["integration_id"], ["integration.id"], name=op.f("fk_chart_copy_integration_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_chart_copy_organization_id")),
        sa.PrimaryKeyConstraint("integration_id", name=op.f("pk_chart_copy")),
    )
    op.create_table(
        "drop_point",
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("settings", JSON, nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=True),
        sa.Column("hint", sa.String(length=8), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("updated_at", UtcInstant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["integration_id"], ["integration.id"], name=op.f("fk_drop_point_integration_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_drop_point_organization_id")),
        sa.PrimaryKeyConstraint("integration_id", name=op.f("pk_drop_point")),
    )
    op.create_table(
        "kept_file",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(length=32), nullable=True),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("profile", sa.String(length=16), nullable=False),
        sa.Column("media_type", sa.String(length=100), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("keys", JSON, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.Column("delivered_at", UtcInstant(), nullable=True),
        sa.Column("acknowledged_at", UtcInstant(), nullable=True),
        sa.ForeignKeyConstraint(
            ["integration_id"], ["integration.id"], name=op.f("fk_kept_file_integration_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_kept_file_organization_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_kept_file")),
    )
    op.create_index("ix_kept_file_organization", "kept_file", ["organization_id", "id"], unique=False)
    op.create_table(
        "mapping",
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("body", JSON, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("effective_from", sa.Date(), nullable=False),
        sa.Column("author", sa.String(length=200), nullable=False),
        sa.Column("note", sa.String(length=400), nullable=False),
        sa.Column("restored_from", sa.Integer(), nullable=True),
        sa.Column("created_at", UtcInstant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["integration_id"], ["integration.id"], name=op.f("fk_mapping_integration_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_mapping_organization_id")),
        sa.PrimaryKeyConstraint("integration_id", "version", name=op.f("pk_mapping")),
    )
