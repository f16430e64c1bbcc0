"""Finding in the audit trail who has fetched a kept file.

Revision: 0006, after 0005. There is no way back but a backup.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_audit_entry_download", "audit_entry", ["organization_id", "subject"], unique=False,
        sqlite_where=sa.text("action = 'export_file.downloaded'"),
        postgresql_where=sa.text("action = 'export_file.downloaded'"),
    )  # fmt: skip


def downgrade() -> None:
    raise NotImplementedError("Restore the backup that was made before the upgrade.")
