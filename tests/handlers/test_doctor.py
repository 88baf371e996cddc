"""The checks for settings and queues in `tocsin doctor`."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from uuid import UUID

import pytest
from sqlalchemy import text

from models.enums import Lane
from models.messaging.canary import NOTIFIER, insert_due_canaries, mark_canaries_seen
from tasks.events import CommentPosted
from tests.builders import a_member, a_project, an_accepted_command, an_event, an_incident, an_organization
from tests.conftest import Database
from tests.handlers.test_cli import Tocsin, tocsin
from workers.stack.demo_tokens import DIRECTORY, begin_demo_tokens, end_demo_tokens
from workers.stack.servers import EmbeddedServers

__all__ = ["tocsin"]


@pytest.fixture(autouse=True)
def broker(servers: EmbeddedServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", servers.broker_url)


def queue_check(tocsin: Tocsin) -> tuple[bool, str]:
    """Return the result and the message of the queue check; durations are masked, because they vary."""
    return check(tocsin, "queues")


def check(tocsin: Tocsin, name: str) -> tuple[bool, str]:
    """Return the result and the message of a check; durations are masked."""
    (found,) = (each for each in json.loads(tocsin("doctor", "--json").out)["checks"] if each["check"] == name)
    return found["good"], re.sub(r"\d+ (m?s)\b", r"N \1", found["says"])


def send_canaries(database: Database, *, ago: str, received_on: set[str]) -> None:
    """Send a canary to every queue and receive those on `received_on`, both at a time `ago` in the past."""
    with database.engine.begin() as connection:
        sent = insert_due_canaries(connection, every_seconds=30)
        mark_canaries_seen(connection, [canary for canary in sent if canary.queue in received_on], worker="somewhere/1")
        earlier = "sent_at = sent_at - cast(:ago AS interval), seen_at = seen_at - cast(:ago AS interval)"
        connection.execute(text(f"UPDATE canaries SET {earlier}"), {"ago": ago})


def test_before_the_first_canary_the_queue_check_passes(tocsin: Tocsin) -> None:
    assert queue_check(tocsin) == (
        True,
        "no canary has been sent yet: a relay sends one on every queue, twice a minute",
    )


def test_with_a_worker_on_every_queue_the_queue_check_passes(tocsin: Tocsin, database: Database) -> None:
    send_canaries(database, ago="10 seconds", received_on={*Lane})

    good, says = queue_check(tocsin)

    assert good
    assert "commands N s ago (N ms after it was sent), bulk" in says


def test_a_queue_without_a_worker_is_reported_with_the_command_that_starts_one(
    tocsin: Tocsin, database: Database
) -> None:
    send_canaries(database, ago="40 seconds", received_on={*Lane})
    send_canaries(database, ago="70 seconds", received_on={Lane.COMMANDS, Lane.BULK, NOTIFIER})

    what, fix = "no process has consumed a canary from deliveries for N s", "start `tocsin worker --lanes deliveries`"
    assert queue_check(tocsin) == (False, f"{what}: {fix}, or see its log")


def test_a_notifier_that_does_not_consume_its_queue_is_reported(tocsin: Tocsin, database: Database) -> None:
    send_canaries(database, ago="70 seconds", received_on={*Lane})

    what, fix = "no process has consumed a canary from notifier for N s", "start `tocsin notifier`"
    assert queue_check(tocsin) == (False, f"{what}: {fix}, or see its log")


def test_what_has_waited_for_too_long_is_reported_with_its_paragraph(tocsin: Tocsin, database: Database) -> None:
    assert check(tocsin, "progress") == (True, "nothing has waited for too long, and no process is gone")
    an_unplanned_event(database, ago="6 minutes")

    good, says = check(tocsin, "progress")

    assert not good
    assert says == (
        "An event has not been announced for 6 min: no relay works. What to type: docs/operations.md#relay-away"
    )


def test_a_missing_relay_is_reported_and_not_mistaken_for_missing_workers(tocsin: Tocsin, database: Database) -> None:
    send_canaries(database, ago="120 seconds", received_on={*Lane})

    assert queue_check(tocsin) == (False, "no canary has been sent for N s: start `tocsin relay`")


def test_dead_letters_are_reported_with_the_command_that_lists_them(tocsin: Tocsin, database: Database) -> None:
    assert check(tocsin, "dead letters") == (True, "no command is dead")
    with database.engine.begin() as connection:
        an_accepted_command(connection)
        an_accepted_command(connection)
        connection.execute(text("UPDATE commands SET state = 'dead' WHERE seq = (SELECT min(seq) FROM commands)"))

    fix = "`tocsin dead list` shows why; requeue or discard them"
    assert check(tocsin, "dead letters") == (False, f"1 command is dead: {fix}")


def an_unplanned_event(database: Database, *, ago: str) -> UUID:
    """Insert an event of that age that the notifier has not planned; return its id."""
    with database.engine.begin() as connection:
        organization = an_organization(connection)
        incident = an_incident(connection, organization, projects=[a_project(connection, organization)])
        id_: UUID = an_event(connection, incident, CommentPosted(1, "Look"), by=a_member(connection, organization))
        age = text("UPDATE events SET date_created = date_created - cast(:ago AS interval) WHERE id = :id")
        connection.execute(age, {"ago": ago, "id": id_})
    return id_


def test_overdue_unplanned_events_are_reported_with_the_oldest_one(tocsin: Tocsin, database: Database) -> None:
    an_unplanned_event(database, ago="6 minutes")
    oldest = an_unplanned_event(database, ago="20 minutes")
    an_unplanned_event(database, ago="1 minute")

    found = f"unplanned events older than N s: 2; the oldest, {oldest}, has waited N s"
    fix = "start `tocsin notifier`, or look for this id in its log, where `notifier.event_deferred` has the error"
    assert check(tocsin, "planning") == (False, f"{found}: {fix}")


def test_events_that_have_just_been_written_do_not_fail_the_planning_check(tocsin: Tocsin, database: Database) -> None:
    an_unplanned_event(database, ago="1 minute")

    assert check(tocsin, "planning") == (True, "no event has waited for the notifier for more than N s")


@pytest.mark.parametrize(
    ("name", "value"), [("TOCSIN_RATE", "plenty"), ("TOCSIN_PUBLIC_URL", "tocsin.test"), ("TOCSIN_LOG_LEVEL", "loud")]
)
def test_a_setting_that_a_process_would_reject_fails_the_configuration_check(
    tocsin: Tocsin, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    result = tocsin("doctor", "--json")

    (found,) = (check for check in json.loads(result.out)["checks"] if check["check"] == "configuration")
    assert (result.code, found["good"]) == (1, False)
    assert found["says"].startswith(f"{name} is invalid: ")


def test_every_setting_is_shown_with_its_value_or_its_default(tocsin: Tocsin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_LOG_LEVEL", "warning")

    settings = json.loads(tocsin("doctor", "--json").out)["settings"]

    shown = {name: settings[name] for name in ("TOCSIN_RATE", "TOCSIN_LOG_LEVEL", "TOCSIN_CELERY_EVENTS")}
    assert shown == {"TOCSIN_RATE": "1000", "TOCSIN_LOG_LEVEL": "warning", "TOCSIN_CELERY_EVENTS": "0"}


def test_the_version_of_the_time_zone_rules_is_shown(tocsin: Tocsin) -> None:
    good, says = check(tocsin, "time zones")

    assert good
    assert re.fullmatch(
        rf"local times follow tzdata {re.escape(version('tzdata'))}; PostgreSQL's rules, which are not used,"
        r" (agree now in all|differ now in \d+) of \d{3} zones",
        says,
    )


def test_published_defaults_are_reported_by_the_names_of_their_settings(
    tocsin: Tocsin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN_SECRET", "for-trying-out-only")
    monkeypatch.setenv("REDIS_URL", "redis://:tocsin@192.0.2.1/0?socket_timeout=0.1")

    found = "everyone knows the secret in TOCSIN_SECRET, REDIS_URL, a published default: choose another"
    assert check(tocsin, "defaults") == (False, found)


def test_tokens_of_the_demo_are_reported_until_the_demo_ends(tocsin: Tocsin, database: Database) -> None:
    tocsin("directory", "import", str(DIRECTORY))
    imported = check(tocsin, "defaults")
    end_demo_tokens(database.url)
    ended = check(tocsin, "defaults")
    with database.engine.begin() as connection:
        begin_demo_tokens(connection)
    again = check(tocsin, "defaults")

    number = len(json.loads(DIRECTORY.read_text())["tokens"])
    revoke = "revoke them (`tocsin token list`)"
    assert imported == (False, f"{number} of the demo's tokens, which everyone knows, are valid: {revoke}")
    assert ended == (True, "no setting has a secret that everyone knows, and no token of the demo is valid")
    assert again == imported


def test_a_demo_that_others_could_reach_does_not_start_without_a_second_flag(tocsin: Tocsin) -> None:
    result = tocsin("up", "--demo", "--host", "0.0.0.0", "--port", "0")

    assert result.code == 1
    assert "--demo on 0.0.0.0 would let everyone in who knows the demo's tokens" in result.err
    assert "--insecure-demo" in result.err
