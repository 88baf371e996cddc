"""Add people's preferences for messages, and the incidents that they have muted.

Revision: 0013, after 0012. If it is interrupted, it can be run again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notification_preferences",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("document", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column(
            "date_modified", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("notification_preferences_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("notification_preferences_pkey")),
        if_not_exists=True,
    )
    op.create_table(
        "incident_mutes",
        sa.Column("incident_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["incident_id"], ["incidents.id"], name=op.f("incident_mutes_incident_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("incident_mutes_user_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("incident_id", "user_id", name=op.f("incident_mutes_pkey")),
        if_not_exists=True,
    )
    op.create_index("incident_mutes_user_id_idx", "incident_mutes", ["user_id"], if_not_exists=True)
    with op.get_context().autocommit_block():
        # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS deliveries_recent_idx")
        op.execute(
            "CREATE INDEX CONCURRENTLY deliveries_recent_idx ON deliveries (user_id, channel, date_created)"
            " WHERE user_id IS NOT NULL AND NOT is_merged"
        )


def downgrade() -> None:
    op.drop_index("deliveries_recent_idx", table_name="deliveries")
    op.drop_table("incident_mutes")
    op.drop_table("notification_preferences")
