"""Add to incidents when their alerts are stale.

Revision: 0018, after 0017. If it is interrupted, it can be run again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

INDEX = "incidents_stale_alerts_idx"


def upgrade() -> None:
    op.add_column("incidents", sa.Column("alerts_stale_at", sa.DateTime(timezone=True)), if_not_exists=True)
    op.add_column("incidents", sa.Column("alerts_stale_seconds", sa.Integer()), if_not_exists=True)
    with op.get_context().autocommit_block():
        # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index.
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        op.execute(
            f"CREATE INDEX CONCURRENTLY {INDEX} ON incidents (alerts_stale_at)"
            " WHERE status <> 2 AND alerts_stale_at IS NOT NULL"
        )


def downgrade() -> None:
    op.drop_index(INDEX, table_name="incidents")
    op.drop_column("incidents", "alerts_stale_seconds")
    op.drop_column("incidents", "alerts_stale_at")
