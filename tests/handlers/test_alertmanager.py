"""The handler for Alertmanager's alert groups, which opens, updates and closes incidents."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from models.directory.importer import import_directory
from models.incidents.activity import activities
from models.incidents.incident import incidents
from tasks.commands.alertmanager import ReceiveAlerts
from tasks.commands.incidents import SetStatus
from tasks.commands.subscriptions import Subscribe
from tests.brokers import UNREACHABLE_BROKER, broker_settings
from tests.handlers.acme import Acme
from tests.harness import Harness
from workers.notify.notifier import Notifier

FORBIDDEN = 403, {"detail": "You do not have permission to perform this action."}
KEY = '{}:{alertname="HighLatency", project="p1"}'


def firing(severity: str | None = "warning", **fields: Any) -> ReceiveAlerts:
    body = {"dedupKey": KEY, "state": "firing", "title": "Checkout outcomes slowly", "project": "p1"}
    return ReceiveAlerts.model_validate(body | {"severity": severity} | fields)


def resolved(**fields: Any) -> ReceiveAlerts:
    return firing(state="resolved", **fields)


def set_status(status: int, number: str = "2") -> SetStatus:
    return SetStatus.model_validate({"incident": number, "status": status})


def alert_incidents(harness: Harness) -> list[Any]:
    """Return the incidents with a dedup key, oldest first. The directory's incident 1 has none."""
    with harness.engine.connect() as connection:
        query = select(incidents).where(incidents.c.dedup_key.is_not(None)).order_by(incidents.c.id)
        return list(connection.execute(query))


def recorded_activities(harness: Harness) -> list[tuple[int, str | None, str | None, int | None]]:
    """Return type, value, previous value and user id for every activity, in order."""
    with harness.engine.connect() as connection:
        rows = connection.execute(select(activities).order_by(activities.c.id))
        return [(row.type, row.value, row.previous_value, row.user_id) for row in rows]


@pytest.mark.parametrize(
    ("severity", "status"),
    [("critical", 20), ("warning", 10), ("info", 1), ("none", 1), ("Critical", 20), (" WARNING", 10), (None, 1)],
)
def test_firing_alerts_open_an_incident_with_the_status_that_matches_their_severity(
    harness: Harness, acme: Acme, severity: str | None, status: int
) -> None:
    code, body = harness.execute(firing(severity), **acme.by_service())

    assert (code, body["identifier"], body["status"], body["statusMethod"]) == (201, "2", status, 3)
    assert (body["title"], body["projects"], body["type"]) == ("Checkout outcomes slowly", ["p1"], 0)
    assert [incident.dedup_key for incident in alert_incidents(harness)] == [KEY]


def test_the_incident_starts_when_its_alerts_started_and_its_activities_have_no_author(
    harness: Harness, acme: Acme
) -> None:
    _, body = harness.execute(firing(startsAt="2026-01-02T03:04:05.678901234Z"), **acme.by_service())

    assert body["dateStarted"] == body["dateDetected"] == "2026-01-02T03:04:05.678901Z"
    assert recorded_activities(harness) == [(4, None, None, None), (1, None, None, None)]


def test_without_a_start_time_the_incident_starts_at_acceptance(harness: Harness, acme: Acme) -> None:
    id_ = harness.accept(firing(), **acme.by_service())
    harness.apply()

    assert [incident.date_started for incident in alert_incidents(harness)] == [harness.ledger_row(id_)["accepted_at"]]


@pytest.mark.parametrize("starts_at", ["0001-01-01T00:00:00Z", "2126-01-02T03:04:05Z"], ids=["year 1", "the future"])
def test_an_impossible_start_time_counts_as_the_time_of_acceptance(
    harness: Harness, acme: Acme, starts_at: str
) -> None:
    id_ = harness.accept(firing(startsAt=starts_at), **acme.by_service())
    harness.apply()

    assert [incident.date_started for incident in alert_incidents(harness)] == [harness.ledger_row(id_)["accepted_at"]]


