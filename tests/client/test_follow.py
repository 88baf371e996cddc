"""Following events with the client: each once, whatever happens to the connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from tocsin_client import Refused

from gateway.settings import GatewaySettings
from tests.client.conftest import Connect
from tests.client.rough_road import BUSY, GONE, a_road
from tests.handlers.acme import Acme
from tests.http.gateway_server import Gateway, running_gateway
from tests.http.test_stream import broadcaster_of, incident, other_incident, record_event
from tests.waiting import eventually

__all__ = ["incident", "other_incident"]


class Follower:
    """Somebody who follows in the background."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self.heard: list[Any] = []
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        for event in self._events:
            self.heard.append(event)
            if event.data["activity"]["comment"] == "the end":
                return

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.heard]

    def ends(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_events_come_as_values_one_after_the_other(
    connect: Connect, gateway: Gateway, ledger: Engine, incident: int
) -> None:
    before = record_event(ledger, incident)
    ids = [str(record_event(ledger, incident, f"number {number}")) for number in range(3)]

    events = list(islice(connect(gateway.url).follow(last_id=str(before)), 3))

    assert [event.id for event in events] == ids
    assert [(event.type, event.subject, event.sequence) for event in events] == [
        ("incident.comment_posted", "incidents/1", sequence) for sequence in (2, 3, 4)
    ]
    assert events[0].data["activity"]["comment"] == "number 0"


def test_one_incident_alone(
    connect: Connect, gateway: Gateway, ledger: Engine, incident: int, other_incident: int
) -> None:
    before = record_event(ledger, incident)
    record_event(ledger, incident)
    wanted = record_event(ledger, other_incident)

    event = next(connect(gateway.url).follow(incident=2, last_id=str(before)))

    assert event.id == str(wanted)


def test_who_may_not_follow_is_told(connect: Connect, gateway: Gateway) -> None:
    with pytest.raises(Refused, match="403"):
        next(connect(gateway.url, "dev-out").follow())


def test_a_right_that_ends_ends_following(connect: Connect, gateway: Gateway, ledger: Engine, incident: int) -> None:
    broadcaster_of(gateway).heartbeat_seconds = 0.05
    before = record_event(ledger, incident)
    record_event(ledger, incident)
    events = connect(gateway.url).follow(last_id=str(before))
    next(events)

    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET revoked_at = now()")

    with pytest.raises(Refused, match="401"):
        next(events)


def test_a_gateway_that_restarts_costs_no_event_and_doubles_none(
    connect: Connect, acme: Acme, ledger: Engine, incident: int, settings: Callable[..., GatewaySettings]
) -> None:
    first, second = settings(), settings()
    with running_gateway(first) as one, a_road(one.url) as road:
        client = connect(road.url)
        follower = Follower(client.follow())
        eventually(lambda: broadcaster_of(one).stream_count)
        # Nothing was heard yet when the gateway goes: what happens meanwhile must not be lost either.
        one.stop()
        ids = [str(record_event(ledger, incident, "while it was away"))]
        with running_gateway(second) as two:
            road.leads_to(two.url)
            ids.append(str(record_event(ledger, incident)))
            eventually(lambda: follower.ids == ids)
            ids.append(str(record_event(ledger, incident, "the end")))
            follower.ends()

    assert follower.ids == ids


def test_a_road_that_breaks_costs_no_event_and_doubles_none(
    connect: Connect, gateway: Gateway, ledger: Engine, incident: int
) -> None:
    ids = []
    with a_road(gateway.url, GONE, BUSY) as road:
        follower = Follower(connect(road.url).follow())
        eventually(lambda: broadcaster_of(gateway).stream_count)
        for _ in range(3):
            ids.append(str(record_event(ledger, incident)))
            eventually(lambda: follower.ids == ids)
            road.breaks()
            ids.append(str(record_event(ledger, incident)))
        ids.append(str(record_event(ledger, incident, "the end")))
        follower.ends()

    assert follower.ids == ids
