"""Database triggers keep the projection of the incident list up to date, whoever writes the incidents."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from alembic import command
from sqlalchemy import Table, delete, insert, select, update

from models.alert_rules.alert_rule import alert_rule_generations, alert_rules
from models.database.migrate import _config, migrate
from models.enums import IncidentStatus
from models.incidents.incident import incident_projects, incidents
from models.incidents.list_projection import RULE_COLUMNS, incident_listing, incident_titles
from tasks.commands.alert_rules import UpdateRule
from tasks.commands.incidents import OpenIncident
from tests.builders import NOW, a_definition, a_project, an_alert_rule, an_incident, an_organization
from tests.conftest import Database
from tests.handlers.acme import Acme
from tests.harness import Harness


def rows(database: Database, table: Table = incident_listing) -> list[Any]:
    with database.engine.connect() as connection:
        return list(connection.execute(select(table).order_by(table.c.incident_id, table.c.project_id)).all())


def rule_columns(database: Database, table: Table = incident_listing) -> list[Any]:
    """Return, for every row of the table, the columns about the alert rule."""
    return [tuple(getattr(row, name) for name in RULE_COLUMNS) for row in rows(database, table)]


def a_changed_rule(database: Database) -> tuple[int, int]:
    """Insert an organization with a rule in its second generation; return the ids of organization and rule.

    The first generation has team 7, environment "test" and dataset "transactions". The second has team 8 and dataset
    "events".
    """
    was = a_definition(owner_team=7, environment="test", dataset="transactions")
    with database.engine.begin() as connection:
        organization = an_organization(connection)
        rule = an_alert_rule(connection, organization, generation=2, owner_team=8)
        connection.execute(
            insert(alert_rule_generations).values(
                rule_id=rule, generation=1, definition=was.model_dump(mode="json"), date_modified=NOW
            )
        )
    return organization, rule


def migrate_down(database: Database, revision: str) -> None:
    with database.engine.connect() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
        connection.commit()


def test_there_is_one_row_per_incident_and_project(database: Database) -> None:
    with database.engine.begin() as connection:
        organization = an_organization(connection)
        project_ids = [a_project(connection, organization) for _ in range(2)]
        incident = an_incident(connection, organization, projects=project_ids, title="ÄRGER")

    assert [row[:5] for row in rows(database)] == [(incident, project, organization, 1, NOW) for project in project_ids]
    assert {row.folded_title for row in rows(database)} == {"ärger"}
    assert [row[:5] for row in rows(database, incident_titles)] == [
        (incident, project, organization, NOW, "ärger") for project in project_ids
    ]


def test_a_row_is_rewritten_only_if_a_listed_column_changes(database: Database) -> None:
    def row_location(table: str = "incident_listing") -> Any:
        with database.engine.connect() as connection:
            return connection.exec_driver_sql(f"SELECT ctid FROM {table}").scalar_one()

    with database.engine.begin() as connection:
        an_incident(connection, an_organization(connection))
    before, title_before = row_location(), row_location("incident_titles")

    with database.engine.begin() as connection:
        connection.execute(update(incidents).values(version=7, status=IncidentStatus.OPEN))
    assert row_location() == before

    closed = NOW + timedelta(hours=1)
    with database.engine.begin() as connection:
        connection.execute(update(incidents).values(status=IncidentStatus.CLOSED, date_closed=closed))
    assert [(row.status, row.date_closed) for row in rows(database)] == [(2, closed)]
    assert row_location("incident_titles") == title_before

    with database.engine.begin() as connection:
        connection.execute(update(incidents).values(title="OTHER", date_started=closed))
    assert [(row.folded_title, row.date_started) for row in rows(database, incident_titles)] == [("other", closed)]


def test_a_row_holds_the_rule_as_it_was_in_the_incidents_generation(database: Database) -> None:
    organization, rule = a_changed_rule(database)
    with database.engine.begin() as connection:
        for generation in (1, 2):
            an_incident(connection, organization, alert_rule_id=rule, alert_rule_generation=generation)
        an_incident(connection, organization)

    expected = [(rule, 1, 7, "test", "transactions"), (rule, 2, 8, None, "events"), (None,) * 5]
    assert rule_columns(database) == rule_columns(database, incident_titles) == expected


def test_a_row_is_updated_if_its_rule_generation_is_stored_after_the_incident(database: Database) -> None:
    organization, rule = a_changed_rule(database)
    with database.engine.begin() as connection:
        for generation in (1, 3):
            an_incident(connection, organization, alert_rule_id=rule, alert_rule_generation=generation)

        now = a_definition(owner_team=9, environment="prod")
        connection.execute(update(alert_rules).values(generation=3, definition=now.model_dump(mode="json")))

    expected = [(rule, 1, 7, "test", "transactions"), (rule, 3, 9, "prod", "events")]
    assert rule_columns(database) == rule_columns(database, incident_titles) == expected


def test_a_row_holds_the_rule_as_it_was_between_two_updates_in_one_batch(harness: Harness) -> None:
    acme = Acme(harness.engine)
    with harness.engine.begin() as connection:
        rule = an_alert_rule(connection, acme.organizations["acme"], projects=[acme.projects["acme", "p1"]])
    open_command = OpenIncident.model_validate({"title": "Slow", "projects": ["p1"], "alertRule": rule})

    harness.accept_all(
        [update_environment("between", rule), open_command, update_environment("after", rule)], **acme.by("own")
    )
    harness.apply()

    with harness.engine.connect() as connection:
        [listed] = connection.execute(select(incident_listing).where(incident_listing.c.alert_rule_id == rule))
    assert (listed.alert_rule_generation, listed.environment) == (2, "between")


def update_environment(environment: str, rule: int) -> UpdateRule:
    """Return an update that sets a rule's environment."""
    return UpdateRule.model_validate({
        "alertRule": rule, "name": "Errors", "environment": environment, "aggregate": "count()", "query": "",
        "timeWindow": 10, "thresholdType": 0, "triggers": [{"label": "critical", "alertThreshold": 100, "actions": []}],
    })  # fmt: skip


