"""The incident list filtered by alert rules, and the rule snapshots it returns."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert, update
from sqlalchemy.engine import Engine

from models.alert_rules.alert_rule import alert_rule_generations, environments
from models.directory.tables import organizations, teams
from tests.builders import NOW, a_definition, an_alert_rule
from tests.handlers.acme import Acme
from tests.http.gateway_server import Gateway
from tests.http.incident_list_requests import LIST, OpenIncident, refusal, titles

pytestmark = pytest.mark.usefixtures("named_first")


@pytest.fixture
def found(acme: Acme, ledger: Engine, opened: OpenIncident) -> int:
    """The id of a rule owned by team t1 in prod.

    Incident ``before`` belongs to the rule's first generation, incident ``after`` to the current one."""
    organization = acme.organizations["acme"]
    was = a_definition(name="was", environment="test", owner_team=22, dataset="transactions")
    with ledger.begin() as connection:
        rule = an_alert_rule(
            connection,
            organization,
            projects=[acme.projects["acme", "p1"]],
            generation=2,
            name="is",
            environment="prod",
            owner_team=21,
        )
        stored = {"definition": was.model_dump(mode="json"), "date_modified": NOW}
        connection.execute(insert(alert_rule_generations).values(rule_id=rule, generation=1, **stored))
        for name in ("prod", "test", "idle"):
            connection.execute(insert(environments).values(organization_id=organization, name=name))
    opened("before", minutes=1, alert_rule_id=rule, alert_rule_generation=1)
    opened("after", minutes=2, alert_rule_id=rule, alert_rule_generation=2)
    return rule


def test_the_environment_filter_matches_incidents_of_rules_in_that_environment(gateway: Gateway, found: int) -> None:
    assert titles(gateway, "?environment=prod") == ["after"]
    assert titles(gateway, "?environment=test&environment=prod") == ["after"]
    assert titles(gateway, "?environment=idle") == []


def test_the_rule_filter_matches_only_the_current_generation(gateway: Gateway, found: int) -> None:
    assert titles(gateway, f"?alertRule={found}") == ["after"]
    assert titles(gateway, f"?alertRule={found + 1}") == titles(gateway, f"?alertRule={'9' * 30}") == []


def test_with_snapshots_the_rule_filter_matches_every_generation(
    gateway: Gateway, found: int, acme: Acme, ledger: Engine
) -> None:
    set_features(ledger, acme, "organizations:incidents", "organizations:performance-view")

    assert titles(gateway, f"?alertRule={found}&includeSnapshots=0") == ["after", "before"]
    assert titles(gateway, f"?alertRule={found}&includeSnapshots=") == ["after"]


def test_the_team_filter_matches_incidents_of_rules_owned_by_that_team(
    gateway: Gateway, found: int, acme: Acme, ledger: Engine
) -> None:
    set_features(ledger, acme, "organizations:incidents", "organizations:performance-view")

    assert titles(gateway, "?team=21") == titles(gateway, "?team=myteams") == ["after"]
    assert titles(gateway, "?team=21&team=unassigned") == ["after", "first"]
    assert titles(gateway, "?team=22", by="dev-ben") == ["before"]


def test_without_the_performance_feature_only_incidents_of_rules_on_events_are_listed(
    gateway: Gateway, found: int, acme: Acme, ledger: Engine
) -> None:
    assert titles(gateway) == ["after", "first"]

    set_features(ledger, acme, "organizations:incidents", "organizations:performance-view")

    assert titles(gateway) == ["after", "before", "first"]


@pytest.mark.parametrize(
    "other_filter", ["title=e", "title=after", "start=2026-01-01", "status=open", "projectSlug=$all"]
)
def test_the_rule_filter_is_combined_with_other_filters(gateway: Gateway, found: int, other_filter: str) -> None:
    assert titles(gateway, f"?alertRule={found}&{other_filter}") == ["after"]
    assert titles(gateway, f"?alertRule={found}&title=before") == []


