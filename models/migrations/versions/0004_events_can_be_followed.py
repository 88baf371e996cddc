"""Events and notifications can be followed.

Each row knows the transaction that wrote it, so that a reader's cursor is a snapshot: what commits late is not missed.

Revision: 0004, after 0003. It works with the previous release still running: the server fills the columns in.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from models.base import TransactionNumber

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = ("events", "notifications")


def upgrade() -> None:
    for table in TABLES:
        # These defaults are the same throughout a statement: the rows that exist are not rewritten.
        for name, default in (
            ("written_by", "pg_current_xact_id()"),
            ("written_after", "pg_snapshot_xmin(pg_current_snapshot())"),
        ):
            column = sa.Column(name, TransactionNumber(), server_default=sa.text(default), nullable=False)
            op.add_column(table, column)
        op.create_index(f"{table}_written_idx", table, ["organization_id", "written_by"], unique=False)


def downgrade() -> None:
    for table in TABLES:
        op.drop_index(f"{table}_written_idx", table_name=table)
        op.drop_column(table, "written_after")
        op.drop_column(table, "written_by")
