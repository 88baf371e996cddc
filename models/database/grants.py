"""What each process may do in the database, where it has a role of its own.

The group roles cannot log in: a deployment grants them to login roles of its own, one a process. They are opt-in
(`tocsin migrate --roles` makes them); once they exist, every migration grants them what they need and no more.
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


class Right(NamedTuple):
    """A privilege, of columns if it names some, on tables."""

    privilege: str
    tables: tuple[str, ...]


_DIRECTORY_CHANGES: Final = (
    Right("INSERT, UPDATE", DIRECTORY),
    # An import takes these away; what hangs on them goes by foreign key.
    Right("DELETE", ("members", "project_teams")),
)

GRANTS: Final[dict[str, tuple[Right, ...]]] = {
    # Takes commands in; the directory comes over HTTP too. It changes nothing of an incident.
    "tocsin_gateway": (
        Right("INSERT", ("commands",)),
        Right("INSERT, UPDATE, DELETE", ("idempotency_keys",)),
        *_DIRECTORY_CHANGES,
    ),
    "tocsin_worker": (
        Right("INSERT, UPDATE", ("commands",)),
        Right("INSERT, UPDATE, DELETE", (*INCIDENTS, *ALERT_RULES, "batches_in_hand")),
        Right("INSERT, UPDATE", ("deliveries",)),
        # Whom a rule's action reaches, or why it does not.
        Right("INSERT", ("notification_decisions",)),
        Right("UPDATE", ("canaries",)),
        # The triggers that keep the list write with the rights of whoever changes the incident.
        Right("INSERT, UPDATE", ("incident_listing", "incident_titles")),
        Right("INSERT", ("events",)),
        Right("UPDATE", ("notifications",)),
    ),
    # Announces, and sweeps what is old.
    "tocsin_relay": (
        Right("UPDATE (announced_at)", ("events",)),
        Right("DELETE", ("idempotency_keys",)),
        Right("INSERT, DELETE", ("canaries",)),
    ),
    # Plans; who may not read an incident any more is unsubscribed by a command, not by a change.
    "tocsin_notifier": (
        Right("UPDATE (planned_at)", ("events",)),
        Right("INSERT, UPDATE", INBOX),
        Right("INSERT", ("commands",)),
    ),
    # The operator's command line.
    "tocsin_ops": (
        Right("UPDATE", ("commands",)),
        *_DIRECTORY_CHANGES,
    ),
}
"""What each role may change; each may read every table, but for :data:`UNREAD`."""

UNREAD: Final[dict[str, tuple[str, ...]]] = {"tocsin_relay": ("tokens",), "tocsin_notifier": ("tokens",)}
"""Tables that are none of a role's business."""


def create_roles(connection: Connection) -> list[str]:
    """Make those of the roles that do not exist, and say which."""
    made = [role for role in GRANTS if role not in _existing(connection)]
    for role in made:
        connection.exec_driver_sql(f"CREATE ROLE {role} NOLOGIN")
    return made


def grant_to_existing_roles(connection: Connection) -> None:
    """Give each role exactly what it needs of the tables there are; without the roles, nothing happens."""
    roles = _existing(connection)
    tables = inspect(connection).get_table_names() if roles else []
    for role in roles:
        connection.exec_driver_sql(f"REVOKE ALL ON ALL TABLES IN SCHEMA {_schema(connection)} FROM {role}")
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {_schema(connection)} TO {role}")
        # Ids are drawn before rows are written, and moved past those that an import carries over.
        connection.exec_driver_sql(f"GRANT USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA {_schema(connection)} TO {role}")
        _grant(connection, role, "SELECT", (table for table in tables if table not in UNREAD.get(role, ())))
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