def test_repeated_alerts_change_nothing(harness: Harness, acme: Acme) -> None:
    harness.execute(firing(), **acme.by_service())
    before, counts = alert_incidents(harness), harness.row_counts()

    code, body = harness.execute(firing(startsAt="2126-01-02T03:04:05Z"), **acme.by_service())

    assert (code, body["identifier"], body["version"]) == (200, "2", 1)
    assert (alert_incidents(harness), harness.row_counts()) == (before, counts)


def test_a_changed_severity_is_recorded_as_a_status_change_without_an_author(harness: Harness, acme: Acme) -> None:
    harness.execute(firing("warning"), **acme.by_service())

    worse, body = harness.execute(firing("critical"), **acme.by_service())
    better, again = harness.execute(firing(None), **acme.by_service())

    assert (worse, body["status"], body["version"], body["statusMethod"]) == (200, 20, 2, 3)
    assert (better, again["status"], again["version"]) == (200, 1, 3)
    assert recorded_activities(harness)[2:] == [(2, "20", "10", None), (2, "1", "20", None)]


def test_resolved_alerts_close_the_incident_and_the_change_has_no_author(harness: Harness, acme: Acme) -> None:
    harness.execute(firing(), **acme.by_service())

    id_ = harness.accept(resolved(), **acme.by_service())
    harness.apply()

    row, [incident] = harness.ledger_row(id_), alert_incidents(harness)
    body = row["outcome_body"]
    assert (row["outcome_status"], body["status"], body["statusMethod"], body["version"]) == (200, 2, 3, 2)
    assert incident.date_closed == row["accepted_at"]
    assert recorded_activities(harness)[2:] == [(2, "2", "10", None)]


def test_resolved_alerts_without_an_open_incident_change_nothing(harness: Harness, acme: Acme) -> None:
    before = harness.row_counts()
    never = harness.execute(resolved(), **acme.by_service())
    assert harness.row_counts() == before

    harness.execute(firing(), **acme.by_service())
    harness.execute(resolved(), **acme.by_service())
    before = harness.row_counts()
    no_longer = harness.execute(resolved(), **acme.by_service())

    assert never == no_longer == (200, None)
    assert harness.row_counts() == before


def closed_over_a_minute_ago(harness: Harness, acme: Acme) -> None:
    """Open an incident for alerts that started at 03:04:05, let Alertmanager close it, and let a minute pass."""
    for command in (firing(startsAt="2026-01-02T03:04:05Z"), resolved()):
        harness.execute(command, **acme.by_service())
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE incidents SET date_closed = date_closed - interval '61 seconds'")


def test_alerts_that_fire_again_open_another_incident(harness: Harness, acme: Acme) -> None:
    closed_over_a_minute_ago(harness, acme)

    code, _ = harness.execute(firing("critical", lastStartsAt="2026-01-02T03:05:00Z"), **acme.by_service())

    assert code == 201
    assert [(incident.identifier, incident.status) for incident in alert_incidents(harness)] == [(2, 2), (3, 20)]


@pytest.mark.parametrize(
    ("last_start", "code"),
    [("2026-01-02T03:04:05Z", 200), ("2026-01-02T03:00:00Z", 200), ("2026-01-02T03:04:06Z", 201), (None, 201)],
)
def test_alerts_that_all_started_no_later_than_their_closed_incident_reopen_it(
    harness: Harness, acme: Acme, last_start: str | None, code: int
) -> None:
    closed_over_a_minute_ago(harness, acme)

    assert harness.execute(firing(lastStartsAt=last_start), **acme.by_service())[0] == code


def test_a_person_who_closed_the_incident_keeps_it_closed_although_the_same_alerts_fire(
    harness: Harness, acme: Acme
) -> None:
    harness.execute(firing(startsAt="2026-01-02T03:04:05Z"), **acme.by_service())
    harness.execute(set_status(2), **acme.by("mem"))
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE incidents SET date_closed = date_closed - interval '61 seconds'")

    code, _ = harness.execute(firing(lastStartsAt="2026-01-02T03:04:05Z"), **acme.by_service())

    assert code == 201


