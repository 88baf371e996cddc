"""Add to commands why they were refused, and an index of each caller's commands.

Revision: 0015, after 0014. If it is interrupted, it can be run again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

INDEX = "commands_caller_idx"


def upgrade() -> None:
    op.add_column(
        "commands",
        sa.Column("outcome_problem", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        if_not_exists=True,
    )
    with op.get_context().autocommit_block():
        # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index.
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        op.execute(f"CREATE INDEX CONCURRENTLY {INDEX} ON commands (caller, seq)")


def downgrade() -> None:
    op.drop_index(INDEX, table_name="commands")
    op.drop_column("commands", "outcome_problem")
