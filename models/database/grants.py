"""Database roles that give each process only the privileges that it needs.

The roles cannot log in: a deployment grants each of them to the login role of one process. The roles are optional. If
`tocsin migrate --roles` has created them, every later migration grants them exactly the privileges they need, and
limits which rows of the ledger they may write. Without them, nothing is limited.
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
_PROGRESS_COLUMNS: Final = (
    "state, attempts, timeouts, is_alone, error, fingerprint, next_attempt_at, claimed_at, finished_at"
)
# Those that models.messaging.command_ledger.NewCommand fills in. A new command has no outcome.
_ACCEPTED_COLUMNS: Final = (
    "id, type, subject, lane, organization_id, token_id, user_id, caller, payload, payload_version, expected_version,"
    " request_id, traceparent"
)

GRANTS: Final[dict[str, tuple[Grant, ...]]] = {
    # Accepts commands and imports the directory over HTTP. It never changes an incident.
    "tocsin_gateway": (
        Grant(f"INSERT ({_ACCEPTED_COLUMNS})", ("commands",)),
        # A caller may cancel a command that waits.
        Grant("UPDATE (state, finished_at)", ("commands",)),
        Grant("INSERT, UPDATE, DELETE", ("idempotency_keys",)),
        Grant("INSERT, DELETE", ("used_tickets",)),
        Grant("INSERT, UPDATE", ("process_heartbeats",)),
        *_DIRECTORY_CHANGES,
        *_OPERATIONS,
    ),
    "tocsin_worker": (
        Grant("INSERT", ("commands",)),
        Grant(f"UPDATE ({_PROGRESS_COLUMNS}, outcome_status, outcome_body, outcome_problem)", ("commands",)),
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
        Grant(f"INSERT ({_ACCEPTED_COLUMNS})", ("commands",)),
        Grant("UPDATE (announced_at)", ("events",)),
        Grant("UPDATE", ("command_floor", "holds", "bulk_operations", "requeued_commands")),
        Grant(f"UPDATE ({_PROGRESS_COLUMNS})", ("commands",)),
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
        Grant(f"INSERT ({_ACCEPTED_COLUMNS})", ("commands",)),
    ),
    # The command line.
    "tocsin_ops": (
        Grant("UPDATE (state, finished_at)", ("commands",)),
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


_OWN_SEQUENCES: Final[dict[str, tuple[str, ...]]] = {
    "tocsin_gateway": DIRECTORY,
    "tocsin_worker": (*INCIDENTS, *ALERT_RULES, "webhooks", "chat_destinations"),
    "tocsin_ops": DIRECTORY,
}
"""The tables of whose ids each role may draw the next one. Nobody but the owner may move a sequence."""

ADVANCE_SEQUENCE: Final = "advance_directory_sequence(text, bigint)"
"""The function with which an import moves a sequence of the directory past the ids in its document (migration 0019)."""

_FUNCTION_USERS: Final = ("tocsin_gateway", "tocsin_ops")

# See workers.handlers.subscriptions.unsubscribe.
_UNSUBSCRIBES_FOR_TOCSIN: Final = "type = 'incident.unsubscribe' AND caller = 'system' AND token_id IS NULL"
# See workers.relay.stale_alerts.
_CLOSES_STALE_ALERTS: Final = (
    "type = 'incident.set_status' AND caller = 'system' AND token_id IS NULL AND user_id IS NULL"
    " AND payload->>'status' = '2'"
)
# The session of a page has no token, but a person: see docs/decisions/0031-tickets-and-pages.md.
_NAMES_A_CALLER: Final = "caller <> 'system' AND (token_id IS NOT NULL OR caller = 'user:' || user_id)"
_DISCARDS: Final = "USING (state IN ('accepted', 'dead')) WITH CHECK (state = 'discarded')"
_FORGETS: Final = "USING (state IN ('applied', 'rejected', 'discarded'))"

ROW_POLICIES: Final[dict[str, dict[str, str]]] = {
    "public": {"SELECT": "USING (true)"},
    "tocsin_gateway": {
        "INSERT": f"WITH CHECK ({_NAMES_A_CALLER} OR {_UNSUBSCRIBES_FOR_TOCSIN})",
        "UPDATE": _DISCARDS,
    },
    "tocsin_worker": {"INSERT": "WITH CHECK (true)", "UPDATE": "USING (state = 'accepted') WITH CHECK (true)"},
    "tocsin_relay": {
        "INSERT": f"WITH CHECK ({_CLOSES_STALE_ALERTS})",
        "UPDATE": "USING (state = 'dead') WITH CHECK (state = 'accepted')",
        "DELETE": _FORGETS,
    },
    "tocsin_notifier": {"INSERT": f"WITH CHECK ({_UNSUBSCRIBES_FOR_TOCSIN})"},
    "tocsin_ops": {"UPDATE": _DISCARDS, "DELETE": _FORGETS},
}
"""Which rows of the ledger each role may write, by SQL command. The owner of the table may write every row.

