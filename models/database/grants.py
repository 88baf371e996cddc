"""Database roles that give each process only the privileges that it needs.

The roles cannot log in: a deployment grants each of them to the login role of one process. The roles are optional. If
`tocsin migrate --roles` has created them, every later migration grants them exactly the privileges they need.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from sqlalchemy import inspect
from sqlalchemy.engine import Connection

DIRECTORY: Final = ("organizations", "users", "projects", "teams", "members", "team_members", "project_teams", "tokens")
INCIDENTS: Final = (
    "incidents", "incident_projects", "incident_activities", "incident_seen", "incident_subscriptions",
)  # fmt: skip
ALERT_RULES: Final = (
    "alert_rules", "alert_rule_projects", "alert_rule_generations", "alert_rule_activities", "alert_rule_snoozes",
    "alert_rule_progress", "alert_rule_observations", "incident_triggers", "environments",
)  # fmt: skip
INBOX: Final = ("notifications", "notification_decisions")

OPERATIONS: Final = ("holds", "audit_entries", "bulk_operations")


class Grant(NamedTuple):
    """A privilege on tables. It may be limited to certain columns, as in ``UPDATE (planned_at)``."""

    privilege: str
    tables: tuple[str, ...]


_DIRECTORY_CHANGES: Final = (
    Grant("INSERT, UPDATE", DIRECTORY),
    # An import deletes rows of these tables. Rows that refer to them are deleted by cascade, which needs no privilege.
    Grant("DELETE", ("members", "project_teams")),
)

_OPERATIONS: Final = (
    Grant("INSERT", OPERATIONS),
    Grant("UPDATE", ("holds", "bulk_operations")),
    Grant("UPDATE (state, due_at, finished_at, detail)", ("deliveries",)),
)

_RETENTION: Final = Grant(
    "DELETE",
    (
        "commands", "command_failures", "requeued_commands", "events", "notifications", "notification_decisions",
        "deliveries", "delivery_attempts",
    ),
)  # fmt: skip
_REQUEUED_COLUMNS: Final = (
    "state, attempts, timeouts, is_alone, error, fingerprint, next_attempt_at, claimed_at, finished_at"
)

GRANTS: Final[dict[str, tuple[Grant, ...]]] = {
    # Accepts commands and imports the directory over HTTP. It never changes an incident.
    "tocsin_gateway": (
        Grant("INSERT", ("commands",)),
        # A caller may cancel a command that waits.
        Grant("UPDATE (state, finished_at)", ("commands",)),
        Grant("INSERT, UPDATE, DELETE", ("idempotency_keys",)),
        Grant("INSERT, DELETE", ("used_tickets",)),
        Grant("INSERT, UPDATE", ("process_heartbeats",)),
        *_DIRECTORY_CHANGES,
        *_OPERATIONS,
    ),
    "tocsin_worker": (
        Grant("INSERT, UPDATE", ("commands",)),
        Grant("INSERT, UPDATE, DELETE", (*INCIDENTS, *ALERT_RULES, "batches_in_hand")),
        Grant("INSERT, UPDATE", ("deliveries",)),
        Grant("INSERT, UPDATE, DELETE", ("webhooks", "chat_destinations")),
        Grant("INSERT", ("delivery_attempts", "command_failures")),
        Grant("INSERT, UPDATE", ("process_heartbeats",)),
        # Records whom a rule's action notifies, or why it does not notify them, and what became of each delivery.
        Grant("INSERT, UPDATE", ("notification_decisions",)),
        Grant("UPDATE", ("canaries",)),
        # Database triggers maintain these, with the privileges of the role that changes the incident.
        Grant("INSERT, UPDATE", ("incident_listing", "incident_titles")),
        Grant("INSERT", ("events",)),
        Grant("UPDATE", ("notifications",)),
        Grant("INSERT, UPDATE", ("notification_preferences",)),
        Grant("INSERT, UPDATE, DELETE", ("incident_mutes",)),
    ),
    # Publishes events, carries out requeues, records numbers, and deletes old rows.
    "tocsin_relay": (
        # A command closes the incident of stale alerts.
        Grant("INSERT", ("commands",)),
        Grant("UPDATE (announced_at)", ("events",)),
        Grant("UPDATE", ("command_floor", "holds", "bulk_operations", "requeued_commands")),
        Grant(f"UPDATE ({_REQUEUED_COLUMNS})", ("commands",)),
        Grant("INSERT", ("audit_entries", "requeued_commands")),
        Grant("INSERT, DELETE", ("canaries", "minute_series")),
        Grant("INSERT, UPDATE, DELETE", ("process_heartbeats",)),
        Grant("DELETE", ("idempotency_keys",)),
        _RETENTION,
    ),
    # Plans notifications. People who lost access are unsubscribed by a command, hence INSERT.
    "tocsin_notifier": (
        Grant("UPDATE (planned_at)", ("events",)),
        Grant("INSERT, UPDATE", (*INBOX, "deliveries", "process_heartbeats")),
        Grant("UPDATE", ("canaries",)),
        Grant("INSERT", ("commands",)),
    ),
    # The command line.
    "tocsin_ops": (
        Grant("UPDATE", ("commands",)),
        # Encrypts them with a new TOCSIN_SECRET.
        Grant("UPDATE (secret, previous_secret)", ("webhooks",)),
        Grant("UPDATE (url)", ("chat_destinations",)),
        *_DIRECTORY_CHANGES,
        *_OPERATIONS,
        _RETENTION,
    ),
}
"""The privileges of each role. Each role may also read every table except those in :data:`UNREADABLE_TABLES`."""

UNREADABLE_TABLES: Final[dict[str, tuple[str, ...]]] = {"tocsin_relay": ("tokens",), "tocsin_notifier": ("tokens",)}
"""The tables that each role may not read. A role that is not listed may read every table."""


def create_roles(connection: Connection) -> list[str]:
    """Create the roles that do not exist yet, and return their names."""
    missing = [role for role in GRANTS if role not in _existing(connection)]
    for role in missing:
        connection.exec_driver_sql(f"CREATE ROLE {role} NOLOGIN")
    return missing


def grant_to_existing_roles(connection: Connection) -> None:
    """Grant each role that exists exactly the privileges it needs on the tables that exist."""
    roles = _existing(connection)
    tables = inspect(connection).get_table_names() if roles else []
    for role in roles:
        connection.exec_driver_sql(f"REVOKE ALL ON ALL TABLES IN SCHEMA {_schema(connection)} FROM {role}")
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {_schema(connection)} TO {role}")
        # Ids are generated before rows are inserted, and an import advances sequences past the ids in its document.
        connection.exec_driver_sql(f"GRANT USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA {_schema(connection)} TO {role}")
        _grant(connection, role, "SELECT", (table for table in tables if table not in UNREADABLE_TABLES.get(role, ())))
        for privilege, names in GRANTS[role]:
            _grant(connection, role, privilege, (table for table in names if table in tables))


def _grant(connection: Connection, role: str, privilege: str, tables: Iterable[str]) -> None:
    if names := ", ".join(f'"{table}"' for table in tables):
        connection.exec_driver_sql(f"GRANT {privilege} ON {names} TO {role}")


def _existing(connection: Connection) -> list[str]:
    rows = connection.exec_driver_sql("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", (list(GRANTS),))
    return [row.rolname for row in rows]


def _schema(connection: Connection) -> str:
    return str(connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one())
