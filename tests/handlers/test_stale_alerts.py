"""Incidents of alerts that Alertmanager has not mentioned for as long as `?stale=` allows are closed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from models.incidents.activity import activities
from models.incidents.incident import incidents
from tests.handlers.acme import Acme
from tests.handlers.test_alertmanager import alert_incidents, firing, resolved, set_status
from tests.harness import Harness
from workers.relay.stale_alerts import close_stale_alerts

THIRTEEN_HOURS = 13 * 60 * 60


def an_incident_of_alerts(harness: Harness, acme: Acme, **fields: Any) -> None:
    harness.execute(firing(staleSeconds=THIRTEEN_HOURS, **fields), **acme.by_service())


def let_alerts_become_stale(harness: Harness) -> None:
    with harness.engine.begin() as connection:
        past = func.clock_timestamp() - timedelta(seconds=1)
        connection.execute(
            update(incidents).where(incidents.c.alerts_stale_at.is_not(None)).values(alerts_stale_at=past)
        )


def close_stale(harness: Harness) -> int:
    """Look for stale alerts once, as the relay does, and return how many incidents are to be closed."""
    with harness.engine.begin() as connection:
        return len(close_stale_alerts(connection))


def status(harness: Harness) -> int:
    [incident] = alert_incidents(harness)
    return int(incident.status)


def test_stale_alerts_close_their_incident_with_an_activity_that_says_so(harness: Harness, acme: Acme) -> None:
    an_incident_of_alerts(harness, acme)
    let_alerts_become_stale(harness)

    assert (close_stale(harness), close_stale(harness)) == (1, 0)
    harness.apply()

    [incident] = alert_incidents(harness)
    assert (incident.status, incident.status_method, incident.alerts_stale_at) == (2, 3, None)
    with harness.engine.connect() as connection:
        last = connection.execute(select(activities).order_by(activities.c.id.desc()).limit(1)).one()
    assert (last.user_id, last.value) == (None, "2")
    assert last.comment == "Alertmanager has not mentioned these alerts for 13h."


@pytest.mark.parametrize(
    "fields", [{"staleSeconds": THIRTEEN_HOURS}, {"staleSeconds": None}], ids=["mentioned", "no longer limited"]
)
def test_alerts_that_were_mentioned_in_time_stay_open(harness: Harness, acme: Acme, fields: dict[str, Any]) -> None:
    an_incident_of_alerts(harness, acme)
    let_alerts_become_stale(harness)
    harness.execute(firing(**fields), **acme.by_service())

    assert (close_stale(harness), status(harness)) == (0, 10)


def test_alerts_without_a_limit_never_become_stale(harness: Harness, acme: Acme) -> None:
    harness.execute(firing(), **acme.by_service())

    let_alerts_become_stale(harness)

    assert close_stale(harness) == 0


def test_a_notification_that_waits_is_applied_before_anything_is_closed(harness: Harness, acme: Acme) -> None:
    an_incident_of_alerts(harness, acme)
    let_alerts_become_stale(harness)
    harness.accept(firing(staleSeconds=THIRTEEN_HOURS), **acme.by_service())

    assert close_stale(harness) == 0


def test_a_notification_that_arrives_together_with_the_close_keeps_the_incident_open(
    harness: Harness, acme: Acme
) -> None:
    an_incident_of_alerts(harness, acme)
    let_alerts_become_stale(harness)
    with harness.engine.connect() as relay, relay.begin():
        assert len(close_stale_alerts(relay)) == 1
        harness.execute(firing(staleSeconds=THIRTEEN_HOURS), **acme.by_service())
    harness.apply()

    assert status(harness) == 10


def test_alerts_that_fire_again_reopen_the_incident_that_was_closed_as_stale(harness: Harness, acme: Acme) -> None:
    an_incident_of_alerts(harness, acme, startsAt="2026-01-02T03:04:05Z")
    let_alerts_become_stale(harness)
    close_stale(harness)
    harness.apply()
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE incidents SET date_closed = date_closed - interval '1 hour'")

    code, _ = harness.execute(firing(lastStartsAt="2026-01-02T03:04:05Z"), **acme.by_service())

    assert (code, status(harness)) == (200, 10)


@pytest.mark.parametrize("close", [resolved(), set_status(2)], ids=["Alertmanager", "a person"])
def test_an_incident_that_was_closed_before_is_not_closed_again_when_somebody_reopens_it(
    harness: Harness, acme: Acme, close: Any
) -> None:
    an_incident_of_alerts(harness, acme)
    let_alerts_become_stale(harness)
    harness.execute(close, **(acme.by_service() if close.name == "alertmanager.receive" else acme.by("mem")))
    harness.execute(set_status(1), **acme.by("own"))

    assert (close_stale(harness), status(harness)) == (0, 1)
