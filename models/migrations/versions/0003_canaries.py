"""Add canaries, and make usernames unique regardless of case.

Revision: 0003, after 0002. It can be applied while the previous release is running.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


# The previous release keeps usernames unique with a lock. From this revision on, an index does.
ONE_USERNAME = "CREATE UNIQUE INDEX CONCURRENTLY users_username_lower_key ON users (lower(username))"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS users_username_lower_key")
        op.execute(ONE_USERNAME)
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS users_username_lower_idx")
    op.create_table(
        "canaries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("canaries_pkey")),
    )
    op.create_index("canaries_queue_sent_at_idx", "canaries", ["queue", "sent_at"])


def downgrade() -> None:
    op.create_index("users_username_lower_idx", "users", [sa.text("lower(username)")])
    op.drop_index("users_username_lower_key", table_name="users")
    op.drop_table("canaries")
