"""The client follows events and receives each once, across restarts and broken connections."""

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
from tests.client.faulty_proxy import DROPPED, UNAVAILABLE, faulty_proxy
from tests.handlers.acme import Acme
from tests.http.conftest import incident, other_incident
from tests.http.gateway_server import Gateway, running_gateway
from tests.http.streams import broadcaster_of, record_event
from tests.waiting import eventually

__all__ = ["incident", "other_incident"]


class Follower:
    """A thread that collects events until a comment says "the end"."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self.received: list[Any] = []
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        for event in self._events:
            self.received.append(event)
            if event.data["activity"]["comment"] == "the end":
                return

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.received]

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_follow_yields_the_events_after_the_last_id_in_order(
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


def test_follow_can_select_one_incident(
    connect: Connect, gateway: Gateway, ledger: Engine, incident: int, other_incident: int
) -> None:
    before = record_event(ledger, incident)
    record_event(ledger, incident)
    wanted = record_event(ledger, other_incident)

    event = next(connect(gateway.url).follow(incident=2, last_id=str(before)))

    assert event.id == str(wanted)


def test_follow_can_begin_with_the_events_of_the_last_day(
    connect: Connect, gateway: Gateway, ledger: Engine, incident: int
) -> None:
    ids = [str(record_event(ledger, incident)) for _ in range(3)]

    with faulty_proxy(gateway.url, DROPPED) as proxy:
        events = list(islice(connect(proxy.url).follow(from_start=True), 3))

    assert [event.id for event in events] == ids
    with pytest.raises(ValueError, match="not both"):
        next(connect(gateway.url).follow(from_start=True, last_id=ids[0]))


def test_following_without_access_is_refused(connect: Connect, gateway: Gateway) -> None:
    with pytest.raises(Refused, match="403"):
        next(connect(gateway.url, "dev-out").follow())


def test_losing_access_ends_the_stream_with_a_refusal(
    connect: Connect, gateway: Gateway, ledger: Engine, incident: int
) -> None:
    broadcaster_of(gateway).heartbeat_seconds = 0.05
    before = record_event(ledger, incident)
    record_event(ledger, incident)
    events = connect(gateway.url).follow(last_id=str(before))
    next(events)

    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET revoked_at = now()")

    with pytest.raises(Refused, match="401"):
        next(events)


def test_a_gateway_restart_neither_loses_nor_repeats_events(
    connect: Connect, acme: Acme, ledger: Engine, incident: int, settings: Callable[..., GatewaySettings]
) -> None:
    first, second = settings(), settings()
    with running_gateway(first) as old, faulty_proxy(old.url) as proxy:
        client = connect(proxy.url)
        follower = Follower(client.follow())
        eventually(lambda: broadcaster_of(old).stream_count)
        # The gateway stops before the client has received any event. Even then, the next event must not be lost.
        old.stop()
        ids = [str(record_event(ledger, incident, "during the restart"))]
        with running_gateway(second) as new:
            proxy.forward_to(new.url)
            ids.append(str(record_event(ledger, incident)))
            eventually(lambda: follower.ids == ids)
            ids.append(str(record_event(ledger, incident, "the end")))
            follower.join()

    assert follower.ids == ids


def test_a_broken_connection_neither_loses_nor_repeats_events(
    connect: Connect, gateway: Gateway, ledger: Engine, incident: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tocsin_client")
    ids = []
    with faulty_proxy(gateway.url, DROPPED, UNAVAILABLE) as proxy:
        follower = Follower(connect(proxy.url).follow())
        eventually(lambda: broadcaster_of(gateway).stream_count)
        for _ in range(3):
            ids.append(str(record_event(ledger, incident)))
            eventually(lambda: follower.ids == ids)
            proxy.disconnect_all()
            ids.append(str(record_event(ledger, incident)))
        ids.append(str(record_event(ledger, incident, "the end")))
        follower.join()

    assert follower.ids == ids
    logged = [record.getMessage() for record in caplog.records if record.name == "tocsin_client"]
    # Two faulty connections before the stream is open, and three that are closed while it is.
    assert sum("the event stream was interrupted, reconnecting in" in line for line in logged) == 5
    assert sum(line.startswith("following events again") for line in logged) == 4
    assert any(line.endswith(": 503") for line in logged)