A login that is a member of several roles may write what any of them may, as with :data:`GRANTS`.
"""


def create_roles(connection: Connection) -> list[str]:
    """Create the roles that do not exist yet, and return their names."""
    missing = [role for role in GRANTS if role not in _existing(connection)]
    for role in missing:
        connection.exec_driver_sql(f"CREATE ROLE {role} NOLOGIN")
    return missing


def grant_to_existing_roles(connection: Connection) -> None:
    """Grant each role that exists exactly the privileges it needs on the tables that exist."""
    roles = _existing(connection)
    if not roles:
        return
    schema = _schema(connection)
    tables = inspect(connection).get_table_names()
    for role in roles:
        connection.exec_driver_sql(f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {role}")
        connection.exec_driver_sql(f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {schema} FROM {role}")
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        connection.exec_driver_sql(f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role}")
        _grant(connection, role, "SELECT", (table for table in tables if table not in UNREADABLE_TABLES.get(role, ())))
        for privilege, names in GRANTS[role]:
            _grant(connection, role, privilege, (table for table in names if table in tables))
    _grant_sequences(connection, roles)
    _grant_function(connection, roles)
    _set_row_policies(connection, roles)
    _revoke_what_everybody_has(connection)


def _grant(connection: Connection, role: str, privilege: str, tables: Iterable[str]) -> None:
    if names := ", ".join(f'"{table}"' for table in tables):
        connection.exec_driver_sql(f"GRANT {privilege} ON {names} TO {role}")


def _grant_sequences(connection: Connection, roles: Iterable[str]) -> None:
    # Ids are generated before rows are inserted.
    for role in roles:
        rows = connection.exec_driver_sql(
            "SELECT quote_ident(s.relname) FROM pg_class s JOIN pg_depend d ON d.objid = s.oid AND d.deptype = 'i'"
            " JOIN pg_class t ON t.oid = d.refobjid"
            " WHERE s.relkind = 'S' AND s.relnamespace = current_schema()::regnamespace AND t.relname = ANY(%s)",
            (list(_OWN_SEQUENCES.get(role, ())),),
        )
        if names := ", ".join(rows.scalars()):
            connection.exec_driver_sql(f"GRANT USAGE ON SEQUENCE {names} TO {role}")


def _grant_function(connection: Connection, roles: Iterable[str]) -> None:
    # A restored backup may have an older schema, without the function.
    if connection.exec_driver_sql("SELECT to_regprocedure(%s)", (ADVANCE_SEQUENCE,)).scalar_one() is None:
        return
    connection.exec_driver_sql(f"REVOKE EXECUTE ON FUNCTION {ADVANCE_SEQUENCE} FROM PUBLIC")
    for role in roles:
        if role in _FUNCTION_USERS:
            connection.exec_driver_sql(f"GRANT EXECUTE ON FUNCTION {ADVANCE_SEQUENCE} TO {role}")


def _set_row_policies(connection: Connection, roles: Iterable[str]) -> None:
    """Create or replace the policies that differ, because each change locks the ledger for a moment."""
    if connection.exec_driver_sql("SELECT to_regclass('commands')").scalar_one() is None:
        return
    # PostgreSQL rewrites the expressions of a policy, so its text is kept in its comment.
    rows = connection.exec_driver_sql(
        "SELECT polname, obj_description(oid, 'pg_policy') AS text FROM pg_policy WHERE polrelid = 'commands'::regclass"
    )
    found = {row.polname: row.text for row in rows}
    wanted = {
        f"{role}_{command.lower()}": f"ON commands FOR {command} TO {role} {condition}"
        for role in ("public", *roles)
        for command, condition in ROW_POLICIES[role].items()
    }
    for name in found.keys() - wanted.keys():
        connection.exec_driver_sql(f'DROP POLICY "{name}" ON commands')
    for name, text in wanted.items():
        if found.get(name) != text:
            connection.exec_driver_sql(f"DROP POLICY IF EXISTS {name} ON commands")
            connection.exec_driver_sql(f"CREATE POLICY {name} {text}")
            quoted = text.replace("'", "''")
            connection.exec_driver_sql(f"COMMENT ON POLICY {name} ON commands IS '{quoted}'")
    is_enabled = "SELECT relrowsecurity FROM pg_class WHERE oid = 'commands'::regclass"
    if not connection.exec_driver_sql(is_enabled).scalar_one():
        connection.exec_driver_sql("ALTER TABLE commands ENABLE ROW LEVEL SECURITY")


def _revoke_what_everybody_has(connection: Connection) -> None:
    """Revoke temporary tables and large objects, which PostgreSQL permits everybody, as far as the user may do so."""
    database = connection.exec_driver_sql("SELECT quote_ident(current_database())").scalar_one()
    connection.exec_driver_sql(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
    functions = connection.exec_driver_sql(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace"
        " AND (proname ~ '^lo_' OR proname IN ('loread', 'lowrite')) AND pg_has_role(proowner, 'USAGE')"
    ).scalars()
    if names := ", ".join(functions):
        connection.exec_driver_sql(f"REVOKE EXECUTE ON FUNCTION {names} FROM PUBLIC")


def _existing(connection: Connection) -> list[str]:
    rows = connection.exec_driver_sql("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", (list(GRANTS),))
    return [row.rolname for row in rows]


def _schema(connection: Connection) -> str:
    return str(connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one())