def test_a_row_is_deleted_with_its_incident_or_its_link_to_the_project(database: Database) -> None:
    with database.engine.begin() as connection:
        organization = an_organization(connection)
        gone, moved, kept = (an_incident(connection, organization) for _ in range(3))
        connection.execute(delete(incidents).where(incidents.c.id == gone))
        connection.execute(delete(incident_projects).where(incident_projects.c.incident_id == moved))

    assert (
        [row.incident_id for row in rows(database)]
        == [row.incident_id for row in rows(database, incident_titles)]
        == [kept]
    )


def test_the_listing_migration_copies_existing_rows_and_restarts_if_interrupted(database: Database) -> None:
    with database.engine.begin() as connection:
        organization = an_organization(connection)
        for _ in range(3):
            an_incident(connection, organization)
    expected = rows(database)
    migrate_down(database, "0004")
    migrate(database.engine)
    assert rows(database) == expected

    migrate_down(database, "0005")
    with database.engine.begin() as connection:
        # The state after a migration that was interrupted halfway.
        connection.execute(delete(incident_listing).where(incident_listing.c.incident_id > expected[0].incident_id))
        connection.exec_driver_sql("DROP INDEX incidents_dedup_key_idx")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0004'")

    migrate(database.engine)

    assert rows(database) == expected


def test_the_title_migration_copies_existing_rows_and_restarts_if_interrupted(database: Database) -> None:
    organization, rule = a_changed_rule(database)
    with database.engine.begin() as connection:
        an_incident(connection, organization)
        an_incident(connection, organization, alert_rule_id=rule, alert_rule_generation=1)
        an_incident(connection, organization, alert_rule_id=rule)
    listed, expected = rows(database), rows(database, incident_titles)
    migrate_down(database, "0007")
    with database.engine.begin() as connection:
        # The state after a migration that was interrupted halfway.
        connection.execute(delete(incident_titles).where(incident_titles.c.incident_id > expected[0].incident_id))
        connection.execute(update(incident_listing).values(dict.fromkeys(RULE_COLUMNS)))
        connection.exec_driver_sql("DROP INDEX incident_titles_keys_idx, incident_listing_unfinished_idx")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0006'")

    migrate(database.engine)

    assert (rows(database), rows(database, incident_titles)) == (listed, expected)
    migrate_down(database, "0006")
    migrate(database.engine)
    assert (rows(database), rows(database, incident_titles)) == (listed, expected)
