"""Add indexes by lane, a floor and a timeout counter for waiting commands, and make the batches in flight unlogged.

Revision: 0010, after 0009. It can only be applied after 0009, so the processes of 0.1.0 are already stopped. If it is
interrupted, it can be run again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

WAITING = "state = 'accepted'"
INDEXES = {
    "commands_waiting_by_lane_idx": f"(lane, seq) WHERE {WAITING}",
    "commands_retry_idx": f"(next_attempt_at) WHERE {WAITING} AND next_attempt_at IS NOT NULL",
}


ADD_COLUMNS = """
ALTER TABLE commands ADD COLUMN IF NOT EXISTS payload_version smallint NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS timeouts smallint NOT NULL DEFAULT 0
"""
SET_UNLOGGED = "ALTER TABLE batches_in_hand SET UNLOGGED"


def upgrade() -> None:
    for statement in (ADD_COLUMNS, SET_UNLOGGED):
        op.execute(statement)
    with op.get_context().autocommit_block():
        for name, definition in INDEXES.items():
            # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON commands {definition}")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS commands_waiting_idx")
    op.create_table(
        "command_floor",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("command_floor_pkey")),
    )
    op.execute("INSERT INTO command_floor (seq) VALUES (0)")


def downgrade() -> None:
    op.execute("ALTER TABLE batches_in_hand SET LOGGED")
    op.drop_column("commands", "timeouts")
    op.drop_column("commands", "payload_version")
    op.drop_table("command_floor")
    op.create_index("commands_waiting_idx", "commands", ["seq"], postgresql_where=sa.text(WAITING))
    for name in INDEXES:
        op.drop_index(name, table_name="commands")
