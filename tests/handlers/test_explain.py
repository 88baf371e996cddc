"""`tocsin explain`: the decisions about a person and an incident, recorded or derived, and its errors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from models.enums import IncidentStatus
from tasks.events import StatusChanged
from tests.builders import a_member, a_subscription, a_user, an_event
from tests.conftest import Database
from tests.delivery.conftest import Scene, a_scene
from tests.handlers.test_cli import CliResult, Tocsin, tocsin

__all__ = ["tocsin"]


@dataclass
class Explained:
    """A scene whose incident is explained for one of the organization's members."""

    scene: Scene
    tocsin: Tocsin
    person: int
    capsys: pytest.CaptureFixture[str]

    def run(self, *options: str, **changed: str) -> CliResult:
        [row] = self.scene.rows(
            "SELECT o.slug, i.identifier, u.username FROM organizations o JOIN incidents i ON i.organization_id = o.id"
            f" CROSS JOIN users u WHERE i.id = {self.scene.incident} AND u.id = {self.person}"
        )
        self.capsys.readouterr()  # Planning logs to the standard output.
        values = {"incident": str(row.identifier), "organization": row.slug, "user": row.username} | changed
        return self.tocsin(
            "explain", values["incident"], "--organization", values["organization"], "--user", values["user"], *options
        )

    def decisions(self) -> list[dict[str, Any]]:
        result = self.run("--json")
        assert (result.code, result.err) == (0, "")
        decisions: list[dict[str, Any]] = json.loads(result.out)["decisions"]
        return decisions

    def rules(self) -> list[tuple[str, str, bool]]:
        """Return the outcome and the rule of each decision, and whether it is recorded."""
        return [(each["outcome"], each["rule"], each["at"] is not None) for each in self.decisions()]


@pytest.fixture
def explained(database: Database, tocsin: Tocsin, capsys: pytest.CaptureFixture[str]) -> Explained:
    with database.engine.begin() as connection:
        scene = a_scene(connection, database.engine, open_membership=False)
        return Explained(scene, tocsin, a_member(connection, scene.organization, teams=[scene.team]), capsys)


def test_recorded_decisions_are_listed_newest_first_with_the_event_and_a_sentence(explained: Explained) -> None:
    subscribed = explained.scene.post_comment()
    with explained.scene.engine.begin() as connection:
        a_subscription(connection, explained.scene.incident, explained.person)
    explained.scene.plan()
    mentioned = explained.scene.post_comment(mentioning=[explained.person])
    explained.scene.plan()

    _, newest, _, oldest = explained.decisions()  # each about the message by e-mail, then about the inbox

    [item] = explained.scene.rows(f"SELECT event_id FROM notifications WHERE activity_id = {mentioned}")
    assert newest.pop("at") > oldest["at"]
    assert newest == {
        "activity": str(mentioned), "event": str(item.event_id), "channel": "inbox", "outcome": "delivered",
        "rule": "mention", "detail": "", "explanation": "Notified in the inbox: the comment mentions this person.",
    }  # fmt: skip
    assert (oldest["activity"], oldest["rule"]) == (str(subscribed), "subscribed")


def test_the_text_names_the_activity_its_event_and_the_rule(explained: Explained) -> None:
    activity = explained.scene.post_comment(mentioning=[explained.person])
    explained.scene.plan()

    result = explained.run()

    header, message, line = result.out.splitlines()
    assert header == f"activity {activity}, incident.comment_posted"
    assert message.startswith(
        "  Not notified by e-mail yet: this person's preferences ask for such messages at once. (rule instant, event "
    )
    assert line.startswith("  Notified in the inbox: the comment mentions this person. (rule mention, event ")


