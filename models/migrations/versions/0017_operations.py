"""Add holds, the audit log, processes, numbers per minute, bulk operations, and indexes for searches in the ledger.

Revision: 0017, after 0016. If it is interrupted, it can be run again. The indexes are built while commands are
accepted; on a large ledger that takes minutes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

COLUMNS: tuple[tuple[str, sa.Column[object]], ...] = (
    ("commands", sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True)),
    ("commands", sa.Column("fingerprint", sa.Text(), nullable=True)),
    ("command_floor", sa.Column("lowered", sa.BigInteger(), server_default="0", nullable=False)),
)
# Commands that died under an earlier release.
SET_FINGERPRINTS = r"""
UPDATE commands SET fingerprint = left(md5(
    type || ' ' || regexp_replace(coalesce(error, ''), '[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|[0-9]+', '#', 'g')), 16)
WHERE state = 'dead' AND fingerprint IS NULL
"""
ENDED = "state <> 'accepted'"
INDEXES = {
    "commands_finished_idx": "(finished_at) WHERE finished_at IS NOT NULL",
    "commands_by_user_idx": f"(user_id, seq) WHERE {ENDED} AND user_id IS NOT NULL",
    "commands_by_type_idx": f"(type, organization_id, seq) WHERE {ENDED}",
    "commands_by_subject_idx": f"(subject, seq) WHERE {ENDED} AND starts_with(subject, 'incident:')",
    "commands_unsuccessful_idx": "(state, seq) WHERE state IN ('rejected', 'dead', 'discarded')",
    "commands_dead_idx": "(fingerprint, seq) WHERE state = 'dead'",
    "commands_trace_idx": "(split_part(traceparent, '-', 2)) WHERE traceparent IS NOT NULL",
}

DELIVERY_INDEXES = {
    "deliveries_finished_idx": "(finished_at) WHERE finished_at IS NOT NULL",
    "deliveries_by_user_idx": "(user_id, id) WHERE user_id IS NOT NULL",
    "deliveries_unsuccessful_idx": "(state, id) WHERE state IN ('failed', 'dead')",
}


def _now() -> sa.TextClause:
    return sa.text("clock_timestamp()")


def _id() -> sa.Column[object]:
    return sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    if nullable:
        return sa.Column(name, sa.DateTime(timezone=True), nullable=True)
    return sa.Column(name, sa.DateTime(timezone=True), server_default=_now(), nullable=False)


def upgrade() -> None:
    for table, column in COLUMNS:
        op.add_column(table, column, if_not_exists=True)
    op.execute(SET_FINGERPRINTS)
    with op.get_context().autocommit_block():
        for table, indexes in (("commands", INDEXES), ("deliveries", DELIVERY_INDEXES)):
            for name, definition in indexes.items():
                # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index.
                op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
                op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {table} {definition}")
    op.create_table(
        "holds",
        _id(),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("held_by", sa.Text(), nullable=False),
        _time("since"),
        _time("release_at", nullable=True),
        _time("released_at", nullable=True),
        sa.Column("released_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("holds_pkey")),
        sa.CheckConstraint("scope IN ('queue', 'type', 'channel', 'organization')", name=op.f("holds_scope_check")),
    )
    op.create_index(
        "holds_in_force_key", "holds", ["scope", "target"], unique=True, postgresql_where=sa.text("released_at IS NULL")
    )
    op.create_table(
        "audit_entries",
        _id(),
        _time("at"),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("before", postgresql.JSONB(), nullable=True),
        sa.Column("after", postgresql.JSONB(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("audit_entries_pkey")),
    )
    op.create_table(
        "process_heartbeats",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        _time("started_at"),
        _time("last_seen_at"),
        sa.Column("lanes", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("finished", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("finished_per_minute", sa.Integer(), nullable=True),
        sa.Column("rss_bytes", sa.BigInteger(), nullable=True),
        _time("ended_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("process_heartbeats_pkey")),
    )
    op.create_table(
        "minute_series",
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("numbers", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("at", name=op.f("minute_series_pkey")),
    )
    op.create_table(
        "bulk_operations",
        _id(),
        _time("created_at"),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("selection", postgresql.JSONB(), nullable=False),
        sa.Column("rate_per_second", sa.Integer(), nullable=True),
        sa.Column("stop_after", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("matching", sa.Integer(), nullable=False),
        sa.Column("requeued", sa.Integer(), server_default="0", nullable=False),
        sa.Column("died_again", sa.Integer(), server_default="0", nullable=False),
        _time("advanced_at"),
        _time("ended_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("bulk_operations_pkey")),
    )
    op.create_index(
        "bulk_operations_running_idx", "bulk_operations", ["id"], postgresql_where=sa.text("state = 'running'")
    )
    op.create_table(
        "requeued_commands",
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("command_id", sa.Uuid(), nullable=False),
        _time("at"),
        _time("died_at", nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("is_settled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("died_again", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("operation_id", "command_id", name=op.f("requeued_commands_pkey")),
        sa.ForeignKeyConstraint(
            ["operation_id"],
            ["bulk_operations.id"],
            name=op.f("requeued_commands_operation_id_fkey"),
            ondelete="CASCADE",
        ),
    )
    op.create_index("requeued_commands_command_id_idx", "requeued_commands", ["command_id"])
    op.create_index(
        "requeued_commands_unsettled_idx",
        "requeued_commands",
        ["operation_id"],
        postgresql_where=sa.text("NOT is_settled"),
    )
    op.create_table(
        "command_failures",
        _id(),
        sa.Column("command_id", sa.Uuid(), nullable=False),
        _time("at"),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("command_failures_pkey")),
    )
    op.create_index("command_failures_command_id_idx", "command_failures", ["command_id"])


def downgrade() -> None:
    for table in (
        "command_failures",
        "requeued_commands",
        "bulk_operations",
        "minute_series",
        "process_heartbeats",
        "audit_entries",
        "holds",
    ):
        op.drop_table(table)
    for name in INDEXES:
        op.drop_index(name, table_name="commands")
    for name in DELIVERY_INDEXES:
        op.drop_index(name, table_name="deliveries")
    for table, column in reversed(COLUMNS):
        op.drop_column(table, column.name)
