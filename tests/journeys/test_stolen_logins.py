"""What the login of each process may do in the database, statement by statement, and what it may not.

docs/decisions/0011-database-roles.md says what whoever has stolen one of them could therefore still do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from models.database.errors import sqlstate
from models.database.grants import GRANTS, create_roles, grant_to_existing_roles
from models.directory.importer import import_directory
from models.enums import CommandState
from models.messaging.claims import CANCEL_COMMAND
from models.messaging.command_ledger import NewCommand
from models.tables import METADATA
from tests.builders import an_accepted_command
from tests.conftest import Database
from tests.handlers.acme import Acme
from tests.journeys.roles import engine_of

INSUFFICIENT_PRIVILEGE: Final = "42501"

# --- which tables ------------------------------------------------------------------------------------------------

WRITES: Final[dict[str, str]] = {
    "gateway": """
        commands: insert update; idempotency_keys: insert update delete; used_tickets: insert delete;
        process_heartbeats: insert update;
        organizations: insert update; users: insert update; projects: insert update; teams: insert update;
        members: insert update delete; team_members: insert update; project_teams: insert update delete;
        tokens: insert update;
        holds: insert update; audit_entries: insert; bulk_operations: insert update; deliveries: update
    """,
    "worker": """
        commands: insert update; command_failures: insert; batches_in_hand: insert update delete; canaries: update;
        incidents: insert update delete; incident_projects: insert update delete;
        incident_activities: insert update delete; incident_seen: insert update delete;
        incident_subscriptions: insert update delete; incident_mutes: insert update delete;
        incident_listing: insert update; incident_titles: insert update;
        alert_rules: insert update delete; alert_rule_projects: insert update delete;
        alert_rule_generations: insert update delete; alert_rule_activities: insert update delete;
        alert_rule_snoozes: insert update delete; alert_rule_progress: insert update delete;
        alert_rule_observations: insert update delete; incident_triggers: insert update delete;
        environments: insert update delete;
        webhooks: insert update delete; chat_destinations: insert update delete;
        deliveries: insert update; delivery_attempts: insert; events: insert; notifications: update;
        notification_decisions: insert update; notification_preferences: insert update;
        process_heartbeats: insert update
    """,
    "relay": """
        commands: insert update delete; command_failures: delete; command_floor: update;
        requeued_commands: insert update delete; idempotency_keys: delete; events: update delete;
        notifications: delete; notification_decisions: delete; deliveries: delete; delivery_attempts: delete;
        canaries: insert delete; minute_series: insert delete; holds: update; bulk_operations: update;
        audit_entries: insert; process_heartbeats: insert update delete
    """,
    "notifier": """
        commands: insert; events: update; notifications: insert update; notification_decisions: insert update;
        deliveries: insert update; process_heartbeats: insert update; canaries: update
    """,
    "ops": """
        commands: update delete; command_failures: delete; requeued_commands: delete; events: delete;
        notifications: delete; notification_decisions: delete; deliveries: update delete; delivery_attempts: delete;
        webhooks: update; chat_destinations: update;
        organizations: insert update; users: insert update; projects: insert update; teams: insert update;
        members: insert update delete; team_members: insert update; project_teams: insert update delete;
        tokens: insert update;
        holds: insert update; audit_entries: insert; bulk_operations: insert update
    """,
}
"""The tables that each role may write, and how. Each may read every table, but relay and notifier not the tokens."""

IN_SOME_COLUMN: Final = ("select", "insert", "update")
PRIVILEGES: Final = (*IN_SOME_COLUMN, "delete", "truncate", "references", "trigger")


def expected_rights(role: str) -> dict[str, set[str]]:
    listed = dict(entry.split(":") for entry in "".join(WRITES[role].split("\n")).split(";"))
    writes = {table.strip(): set(privileges.split()) for table, privileges in listed.items()}
    unreadable = {"tokens"} if role in {"relay", "notifier"} else set()
    return {
        table: writes.get(table, set()) | ({"select"} if table not in unreadable else set())
        for table in METADATA.tables
    }


@pytest.fixture
def granted(database: Database) -> Iterator[Connection]:
    """A transaction in which the roles exist and have their privileges."""
    with database.engine.connect() as connection:
        create_roles(connection)
        grant_to_existing_roles(connection)
        yield connection
        connection.rollback()


@pytest.mark.parametrize("role", WRITES)
def test_a_role_has_these_rights_on_tables_and_no_others(granted: Connection, role: str) -> None:
    found: dict[str, set[str]] = {table: set() for table in METADATA.tables}
    for privilege in PRIVILEGES:
        function = "has_any_column_privilege" if privilege in IN_SOME_COLUMN else "has_table_privilege"
        for table in found:
            parameters = (f"tocsin_{role}", table, privilege)
            if granted.exec_driver_sql(f"SELECT {function}(%s, %s, %s)", parameters).scalar_one():
                found[table].add(privilege)

    assert found == expected_rights(role)


@pytest.mark.parametrize("role", ["gateway", "notifier"])
def test_a_new_command_has_the_columns_that_acceptance_fills_in_and_no_outcome(granted: Connection, role: str) -> None:
    columns = granted.exec_driver_sql(
        "SELECT column_name FROM information_schema.column_privileges"
        " WHERE table_name = 'commands' AND privilege_type = 'INSERT' AND grantee = %s",
        (f"tocsin_{role}",),
    ).scalars()

    assert set(columns) == set(NewCommand._fields) - {"incident"}


# --- which rows --------------------------------------------------------------------------------------------------


def inserting(
    type_: str = "incident.set_status", *, caller: str = "user:15", token: int | str = 5, user: int | str = 15
) -> str:
    """Return the statement that inserts a command."""
    return (
        "INSERT INTO commands (id, type, subject, lane, organization_id, token_id, user_id, caller, payload) VALUES"
        f" (gen_random_uuid(), '{type_}', 'incident:1:1', 'commands', 1, {token}, {user}, '{caller}', '{{}}')"
    )


def updating(change: str, state: str) -> str:
    """Return the statement that changes the only command with this state."""
    return f"UPDATE commands SET {change} WHERE state = '{state}'"


AS_SYSTEM: Final = inserting(caller="system", token="NULL")
AS_SESSION: Final = inserting(token="NULL")
CLOSING_STALE: Final = AS_SYSTEM.replace(", 15, 'system', '{}')", ", NULL, 'system', '{\"status\": 2}')")
REOPENING: Final = CLOSING_STALE.replace('"status": 2', '"status": 1')
UNSUBSCRIBING: Final = inserting("incident.unsubscribe", caller="system", token="NULL")
WITH_OUTCOME: Final = (
    "INSERT INTO commands (id, type, subject, lane, token_id, caller, payload, state, outcome_status)"
    " VALUES (gen_random_uuid(), 'comment.post', 's', 'commands', 5, 'user:15', '{}', 'applied', 201)"
)
DISCARDING: Final = "state = 'discarded', finished_at = now()"
FORGETTING: Final = "DELETE FROM commands WHERE state = '{}'"
ADVANCING: Final = "SELECT advance_directory_sequence('users_id_seq', 900)"
TOKEN: Final = "INSERT INTO tokens (hash, kind, user_id) VALUES ('x', 'user', 15)"

EVERYBODY_REFUSED: Final = (
    "SELECT setval('users_id_seq', 1)",
    "SELECT setval('commands_seq_seq', 1)",
    "SELECT setval('alert_rules_id_seq', 1)",
    "ALTER SEQUENCE incidents_id_seq RESTART",
    "CREATE TEMPORARY TABLE mine (id int)",
    "CREATE TABLE mine (id int)",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_import('/etc/hostname')",
    "TRUNCATE commands",
    "ALTER TABLE commands DISABLE ROW LEVEL SECURITY",
    "DROP POLICY public_select ON commands",
    "SET ROLE tocsin",
    "SET session_replication_role = replica",
    "COPY commands TO '/tmp/commands'",
    "SELECT pg_read_file('/etc/hostname')",
    "CREATE EXTENSION dblink",
    "SELECT advance_directory_sequence('commands_seq_seq', 1000000)",
    updating("payload = '{}'", "applied"),
    updating("outcome_status = 500", "rejected"),
    FORGETTING.format("accepted"),
    FORGETTING.format("dead"),
)

ALLOWED: Final[dict[str, tuple[str, ...]]] = {
    "gateway": (
        # In the name of anybody: this is what a stolen gateway could do.
        inserting(), AS_SESSION, TOKEN, ADVANCING, "UPDATE members SET role = 'owner'",
        # A link in a mail unsubscribes those who lost access: docs/decisions/0031-tickets-and-pages.md.
        UNSUBSCRIBING,
        updating(DISCARDING, "accepted"), updating(DISCARDING, "dead"),
        "SELECT nextval('users_id_seq')", "SELECT hash FROM tokens", "SELECT outcome_body FROM commands",
    ),
    "worker": (
        inserting(), AS_SYSTEM, updating("state = 'applied'", "accepted"), "UPDATE incidents SET status = 2",
        "SELECT nextval('incidents_id_seq')", "SELECT nextval('webhooks_id_seq')",
        "INSERT INTO chat_destinations SELECT * FROM chat_destinations",
    ),
    "relay": (
        CLOSING_STALE, updating("state = 'accepted', attempts = 0", "dead"), "UPDATE events SET announced_at = now()",
        *(FORGETTING.format(state) for state in ("applied", "rejected", "discarded")),
    ),
    "notifier": (UNSUBSCRIBING, "UPDATE events SET planned_at = now()"),
    "ops": (
        TOKEN, ADVANCING, updating(DISCARDING, "accepted"), updating(DISCARDING, "dead"),
        FORGETTING.format("applied"), "SELECT nextval('teams_id_seq')",
    ),
}  # fmt: skip
"""Statements that each login may execute, and that change a row if they change any."""

REFUSED: Final[dict[str, tuple[str, ...]]] = {
    "gateway": (
        AS_SYSTEM, WITH_OUTCOME,
        inserting("incident.unsubscribe", caller="system"),
        inserting(caller="system"),
        inserting(caller="service:1:bot", token="NULL"),
        inserting(caller="user:15", token="NULL", user=11),
        inserting(caller="user:15", token="NULL", user="NULL"),
        updating("state = 'applied'", "accepted"), updating("state = 'accepted'", "dead"),
        updating(DISCARDING, "applied"), updating(DISCARDING, "rejected"),
        FORGETTING.format("applied"),
        "UPDATE incidents SET status = 2", "DELETE FROM incident_subscriptions", "UPDATE alert_rules SET status = 4",
        "INSERT INTO notifications SELECT * FROM notifications", "SELECT nextval('incidents_id_seq')",
        "INSERT INTO events SELECT * FROM events", "UPDATE events SET planned_at = now()",
    ),
    "worker": (
        "UPDATE tokens SET act_as = true", "UPDATE users SET is_superuser = true", TOKEN, ADVANCING,
        "SELECT nextval('users_id_seq')", FORGETTING.format("applied"), "UPDATE audit_entries SET who = 'x'",
        "DELETE FROM events",
    ),
    "relay": (
        inserting(), AS_SYSTEM, REOPENING, UNSUBSCRIBING, WITH_OUTCOME, ADVANCING, TOKEN,
        updating("state = 'applied'", "dead"), updating("state = 'dead'", "accepted"),
        updating("state = 'accepted'", "applied"), updating("attempts = 5", "accepted"),
        "SELECT hash FROM tokens", "UPDATE incidents SET status = 2", "UPDATE events SET body = '{}'",
        "SELECT nextval('alert_rules_id_seq')",
    ),
    "notifier": (
        inserting(), AS_SESSION, AS_SYSTEM, WITH_OUTCOME, ADVANCING, TOKEN,
        inserting("incident.unsubscribe"), inserting("incident.unsubscribe", token="NULL"),
        updating("state = 'discarded'", "accepted"),
        "SELECT hash FROM tokens", "UPDATE incidents SET status = 2", "DELETE FROM incident_subscriptions",
        "SELECT nextval('notifications_id_seq')",
    ),
    "ops": (
        inserting(), AS_SYSTEM, updating("state = 'accepted'", "dead"), updating("state = 'applied'", "accepted"),
        "UPDATE incidents SET status = 2", "DELETE FROM audit_entries", "SELECT nextval('incidents_id_seq')",
    ),
}  # fmt: skip
"""Statements that the database refuses to each login, or that do not change any row."""


@pytest.fixture
def full(database: Database, acme: Acme) -> Engine:
    """A database with one command in each state, and a row in the tables that the statements change."""
    with database.engine.begin() as connection:
        for number, state in enumerate(CommandState):
            id_ = an_accepted_command(connection, subject=f"incident:1:{number}")
            connection.exec_driver_sql("UPDATE commands SET state = %s WHERE id = %s", (state.value, id_))
        connection.exec_driver_sql(
            "INSERT INTO events (id, organization_id, subject, sequence, type, body)"
            " VALUES (gen_random_uuid(), 1, 'incidents/1', 1, 'incident.opened', '{}')"
        )
    return database.engine


def is_possible(connection: Connection, statement: str) -> bool:
    """Execute a statement and roll it back. Return whether the database permitted it and, if it writes, it wrote."""
    attempt = connection.begin()
    try:
        result = connection.exec_driver_sql(statement.replace("%", "%%"))
        return not statement.startswith(("UPDATE", "DELETE")) or result.rowcount > 0
    except DBAPIError as error:
        if sqlstate(error) != INSUFFICIENT_PRIVILEGE:
            raise
        return False
    finally:
        attempt.rollback()


@pytest.mark.parametrize("role", GRANTS)
def test_a_login_can_do_this_and_nothing_else(urls: dict[str, str], full: Engine, role: str) -> None:
    name = role.removeprefix("tocsin_")
    with engine_of(urls[name]).connect() as connection:
        impossible = [each for each in ALLOWED[name] if not is_possible(connection, each)]
        possible = [each for each in (*EVERYBODY_REFUSED, *REFUSED[name]) if is_possible(connection, each)]

    assert (impossible, possible) == ([], [])


def test_a_login_in_several_roles_may_do_what_any_of_them_may(urls: dict[str, str], full: Engine) -> None:
    with full.begin() as connection:
        connection.exec_driver_sql("GRANT tocsin_worker TO tocsin_notifier_login")

    with engine_of(urls["notifier"]).connect() as connection:
        assert is_possible(connection, AS_SYSTEM)
        assert is_possible(connection, updating("state = 'applied'", "accepted"))


def test_a_cancellation_by_the_gateway_finds_the_waiting_command(urls: dict[str, str], full: Engine) -> None:
    with full.connect() as connection:
        id_ = connection.exec_driver_sql("SELECT id FROM commands WHERE state = 'accepted'").scalar_one()

    with engine_of(urls["gateway"]).begin() as connection:
        assert connection.exec_driver_sql(CANCEL_COMMAND, {"id": id_}).rowcount == 1


def test_a_reader_outside_the_roles_still_reads_the_ledger(urls: dict[str, str], full: Engine) -> None:
    with full.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE reporting NOLOGIN")
        connection.exec_driver_sql("GRANT SELECT ON commands TO reporting")
        connection.exec_driver_sql("SET LOCAL ROLE reporting")
        found = connection.exec_driver_sql("SELECT count(*) FROM commands").scalar_one()
        connection.exec_driver_sql("RESET ROLE")
        connection.exec_driver_sql("REVOKE SELECT ON commands FROM reporting")
        connection.exec_driver_sql("DROP ROLE reporting")

    assert found == len(CommandState)


def test_an_import_moves_a_sequence_forward_only(urls: dict[str, str], full: Engine) -> None:
    def last() -> int:
        with full.connect() as connection:
            return int(connection.exec_driver_sql("SELECT last_value FROM users_id_seq").scalar_one())

    with engine_of(urls["gateway"]).begin() as connection:
        import_directory(connection, {"users": [{"id": 700, "username": "new"}, {"username": "later"}]})
        after_import = last()
        connection.exec_driver_sql("SELECT advance_directory_sequence('users_id_seq', 3)")

    assert (after_import, last()) == (701, 701)


def test_granting_again_replaces_only_policies_that_differ(granted: Connection) -> None:
    def policies() -> dict[str, int]:
        rows = granted.exec_driver_sql("SELECT polname, oid FROM pg_policy WHERE polrelid = 'commands'::regclass")
        return {row.polname: row.oid for row in rows}

    before = policies()
    granted.exec_driver_sql("COMMENT ON POLICY tocsin_notifier_insert ON commands IS 'that of an earlier release'")
    granted.exec_driver_sql("CREATE POLICY tocsin_ops_insert ON commands FOR INSERT TO tocsin_ops WITH CHECK (true)")
    grant_to_existing_roles(granted)
    after = policies()

    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} == {"tocsin_notifier_insert"}


def test_without_the_roles_nothing_is_limited(database: Database) -> None:
    with database.engine.connect() as connection:
        grant_to_existing_roles(connection)
        query = "SELECT relrowsecurity FROM pg_class WHERE oid = 'commands'::regclass"

        assert not connection.exec_driver_sql(query).scalar_one()
        assert connection.exec_driver_sql(
            "SELECT has_database_privilege('public', current_database(), 'TEMP')"
        ).scalar_one()