@pytest.mark.parametrize("at_once", [True, False], ids=["in one batch", "one by one"])
def test_alerts_that_fire_again_within_a_minute_reopen_the_incident(
    harness: Harness, acme: Acme, at_once: bool
) -> None:
    commands = [firing(), resolved(), firing("critical"), resolved()]
    ids = []
    for each in commands:
        ids.append(harness.accept(each, **acme.by_service()))
        if not at_once:
            harness.apply()

    harness.apply()

    assert [harness.ledger_row(id_)["outcome_status"] for id_ in ids] == [201, 200, 200, 200]
    assert [harness.ledger_row(id_)["outcome_body"]["status"] for id_ in ids] == [10, 2, 20, 2]
    assert [incident.identifier for incident in alert_incidents(harness)] == [2]


def test_a_later_notification_changes_the_title_and_moves_the_start_back(harness: Harness, acme: Acme) -> None:
    harness.execute(firing(startsAt="2026-01-02T03:04:05Z"), **acme.by_service())

    renamed, first = harness.execute(
        firing(title="Another summary", startsAt="2026-01-02T03:00:00Z"), **acme.by_service()
    )
    later, second = harness.execute(
        firing(title="Another summary", startsAt="2026-01-02T04:00:00Z"), **acme.by_service()
    )
    harness.execute(resolved(title="Over"), **acme.by_service())

    assert (renamed, first["title"], first["dateStarted"], first["version"]) == (
        200, "Another summary", "2026-01-02T03:00:00Z", 2,
    )  # fmt: skip
    assert (later, second["dateStarted"], second["version"]) == (200, "2026-01-02T03:00:00Z", 2)
    [incident] = alert_incidents(harness)
    assert (incident.title, incident.date_started.isoformat()) == ("Another summary", "2026-01-02T03:00:00+00:00")


@pytest.mark.parametrize(
    ("named", "default", "outcome"),
    [
        ("p1", "p2", ["p1"]),
        (None, "p2", ["p2"]),
        ("nowhere", "p2", ["p2"]),
        ("nowhere", "old", None),
        (None, "x", None),
    ],
)
def test_alerts_without_a_known_project_go_to_the_default_one(
    harness: Harness, acme: Acme, named: str | None, default: str, outcome: list[str] | None
) -> None:
    code, body = harness.execute(firing(project=named, defaultProject=default), **acme.by_service())

    if outcome is None:
        assert (code, body) == (400, {"project": ["Invalid project"]})
    else:
        assert (code, body["projects"]) == (201, outcome)


def test_every_alert_group_has_its_own_incident(harness: Harness, acme: Acme) -> None:
    harness.execute(firing(), **acme.by_service())
    harness.execute(firing(dedupKey="{}:{}", project="p2"), **acme.by_service())

    harness.execute(resolved(), **acme.by_service())

    assert [(incident.dedup_key, incident.status) for incident in alert_incidents(harness)] == [(KEY, 2), ("{}:{}", 10)]


def test_alerts_that_still_fire_after_a_manual_close_open_another_incident(harness: Harness, acme: Acme) -> None:
    harness.execute(firing(), **acme.by_service())
    harness.execute(set_status(2), **acme.by("mem"))

    code, body = harness.execute(firing(), **acme.by_service())

    assert (code, body["identifier"]) == (201, "3")


@pytest.mark.parametrize(
    ("fields", "errors"),
    [
        ({"project": "nowhere"}, {"project": ["Invalid project"]}),
        ({"project": "old"}, {"project": ["Invalid project"]}),
        ({"project": "c1"}, {"project": ["Invalid project"]}),
        ({"project": None}, {"project": ["This field is required."]}),
    ],
    ids=["unknown", "inactive", "another organization's", "missing"],
)
def test_alerts_without_a_valid_project_open_no_incident(
    harness: Harness, acme: Acme, fields: dict[str, Any], errors: dict[str, Any]
) -> None:
    before = harness.row_counts()

    assert harness.execute(firing(**fields), **acme.by_service()) == (400, errors)
    assert harness.row_counts() == before


