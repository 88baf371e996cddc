"""The tables of operations: the audit log, processes, numbers per minute, and bulk operations."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Identity, Index, Integer, SmallInteger, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB

from models.base import METADATA, TextList, Timestamp, foreign_key, timestamp_column

audit_entries = Table(
    "audit_entries",
    METADATA,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    timestamp_column("at"),
    # For example "ops:7" for a token, "terminal:ana", or "tocsin".
    Column("who", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("before", JSONB, nullable=True),
    Column("after", JSONB, nullable=True),
    Column("reason", Text, nullable=False),
)

process_heartbeats = Table(
    "process_heartbeats",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),
    timestamp_column("started_at"),
    timestamp_column("last_seen_at"),
    Column("lanes", TextList, nullable=False, server_default=text("'{}'")),
    # The name under which a worker records the batch that it is applying, in batches_in_hand.
    Column("worker", Text, nullable=True),
    # Commands finished, events published or planned, requests answered: since the start, by kind.
    Column("finished", BigInteger, nullable=False, server_default="0"),
    Column("finished_per_minute", Integer, nullable=True),
    Column("rss_bytes", BigInteger, nullable=True),
    timestamp_column("ended_at", nullable=True),
)

minute_series = Table(
    "minute_series",
    METADATA,
    # The start of the minute.
    Column("at", Timestamp, primary_key=True),
    # Numbers by the name of their series.
    Column("numbers", JSONB, nullable=False),
)

bulk_operations = Table(
    "bulk_operations",
    METADATA,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    timestamp_column("created_at"),
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False),
    # What was selected: {"ids": […]}, {"fingerprint": …} or {"all": true}.
    Column("selection", JSONB, nullable=False),
    Column("rate_per_second", Integer, nullable=True),
    Column("stop_after", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("detail", Text, nullable=True),
    Column("matching", Integer, nullable=False),
    Column("requeued", Integer, nullable=False, server_default="0"),
    Column("died_again", Integer, nullable=False, server_default="0"),
    timestamp_column("advanced_at"),
    timestamp_column("ended_at", nullable=True),
)
Index("bulk_operations_running_idx", bulk_operations.c.id, postgresql_where=text("state = 'running'"))

requeued_commands = Table(
    "requeued_commands",
    METADATA,
    foreign_key("operation_id", "bulk_operations.id", primary_key=True),
    Column("command_id", Uuid, primary_key=True),
    timestamp_column("at"),
    # What was known about the death that the requeue undid.
    timestamp_column("died_at", nullable=True),
    Column("error", Text, nullable=True),
    Column("attempts", SmallInteger, nullable=False),
    # Whether it has ended since, and how.
    Column("is_settled", Boolean, nullable=False, server_default=text("false")),
    Column("died_again", Boolean, nullable=False, server_default=text("false")),
)
Index("requeued_commands_command_id_idx", requeued_commands.c.command_id)
Index(
    "requeued_commands_unsettled_idx",
    requeued_commands.c.operation_id,
    postgresql_where=text("NOT is_settled"),
)
