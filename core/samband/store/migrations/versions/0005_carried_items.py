"""Which items each kept file carries, to be found by their keys.

Revision: 0005, after 0004. There is no way back but a backup.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

OWNED = ("kept_file_item",)
_CARRIED_POSTGRESQL = """
    INSERT INTO kept_file_item (key, file_id, organization_id)
    SELECT DISTINCT k.value, f.id, f.organization_id
    FROM kept_file AS f, jsonb_array_elements_text(f.keys) AS k(value)"""
_CARRIED_SQLITE = """
    INSERT INTO kept_file_item (key, file_id, organization_id)
    SELECT DISTINCT k.value, f.id, f.organization_id
    FROM kept_file AS f, json_each(f.keys) AS k"""


def upgrade() -> None:
    op.create_table(
        "kept_file_item",
        sa.Column("key", sa.String(length=40), nullable=False),
        sa.Column("file_id", sa.String(), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["file_id"], ["kept_file.id"], name=op.f("fk_kept_file_item_file_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_kept_file_item_organization_id")
        ),
        sa.PrimaryKeyConstraint("key", "file_id", name=op.f("pk_kept_file_item")),
    )
    op.create_index("ix_kept_file_item_file", "kept_file_item", ["file_id"], unique=False)
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    op.execute(_CARRIED_POSTGRESQL if is_postgresql else _CARRIED_SQLITE)
    if is_postgresql:
        for table in OWNED:
            _wall(table)


def downgrade() -> None:
    raise NotImplementedError("Restore the backup that was made before the upgrade.")


def _wall(table: str) -> None:
    """The same wall as around the other tables; revision 0003 tells why it is written like this."""
    now = "(SELECT current_setting('samband.organization', true))"
    mine = f"CASE {now} WHEN '*' THEN true ELSE organization_id = {now} END"
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY organization_wall ON {table} USING ({mine}) WITH CHECK ({mine})")
