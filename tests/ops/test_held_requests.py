"""Callers over HTTP: what they read while their command is held, and that they do not wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from gateway.settings import GatewaySettings
from models.operations.holds import place_hold, release_hold
from tasks.commands.catalog import CATALOG
from tests.conftest import Database
from tests.handlers.acme import Acme
from tests.http.gateway_server import A_COMMENT, COMMENTS, Gateway, running_gateway
from tests.waiting import eventually
from workers.stack.servers import EmbeddedServers


@pytest.fixture
def gateway(servers: EmbeddedServers, database: Database, acme: Acme) -> Iterator[Gateway]:
    """A gateway without a worker, so that nothing but a hold or the caller's time limit ends a wait."""
    settings = GatewaySettings.model_validate(
        {"DATABASE_URL": database.url, "BROKER_URL": servers.broker_url, "REDIS_URL": servers.redis_url}
    )
    with running_gateway(settings) as gateway:
        yield gateway


def hold(database: Database, *, release_after: timedelta | None = None) -> int:
    with database.engine.begin() as connection:
        now = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
        placed = place_hold(
            connection,
            scope="type",
            target="comment.post",
            reason="a flood of spam",
            by="ops:1",
            known_types=frozenset(CATALOG),
            release_at=None if release_after is None else now + release_after,
        )
    return int(placed["id"])


def test_a_caller_who_waits_for_a_held_command_is_answered_at_once(gateway: Gateway, database: Database) -> None:
    hold_id = hold(database)

    response = gateway.post(COMMENTS, A_COMMENT, Prefer="wait=30")

    assert response.status_code == 202
    assert response.headers["retry-after"] == "60"
    held = response.json()["heldBy"]
    assert (held["hold"], held["scope"], held["target"]) == (str(hold_id), "type", "comment.post")
    assert (held["reason"], held["releaseAt"]) == ("a flood of spam", None)


def test_a_held_command_says_by_which_hold_until_it_is_released(gateway: Gateway, database: Database) -> None:
    location = gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async").headers["location"]
    assert gateway.get(location).json()["heldBy"] is None

    hold_id = hold(database, release_after=timedelta(hours=1))

    command = gateway.get(location).json()
    assert command["status"] == "accepted"
    assert command["heldBy"]["hold"] == str(hold_id)
    assert command["heldBy"]["releaseAt"] is not None
    eventually(lambda: gateway.app.state.container.outcomes.holds_exist)
    later = gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async")
    assert later.json()["heldBy"]["hold"] == str(hold_id)
    assert 3500 < int(later.headers["retry-after"]) <= 3600
    with database.engine.begin() as connection:
        release_hold(connection, hold_id, reason="it is over", by="ops:1")
    assert gateway.get(location).json()["heldBy"] is None