def test_the_dedup_key_is_combined_with_the_rule_filter(gateway: Gateway, found: int, opened: OpenIncident) -> None:
    opened("keyed", minutes=3, dedup_key="k")

    assert titles(gateway, "?dedupKey=k") == ["keyed"]
    assert titles(gateway, f"?dedupKey=k&alertRule={found}") == []  # No incident has both.


def test_a_listed_incident_shows_its_rule_as_it_was_at_the_time(
    gateway: Gateway, found: int, acme: Acme, ledger: Engine
) -> None:
    set_features(ledger, acme, "organizations:incidents", "organizations:performance-view")

    after, before, _ = gateway.get(f"{LIST}?expand=original_alert_rule&expand=latestIncident").json()

    assert (after["alertRule"]["name"], after["alertRule"]["status"]) == ("is", 0)
    assert (before["alertRule"]["name"], before["alertRule"]["status"]) == ("was", 4)
    assert [each["alertRule"]["originalAlertRuleId"] for each in (after, before)] == [None, found]
    assert {each["alertRule"]["latestIncident"]["title"] for each in (after, before)} == {"after"}


def set_features(ledger: Engine, acme: Acme, *features: str) -> None:
    with ledger.begin() as connection:
        connection.execute(
            update(organizations).where(organizations.c.id == acme.organizations["acme"]).values(features=features)
        )


def test_an_environment_that_no_rule_uses_is_404(gateway: Gateway) -> None:
    nothing = (404, {"detail": "The requested resource does not exist"})
    assert refusal(gateway, "?environment=prod") == nothing
    assert refusal(gateway, "?environment=") == nothing


def test_the_rule_filter_excludes_incidents_without_a_rule(gateway: Gateway) -> None:
    assert titles(gateway, "?alertRule=1") == titles(gateway, "?alertRule=1&includeSnapshots=0") == []
    assert titles(gateway, "?includeSnapshots=1") == ["first"]


def test_a_rule_that_is_not_a_number_is_refused(gateway: Gateway) -> None:
    text = "Invalid alertRule parameter. The value must be a number."
    assert refusal(gateway, "?alertRule=x") == (400, {"detail": text})


def test_the_unassigned_team_filter_matches_incidents_without_a_rule(gateway: Gateway) -> None:
    assert titles(gateway, "?team=unassigned") == ["first"]
    assert titles(gateway, "?team=21&team=unassigned") == ["first"]
    for query in ("?team=21", "?team=myteams", "?team=23", "?team=999999", f"?team={'9' * 30}"):
        assert titles(gateway, query) == []


@pytest.mark.parametrize("value", ["x", "-1", "", "²"])
def test_a_team_that_is_not_a_number_is_refused_with_a_plain_string(gateway: Gateway, value: str) -> None:
    assert refusal(gateway, f"?team={value}") == (400, f"Invalid Team ID: {value}")


def test_the_refusal_of_an_inaccessible_team_contains_its_name(gateway: Gateway, acme: Acme, ledger: Engine) -> None:
    def refused(name: str) -> tuple[int, Any]:
        return 403, {"detail": f"Error: You do not have permission to access {name}"}

    with ledger.begin() as connection:
        connection.execute(update(organizations).values(open_membership=False))
    assert refusal(gateway, "?team=unassigned&team=22") == refused("t2")
    with ledger.begin() as connection:
        connection.execute(update(teams).where(teams.c.id == 21).values(status="inactive"))
    assert refusal(gateway, "?team=21", by="dev-own") == refused("t1")


def test_without_the_performance_feature_incidents_without_a_rule_are_still_listed(
    gateway: Gateway, acme: Acme, ledger: Engine
) -> None:
    for features in (["organizations:incidents"], ["organizations:incidents", "organizations:performance-view"]):
        with ledger.begin() as connection:
            connection.execute(update(organizations).values(features=features))
        assert titles(gateway) == ["first"]