def test_an_unknown_project_is_refused_even_if_the_group_has_an_incident(harness: Harness, acme: Acme) -> None:
    harness.execute(firing(), **acme.by_service())

    code, errors = harness.execute(firing("critical", project="nowhere"), **acme.by_service())

    assert (code, errors) == (400, {"project": ["Invalid project"]})
    assert [incident.status for incident in alert_incidents(harness)] == [10]


def test_alerts_without_a_project_still_update_an_open_incident(harness: Harness, acme: Acme) -> None:
    harness.execute(firing(), **acme.by_service())

    worse, _ = harness.execute(firing("critical", project=None), **acme.by_service())
    better, body = harness.execute(resolved(project="nowhere"), **acme.by_service())

    assert (worse, better, body["status"], body["projects"]) == (200, 200, 2, ["p1"])


def test_an_incident_of_an_inactive_project_is_left_unchanged(harness: Harness, acme: Acme) -> None:
    harness.execute(firing(), **acme.by_service())
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE projects SET status = 'inactive'")

    assert harness.execute(resolved(), **acme.by_service()) == FORBIDDEN
    assert [incident.status for incident in alert_incidents(harness)] == [10]


@pytest.mark.parametrize("state", ["firing", "resolved"])
def test_only_a_service_that_acts_as_itself_may_send_alerts(harness: Harness, acme: Acme, state: str) -> None:
    before = harness.row_counts()

    outcomes = [
        harness.execute(firing(state=state), **who)
        for who in (acme.by("own"), acme.by("mem"), acme.by_service(acting_for="ben"))
    ]

    assert outcomes == [FORBIDDEN] * 3
    assert harness.row_counts() == before


def test_a_service_without_the_scope_is_refused(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        import_directory(
            connection,
            {
                "tokens": [
                    {
                        "token": "dev-reader",
                        "organization": "acme",
                        "name": "reader",
                        "kind": "service",
                        "scopes": ["project:read"],
                    }
                ]
            },
        )
        reader = connection.exec_driver_sql("SELECT id FROM tokens WHERE name = 'reader'").scalar_one()

    assert harness.execute(firing(), organization=acme.organizations["acme"], token=reader) == FORBIDDEN


def test_events_name_the_service_as_actor_and_notify_nobody(harness: Harness, acme: Acme) -> None:
    harness.execute(firing("warning"), **acme.by_service())
    harness.execute(Subscribe.model_validate({"incident": f"dedup:{KEY}"}), **acme.by("mem"))
    harness.execute(firing("critical"), **acme.by_service())
    harness.execute(resolved(), **acme.by_service())

    notifier = Notifier(harness.engine, broker_settings(UNREACHABLE_BROKER))
    while notifier.plan_batch():
        pass

    with harness.engine.connect() as connection:
        published = list(connection.exec_driver_sql("SELECT type, body, planned_at FROM events ORDER BY sequence"))
    by_service = [row for row in published if row.type != "incident.subscribed"]
    assert [(row.type, row.body["data"]["incident"]["status"]) for row in by_service] == [
        ("incident.opened", 10),
        ("incident.status_changed", 20),
        ("incident.status_changed", 2),
    ]
    assert [row.body["data"]["actor"] for row in by_service] == [{"type": "service", "id": None, "name": "bot"}] * 3
    assert all(row.planned_at for row in published)
    assert harness.row_counts()["notifications"] == 0


def test_a_status_change_is_dated_no_earlier_than_the_last_activity(harness: Harness, acme: Acme) -> None:
    harness.execute(firing(), **acme.by_service())
    with harness.engine.begin() as connection:
        connection.execute(update(incidents).values(last_activity_at="2030-01-01T00:00:00Z"))

    harness.execute(resolved(), **acme.by_service())

    [incident] = alert_incidents(harness)
    assert incident.date_closed.year == 2030