def test_decisions_by_rule_actions_are_listed_together_with_the_derived_decision(explained: Explained) -> None:
    activity = explained.scene.post_comment()
    explained.scene.plan()
    with explained.scene.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO notification_decisions"
            " (activity_id, user_id, channel, incident_id, event_id, outcome, rule, detail)"
            " VALUES (%s, %s, 'email', %s, gen_random_uuid(), 'pending', 'alert_action', 'action 5 of critical')",
            (activity, explained.person, explained.scene.incident),
        )

    assert explained.rules() == [("pending", "alert_action", True), ("suppressed", "not_subscribed", False)]
    assert "rule alert_action, action 5 of critical, event " in explained.run().out


def test_the_explanation_states_that_a_person_is_neither_subscribed_nor_mentioned(explained: Explained) -> None:
    explained.scene.post_comment()
    explained.scene.plan()

    assert explained.rules() == [("suppressed", "not_subscribed", False)]
    assert "neither mentioned nor subscribed" in explained.run().out


@pytest.mark.parametrize("is_planned", [True, False])
def test_an_author_is_told_that_the_comment_is_their_own(explained: Explained, is_planned: bool) -> None:
    explained.person = explained.scene.author
    explained.scene.post_comment()
    if is_planned:
        explained.scene.plan()

    assert explained.rules() == [("suppressed", "author", False)]


def test_an_author_without_access_today_is_still_told_that_the_comment_is_their_own(explained: Explained) -> None:
    explained.person = explained.scene.author
    explained.scene.post_comment()
    with explained.scene.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE team_members SET is_active = false")

    assert explained.rules() == [("suppressed", "author", False)]


def test_an_event_that_no_notifier_has_planned_is_pending(explained: Explained) -> None:
    explained.scene.post_comment(mentioning=[explained.person])

    assert explained.rules() == [("pending", "not_planned", False)]


def test_an_edit_whose_mentions_are_not_planned_is_pending(explained: Explained) -> None:
    explained.scene.post_comment(mentioning=[explained.person])
    with explained.scene.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE events SET planned_at = now() WHERE type = 'incident.comment_posted'")

    assert explained.rules() == [("pending", "not_planned", False)]


@pytest.mark.parametrize("change", ["no team", "no membership", "inactive"])
def test_a_person_without_access_is_told_so(explained: Explained, change: str) -> None:
    explained.scene.post_comment()
    explained.scene.plan()
    with explained.scene.engine.begin() as connection:
        match change:
            case "no team":
                explained.person = a_member(connection, explained.scene.organization)
            case "no membership":
                explained.person = a_user(connection)
            case _:
                explained.person = a_member(
                    connection, explained.scene.organization, teams=[explained.scene.team], is_active=False
                )

    assert explained.rules() == [("suppressed", "no_access", False)]


def test_a_status_change_without_an_author_notifies_only_through_rule_actions(explained: Explained) -> None:
    with explained.scene.engine.begin() as connection:
        change = StatusChanged(77, IncidentStatus.OPEN, IncidentStatus.CLOSED, None)
        an_event(connection, explained.scene.incident, change, by=None)
        a_subscription(connection, explained.scene.incident, explained.person)
    explained.scene.plan()

    assert explained.rules() == [("suppressed", "no_author", False)]


def test_an_incident_without_comments_and_status_changes_has_nothing_to_explain(explained: Explained) -> None:
    assert explained.decisions() == []
    assert explained.run().out == "nothing has happened on this incident of which people are notified\n"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"organization": "nix"}, 'there is no organization "nix": `tocsin directory export`'),
        ({"user": "ghost"}, 'there is no user "ghost": `tocsin directory export`'),
        ({"incident": "999999"}, "there is no incident 999999 in the organization"),
        ({"incident": "9" * 30}, f"there is no incident {'9' * 30} in the organization"),
    ],
    ids=["organization", "user", "incident", "huge number"],
)
def test_the_error_names_the_unknown_organization_user_or_incident(
    explained: Explained, changed: dict[str, str], sentence: str
) -> None:
    result = explained.run(**changed)

    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(sentence)
    assert result.err.count("\n") == 1
