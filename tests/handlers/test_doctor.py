"""`tocsin doctor` on settings and queues: what is set, what the canaries tell, and what to do."""

from __future__ import annotations

import json
import re

import pytest
from sqlalchemy import text

from models.enums import Lane
from models.messaging.canary import insert_due_canaries, mark_canaries_seen
from tests.conftest import Database
from tests.handlers.test_directory_commands import Tocsin, tocsin
from workers.stack.servers import EmbeddedServers

__all__ = ["tocsin"]


@pytest.fixture(autouse=True)
def broker(servers: EmbeddedServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", servers.broker_url)


def queues(tocsin: Tocsin) -> tuple[bool, str]:
    """What the doctor says of the queues, its figures left out: time passes while it looks."""
    (found,) = (check for check in json.loads(tocsin("doctor", "--json").out)["checks"] if check["check"] == "queues")
    return found["good"], re.sub(r"\d+ (m?s)\b", r"N \1", found["says"])


def send(database: Database, *, ago: str, seen_on: set[Lane]) -> None:
    """A canary on each queue, sent and seen so long ago."""
    with database.engine.begin() as connection:
        sent = insert_due_canaries(connection, every_seconds=30)
        mark_canaries_seen(connection, [canary for canary in sent if canary.queue in seen_on], worker="somewhere/1")
        earlier = "sent_at = sent_at - cast(:ago AS interval), seen_at = seen_at - cast(:ago AS interval)"
        connection.execute(text(f"UPDATE canaries SET {earlier}"), {"ago": ago})


def test_before_the_first_canary_there_is_nothing_to_tell(tocsin: Tocsin) -> None:
    assert queues(tocsin) == (True, "no canary has been sent yet: a relay sends one on every queue, twice a minute")


def test_with_a_worker_on_every_queue_all_is_well(tocsin: Tocsin, database: Database) -> None:
    send(database, ago="10 seconds", seen_on={*Lane})

    good, says = queues(tocsin)

    assert good
    assert "commands N s ago (N ms after it was sent), bulk" in says


def test_a_queue_without_a_worker_is_named_with_the_command_that_starts_one(tocsin: Tocsin, database: Database) -> None:
    send(database, ago="120 seconds", seen_on={*Lane})
    send(database, ago="0 seconds", seen_on={Lane.COMMANDS, Lane.BULK})

    what, fix = "no worker has consumed a canary from deliveries for N s", "start `tocsin worker --lanes deliveries`"
    assert queues(tocsin) == (False, f"{what}: {fix}, or see its log")


def test_without_a_relay_nobody_blames_the_workers(tocsin: Tocsin, database: Database) -> None:
    send(database, ago="120 seconds", seen_on={*Lane})

    assert queues(tocsin) == (False, "no canary has been sent for N s: start `tocsin relay`")


@pytest.mark.parametrize(
    ("name", "value"), [("TOCSIN_RATE", "plenty"), ("TOCSIN_PUBLIC_URL", "tocsin.test"), ("TOCSIN_LOG_LEVEL", "loud")]
)
def test_a_value_that_a_room_would_refuse_is_refused_here_as_well(
    tocsin: Tocsin, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    answer = tocsin("doctor", "--json")

    (found,) = (check for check in json.loads(answer.out)["checks"] if check["check"] == "configuration")
    assert (answer.code, found["good"]) == (1, False)
    assert found["says"].startswith(f"{name} is invalid: ")


def test_a_setting_shows_what_it_is_set_to_or_what_holds_without(
    tocsin: Tocsin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN_LOG_LEVEL", "warning")

    settings = json.loads(tocsin("doctor", "--json").out)["settings"]

    shown = {name: settings[name] for name in ("TOCSIN_RATE", "TOCSIN_LOG_LEVEL", "TOCSIN_CELERY_EVENTS")}
    assert shown == {"TOCSIN_RATE": "1000", "TOCSIN_LOG_LEVEL": "warning", "TOCSIN_CELERY_EVENTS": "0"}
