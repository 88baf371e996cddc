"""Add the id of the writing transaction to events and notifications, for streams.

With this id, a stream can use a snapshot as its cursor, so it does not miss rows that are committed late.

Revision: 0004, after 0003. It can be applied while the previous release is running: the columns have defaults.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = ("events", "notifications")
DEFAULTS = {"written_by": "pg_current_xact_id()", "written_after": "pg_snapshot_xmin(pg_current_snapshot())"}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table in TABLES:
            # The defaults are stable within a statement, so existing rows are not rewritten.
            for name, default in DEFAULTS.items():
                op.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {name} xid8 DEFAULT {default} NOT NULL")
            # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {table}_written_idx")
            op.execute(f"CREATE INDEX CONCURRENTLY {table}_written_idx ON {table} (organization_id, written_by)")


def downgrade() -> None:
    for table in TABLES:
        op.drop_index(f"{table}_written_idx", table_name=table)
        op.drop_column(table, "written_after")
        op.drop_column(table, "written_by")
