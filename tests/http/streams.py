"""Open event streams, and events to stream."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy.engine import Connection, Engine

from gateway.stream.broadcaster import EventBroadcaster
from models.base import new_id
from models.notifications.notification import notifications
from tasks.events import CommentPosted
from tests.builders import an_event
from tests.handlers.acme import Acme
from tests.http.gateway_server import ACME, Gateway
from tests.waiting import eventually

EVENTS = f"{ACME}/events/"


@dataclass
class Listener:
    """An open stream that a background thread reads."""

    response: httpx.Response
    blocks: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def listen(self) -> None:
        block: list[str] = []
        try:
            for line in self.response.iter_lines():
                block.append(line)
                if line == "":
                    self.blocks.append("\n".join(block))
                    block = []
        except httpx.HTTPError:
            pass
        self.ended.set()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The CloudEvents received so far."""
        fields = (dict(line.split(": ", 1) for line in block.splitlines() if ": " in line) for block in self.blocks)
        return [json.loads(each["data"]) for each in fields if "data" in each]

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]

    @property
    def text(self) -> str:
        """The whole text received so far."""
        return "\n".join(self.blocks)

    def wait_for(self, *ids: object) -> None:
        """Wait until events with these ids have been received."""
        wanted = {str(id_) for id_ in ids}
        eventually(lambda: wanted <= set(self.ids))

    def wait_for_end(self) -> str:
        """Wait for the end of the stream; return the last block received."""
        assert self.ended.wait(20)
        return self.blocks[-1]


@contextlib.contextmanager
def listening(gateway: Gateway, token: str = "dev-mem", *, path: str = EVENTS, **headers: str) -> Iterator[Listener]:
    """Open a stream for the duration of the block."""
    with gateway.client(token, **headers) as client, listening_with(client, path) as listener:
        yield listener


@contextlib.contextmanager
def listening_with(client: httpx.Client, path: str = EVENTS) -> Iterator[Listener]:
    """Open a stream with a client for the duration of the block."""
    with client.stream("GET", path) as response:
        assert response.status_code == 200, response.read()
        listener = Listener(response)
        thread = threading.Thread(target=listener.listen, daemon=True)
        thread.start()
        eventually(lambda: listener.blocks)
        yield listener


def last_id_of(listener: Listener) -> str:
    """The last id that the stream has sent, with or without an event."""
    ids = [line.removeprefix("id: ") for line in listener.text.splitlines() if line.startswith("id: ")]
    return ids[-1]


def drop_database_sessions(gateway: Gateway, engine: Engine) -> None:
    """End all sessions of the gateway, and wait until they have ended."""
    sessions = "FROM pg_stat_activity WHERE application_name LIKE 'tocsin gateway%%' AND datname = current_database()"
    with engine.begin() as connection:
        pids = list(connection.exec_driver_sql(f"SELECT pid {sessions} AND pg_terminate_backend(pid)").scalars())

    def have_ended() -> bool:
        with engine.begin() as connection:
            left = connection.exec_driver_sql(f"SELECT pid {sessions} AND pid = ANY(%s)", (pids,)).scalars().all()
        return not left

    eventually(have_ended)


def broadcaster_of(gateway: Gateway) -> EventBroadcaster:
    followed: EventBroadcaster = gateway.app.state.container.broadcaster
    return followed


def incident_of(engine: Engine, organization: int, identifier: int = 1) -> int:
    with engine.connect() as connection:
        id_: int = connection.exec_driver_sql(
            "SELECT id FROM incidents WHERE organization_id = %s AND identifier = %s", (organization, identifier)
        ).scalar_one()
        return id_


def write_event(connection: Connection, incident: int, text: str = "Look.") -> UUID:
    """Insert an event about an incident as a worker does, holding the incident's lock; return the event's id."""
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('apply:' || %s, 0))", (str(incident),))
    return an_event(connection, incident, CommentPosted(activity=1, comment=text))


def record_event(engine: Engine, incident: int, text: str = "Look.") -> UUID:
    with engine.begin() as connection:
        return write_event(connection, incident, text)


def backdate(engine: Engine, id_: UUID, hours: int) -> UUID:
    """Make an event older, including the time in its id; return the event's new id."""
    older = UUID(int=id_.int - (hours * 3_600_000 << 80))
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE events SET id = %(new)s, body = replace(body::text, %(old)s::text, %(new)s::text)::json,"
            " date_created = date_created - make_interval(hours => %(hours)s) WHERE id = %(old)s",
            {"new": older, "old": id_, "hours": hours},
        )
    return older


def a_notification(connection: Connection, acme: Acme, incident: int, username: str) -> int:
    return int(
        connection.execute(
            notifications.insert()
            .values(
                organization_id=acme.organizations["acme"],
                user_id=acme.users[username],
                incident_id=incident,
                activity_id=7,
                event_id=new_id(),
                event_type="incident.comment_posted",
                reason="mention",
            )
            .returning(notifications.c.id)
        ).scalar_one()
    )
