"""Add to deliveries what is needed to send them, and a table of attempts.

Revision: 0011, after 0010. Deliveries that an earlier release recorded were never sent, and are cancelled. If it is interrupted, it can be run
again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

NULLABLE = ("incident_id", "activity_id", "method", "status")
COLUMNS: tuple[sa.Column[object], ...] = (
    sa.Column("event_id", sa.Uuid(), nullable=True),
    sa.Column("event_type", sa.Text(), nullable=True),
    sa.Column("reason", sa.Text(), nullable=True),
    sa.Column("destination_id", sa.BigInteger(), nullable=True),
    sa.Column("target_key", sa.Text(), server_default="", nullable=False),
    sa.Column("is_merged", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    sa.Column("merged_into", sa.Uuid(), nullable=True),
    sa.Column("body", sa.LargeBinary(), nullable=True),
    sa.Column("claimed_by", sa.Uuid(), nullable=True),
    sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("detail", sa.Text(), nullable=True),
)

INDEXES = {
    "deliveries_unclaimed_idx": "(target_key, due_at) WHERE state = 'pending' AND claimed_by IS NULL",
    "deliveries_claimed_idx": "(claimed_by) WHERE claimed_by IS NOT NULL",
    "deliveries_of_user_idx": "(user_id, channel) WHERE state = 'pending'",
    "deliveries_of_destination_idx": "(channel, destination_id, id)",
    "deliveries_organization_id_idx": "(organization_id, id)",
}
# The previous release inserts only rows that these do not cover.
UNIQUE_INDEXES = {
    "deliveries_person_key": "(activity_id, user_id, channel, coalesce(destination_id, 0))"
    " WHERE action_id IS NULL AND user_id IS NOT NULL",
    "deliveries_destination_key": "(event_id, channel, destination_id)"
    " WHERE destination_id IS NOT NULL AND user_id IS NULL",
}


def upgrade() -> None:
    for column in COLUMNS:
        op.add_column("deliveries", column, if_not_exists=True)
    for name in NULLABLE:
        op.alter_column("deliveries", name, nullable=True)
    op.execute("UPDATE deliveries SET state = 'cancelled', finished_at = now(), detail = 'not sent by this release'")
    with op.get_context().autocommit_block():
        for kind, indexes in (("INDEX", INDEXES), ("UNIQUE INDEX", UNIQUE_INDEXES)):
            for name, definition in indexes.items():
                # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index.
                op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
                op.execute(f"CREATE {kind} CONCURRENTLY {name} ON deliveries {definition}")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS deliveries_due_idx")
    op.create_table(
        "delivery_attempts",
        sa.Column("delivery_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("delivery_id", "number", name=op.f("delivery_attempts_pkey")),
    )


def downgrade() -> None:
    op.drop_table("delivery_attempts")
    for name in (*UNIQUE_INDEXES, *INDEXES):
        op.drop_index(name, table_name="deliveries")
    op.create_index("deliveries_due_idx", "deliveries", ["due_at"], postgresql_where=sa.text("state = 'pending'"))
    # The earlier release knows only deliveries of rule actions.
    op.execute("DELETE FROM deliveries WHERE action_id IS NULL OR incident_id IS NULL")
    for name in NULLABLE:
        op.alter_column("deliveries", name, nullable=False)
    for column in reversed(COLUMNS):
        op.drop_column("deliveries", column.name)
