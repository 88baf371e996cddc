"""What becomes of an incident when Alertmanager says that alerts fire, get worse, or fire no more."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from models.directory.importer import import_directory
from models.incidents.activity import activities
from models.incidents.incident import incidents
from models.messaging.command_ledger import try_lock_subjects
from tasks.commands.alertmanager import ReceiveAlerts
from tasks.commands.incidents import SetStatus
from tasks.commands.subscriptions import Subscribe
from tasks.settings import BrokerSettings
from tests.handlers.acme import Acme
from tests.handlers.conftest import Harness
from workers.notify.notifier import Notifier

FORBIDDEN = 403, {"detail": "You do not have permission to perform this action."}
KEY = '{}:{alertname="HighLatency", project="p1"}'
NOWHERE = "redis+socket:///nowhere/valkey.sock"


def firing(severity: str | None = "warning", **fields: Any) -> ReceiveAlerts:
    said = {"dedupKey": KEY, "state": "firing", "title": "Checkout answers slowly", "project": "p1"}
    return ReceiveAlerts.model_validate(said | {"severity": severity} | fields)


def resolved(**fields: Any) -> ReceiveAlerts:
    return firing(state="resolved", **fields)


def by_hand(status: int, number: str = "2") -> SetStatus:
    return SetStatus.model_validate({"incident": number, "status": status})


def the_incidents(house: Harness) -> list[Any]:
    """What Alertmanager has opened: incident 1 was there before."""
    with house.engine.connect() as connection:
        asked = select(incidents).where(incidents.c.dedup_key.is_not(None)).order_by(incidents.c.id)
        return list(connection.execute(asked))


def happened(house: Harness) -> list[tuple[int, str | None, str | None, int | None]]:
    """Every activity: type, value, value before, person."""
    with house.engine.connect() as connection:
        rows = connection.execute(select(activities).order_by(activities.c.id))
        return [(row.type, row.value, row.previous_value, row.user_id) for row in rows]


@pytest.mark.parametrize(
    ("severity", "status"),
    [("critical", 20), ("warning", 10), ("info", 1), ("none", 1), ("Critical", 1), (None, 1)],
)
def test_firing_alerts_open_an_incident_as_bad_as_their_severity_says(
    house: Harness, acme: Acme, severity: str | None, status: int
) -> None:
    code, body = house.execute(firing(severity), **acme.by_service())

    assert (code, body["identifier"], body["status"], body["statusMethod"]) == (201, "2", status, 3)
    assert (body["title"], body["projects"], body["type"]) == ("Checkout answers slowly", ["p1"], 0)
    assert [incident.dedup_key for incident in the_incidents(house)] == [KEY]


def test_the_incident_began_when_the_alerts_did_and_its_activities_are_nobodys(house: Harness, acme: Acme) -> None:
    _, body = house.execute(firing(startsAt="2026-01-02T03:04:05.678901234Z"), **acme.by_service())

    assert body["dateStarted"] == body["dateDetected"] == "2026-01-02T03:04:05.678901Z"
    assert happened(house) == [(4, None, None, None), (1, None, None, None)]


def test_without_a_start_it_begins_when_it_is_told(house: Harness, acme: Acme) -> None:
    id_ = house.accept(firing(), **acme.by_service())
    house.apply()

    assert [incident.date_started for incident in the_incidents(house)] == [house.ledger_row(id_)["accepted_at"]]


def test_saying_it_again_changes_nothing_at_all(house: Harness, acme: Acme) -> None:
    house.execute(firing(), **acme.by_service())
    before, counts = the_incidents(house), house.row_counts()

    code, body = house.execute(firing(title="Another summary", startsAt="2026-01-02T03:04:05Z"), **acme.by_service())

    assert (code, body["identifier"], body["version"]) == (200, "2", 1)
    assert (the_incidents(house), house.row_counts()) == (before, counts)


def test_another_severity_is_a_change_of_status_by_nobody(house: Harness, acme: Acme) -> None:
    house.execute(firing("warning"), **acme.by_service())

    worse, body = house.execute(firing("critical"), **acme.by_service())
    better, again = house.execute(firing(None), **acme.by_service())

    assert (worse, body["status"], body["version"], body["statusMethod"]) == (200, 20, 2, 3)
    assert (better, again["status"], again["version"]) == (200, 1, 3)
    assert happened(house)[2:] == [(2, "20", "10", None), (2, "1", "20", None)]


def test_alerts_that_are_resolved_close_the_incident_by_nobody(house: Harness, acme: Acme) -> None:
    house.execute(firing(), **acme.by_service())

    id_ = house.accept(resolved(), **acme.by_service())
    house.apply()

    row, [incident] = house.ledger_row(id_), the_incidents(house)
    body = row["outcome_body"]
    assert (row["outcome_status"], body["status"], body["statusMethod"], body["version"]) == (200, 2, 3, 2)
    assert incident.date_closed == row["accepted_at"]
    assert happened(house)[2:] == [(2, "2", "10", None)]


def test_alerts_that_are_resolved_and_have_no_incident_change_nothing(house: Harness, acme: Acme) -> None:
    before = house.row_counts()
    never = house.execute(resolved(), **acme.by_service())
    assert house.row_counts() == before

    house.execute(firing(), **acme.by_service())
    house.execute(resolved(), **acme.by_service())
    before = house.row_counts()
    no_more = house.execute(resolved(), **acme.by_service())

    assert never == no_more == (200, None)
    assert house.row_counts() == before


def test_alerts_that_fire_anew_open_another_incident(house: Harness, acme: Acme) -> None:
    said = [firing(), resolved(), firing("critical")]
    ids = [house.accept(each, **acme.by_service()) for each in said]

    house.apply()

    assert [house.ledger_row(id_)["outcome_status"] for id_ in ids] == [201, 200, 201]
    assert [(incident.identifier, incident.status) for incident in the_incidents(house)] == [(2, 2), (3, 20)]


def test_every_group_has_an_incident_of_its_own(house: Harness, acme: Acme) -> None:
    house.execute(firing(), **acme.by_service())
    house.execute(firing(dedupKey="{}:{}", project="p2"), **acme.by_service())

    house.execute(resolved(), **acme.by_service())

    assert [(incident.dedup_key, incident.status) for incident in the_incidents(house)] == [(KEY, 2), ("{}:{}", 10)]


def test_what_somebody_closed_by_hand_opens_anew_while_the_alerts_fire(house: Harness, acme: Acme) -> None:
    house.execute(firing(), **acme.by_service())
    house.execute(by_hand(2), **acme.by("mem"))

    code, body = house.execute(firing(), **acme.by_service())

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
def test_alerts_of_no_project_open_nothing(
    house: Harness, acme: Acme, fields: dict[str, Any], errors: dict[str, Any]
) -> None:
    before = house.row_counts()

    assert house.execute(firing(**fields), **acme.by_service()) == (400, errors)
    assert house.row_counts() == before


def test_an_unknown_project_is_refused_although_the_group_has_an_incident(house: Harness, acme: Acme) -> None:
    house.execute(firing(), **acme.by_service())

    code, errors = house.execute(firing("critical", project="nowhere"), **acme.by_service())

    assert (code, errors) == (400, {"project": ["Invalid project"]})
    assert [incident.status for incident in the_incidents(house)] == [10]


def test_without_a_project_the_incident_that_stands_follows_all_the_same(house: Harness, acme: Acme) -> None:
    house.execute(firing(), **acme.by_service())

    worse, _ = house.execute(firing("critical", project=None), **acme.by_service())
    better, body = house.execute(resolved(project="nowhere"), **acme.by_service())

    assert (worse, better, body["status"], body["projects"]) == (200, 200, 2, ["p1"])


def test_an_incident_whose_project_was_switched_off_is_left_alone(house: Harness, acme: Acme) -> None:
    house.execute(firing(), **acme.by_service())
    with house.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE projects SET status = 'inactive'")

    assert house.execute(resolved(), **acme.by_service()) == FORBIDDEN
    assert [incident.status for incident in the_incidents(house)] == [10]


@pytest.mark.parametrize("state", ["firing", "resolved"])
def test_only_a_program_in_its_own_name_speaks_for_alertmanager(house: Harness, acme: Acme, state: str) -> None:
    before = house.row_counts()

    answers = [
        house.execute(firing(state=state), **who)
        for who in (acme.by("own"), acme.by("mem"), acme.by_service(acting_for="ben"))
    ]

    assert answers == [FORBIDDEN] * 3
    assert house.row_counts() == before


def test_a_program_without_the_scope_is_refused(house: Harness, acme: Acme) -> None:
    with house.engine.begin() as connection:
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

    assert house.execute(firing(), organization=acme.organizations["acme"], token=reader) == FORBIDDEN


def test_its_changes_are_announced_in_its_name_and_tell_nobody(house: Harness, acme: Acme) -> None:
    house.execute(firing("warning"), **acme.by_service())
    house.execute(Subscribe.model_validate({"incident": f"dedup:{KEY}"}), **acme.by("mem"))
    house.execute(firing("critical"), **acme.by_service())
    house.execute(resolved(), **acme.by_service())

    notifier = Notifier(house.engine, BrokerSettings(BROKER_URL=NOWHERE))
    while notifier.plan_batch():
        pass

    with house.engine.connect() as connection:
        told = list(connection.exec_driver_sql("SELECT type, body, planned_at FROM events ORDER BY sequence"))
    by_nobody = [row for row in told if row.type != "incident.subscribed"]
    assert [(row.type, row.body["data"]["incident"]["status"]) for row in by_nobody] == [
        ("incident.opened", 10),
        ("incident.status_changed", 20),
        ("incident.status_changed", 2),
    ]
    assert [row.body["data"]["actor"] for row in by_nobody] == [{"type": "service", "id": None, "name": "bot"}] * 3
    assert all(row.planned_at for row in told)
    assert house.row_counts()["notifications"] == 0


def test_what_it_says_waits_for_what_was_asked_before_it_in_the_incidents_own_line(house: Harness, acme: Acme) -> None:
    house.execute(firing(), **acme.by_service())
    closing = house.accept(by_hand(2), **acme.by("mem"))
    again = house.accept(firing(), **acme.by_service())

    with house.engine.begin() as someone_else:
        try_lock_subjects(someone_else, [f"incident:{acme.organizations['acme']}:2"])
        house.apply()
        waited = house.ledger_row(again)["state"]
    house.apply()

    assert waited == "accepted"
    assert [house.ledger_row(id_)["outcome_status"] for id_ in (closing, again)] == [200, 201]


def test_a_closing_by_hand_waits_for_what_was_said_before_it(house: Harness, acme: Acme) -> None:
    house.execute(firing("warning"), **acme.by_service())
    worse = house.accept(firing("critical"), **acme.by_service())
    closing = house.accept(by_hand(2), **acme.by("mem"))

    with house.engine.begin() as someone_else:
        try_lock_subjects(someone_else, [f"org:{acme.organizations['acme']}"])
        house.apply()
        waited = house.ledger_row(closing)["state"]
    house.apply()

    assert waited == "accepted"
    assert [house.ledger_row(id_)["outcome_status"] for id_ in (worse, closing)] == [200, 200]
    assert [value for _, value, *_ in happened(house)[2:]] == ["20", "2"]


def test_a_change_is_dated_after_what_happened_before_it(house: Harness, acme: Acme) -> None:
    house.execute(firing(), **acme.by_service())
    with house.engine.begin() as connection:
        connection.execute(update(incidents).values(last_activity_at="2030-01-01T00:00:00Z"))

    house.execute(resolved(), **acme.by_service())

    [incident] = the_incidents(house)
    assert incident.date_closed.year == 2030
