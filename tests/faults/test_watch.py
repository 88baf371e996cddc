"""A worker that has gone deaf ends itself and is started anew; one that is not to blame stays."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest
from kombu.exceptions import OperationalError
from sqlalchemy import text
from sqlalchemy.engine import Engine

from models.enums import Lane
from models.messaging.canary import canary_status
from tasks.app import make_app
from tasks.broker.hint_publisher import HintPublisher
from tasks.celery_tasks import count_hints
from tasks.settings import BrokerSettings
from tasks.watchdog import CHECKS_PER_TIMEOUT, EXIT_STUCK, Watchdog
from tests.builders import an_accepted_command
from tests.conftest import Database
from tests.faults.conftest import Broker
from tests.faults.deaf_line import DeafLine, deaf_line_to, served
from tests.faults.test_batches import comment
from tests.faults.test_relay import given_forgotten, going
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.journeys.programs import Program, living, open_folder, running
from tests.waiting import eventually
from workers.apply.watchdog import Heartbeat, StallDetector, has_unclaimed_work
from workers.relay.relay import Relay
from workers.relay.sweeper import Sweeper

SUPERVISE = """
import json, os, sys
from pathlib import Path
from workers.stack.processes import Process, tocsin
from workers.stack.supervisor import Stopped, Supervisor
from workers.stack.voice import Voice

logs, environment = Path(sys.argv[1]), os.environ | json.loads(sys.argv[2])

def worker(name, lanes):
    command = tocsin("worker", "--patience", "3", "--lanes", lanes)
    return Process(name, command, log=logs / f"{name}.log", environment=environment)

voice = Voice()
supervisor = Supervisor(voice, changed=lambda: voice.say("pids " + json.dumps(supervisor.pids)))
supervisor.listen()
try:
    supervisor.start([worker("busy", "commands,bulk"), worker("idle", "deliveries")])
    supervisor.watch()
except Stopped:
    pass
finally:
    supervisor.stop()
voice.say("stopped")
"""


# --- the whole way ---------------------------------------------------------------------------------------------


def test_a_worker_whose_child_hangs_is_started_anew_and_the_work_is_done(harness: Harness, broker: Broker) -> None:
    acme = Acme(harness.engine)
    with supervised(harness, broker.url) as (up, pids), going(Relay(harness.engine, broker.settings)):
        eventually(lambda: all_seen(harness.engine))
        (child,) = psutil.Process(pids["busy"]).children()

        child.suspend()
        id_ = harness.accept(comment("Anyone?"), **acme.by("mem"))

        assert up.until("is back").endswith(f"(it ended with exit code {EXIT_STUCK})")
        eventually(lambda: harness.ledger_row(id_)["state"] == "applied")
        assert living(child.pid) == []
        assert living(pids["idle"]) == [pids["idle"]]


def test_a_worker_whose_line_to_the_broker_is_dead_is_started_anew_and_the_work_is_done(
    harness: Harness, broker: Broker, line: DeafLine
) -> None:
    acme = Acme(harness.engine)
    with supervised(harness, line.url) as (up, pids), going(Relay(harness.engine, broker.settings)):
        eventually(lambda: all_seen(harness.engine))

        line.is_deaf = True
        id_ = harness.accept(comment("Anyone?"), **acme.by("mem"))
        eventually(lambda: not living(pids["busy"]), within_seconds=60)
        line.is_deaf = False

        assert up.until("is back").endswith(f"(it ended with exit code {EXIT_STUCK})")
        # The new worker may have begun to wait on a line that was still deaf; then it is not the last.
        eventually(lambda: harness.ledger_row(id_)["state"] == "applied", within_seconds=60)


# --- whether work lies there untaken ---------------------------------------------------------------------------


def test_work_that_waits_with_a_hint_at_it_is_untaken(database: Database, broker: Broker) -> None:
    with database.engine.begin() as connection:
        given_forgotten(connection, "incident:1:7")
    hint(broker, Lane.COMMANDS, "incident:1:7")

    assert looks_untaken(database, broker)
    assert not looks_untaken(database, broker, Lane.BULK)


def test_without_a_hint_nobody_is_to_blame(database: Database, broker: Broker) -> None:
    with database.engine.begin() as connection:
        given_forgotten(connection, "incident:1:7")

    assert not looks_untaken(database, broker)


def test_a_hint_without_work_is_no_reason(database: Database, valkey: Broker) -> None:
    with database.engine.begin() as connection:
        an_accepted_command(connection, subject="incident:1:7")
        # However slow this machine is, it is young.
        connection.execute(text("UPDATE commands SET accepted_at = now() + interval '1 minute'"))
    hint(valkey, Lane.COMMANDS, "incident:1:7")

    assert not looks_untaken(database, valkey)


def test_work_that_is_not_due_is_no_reason(database: Database, valkey: Broker) -> None:
    with database.engine.begin() as connection:
        given_forgotten(connection, "incident:1:7")
        connection.execute(text("UPDATE commands SET next_attempt_at = now() + interval '1 minute'"))
    hint(valkey, Lane.COMMANDS, "incident:1:7")

    assert not looks_untaken(database, valkey)


@pytest.mark.parametrize("subject", ["incident:1:7", "incident:1:8", "org:1", "user:5", "incident:99:12345"])
def test_work_that_somebody_has_in_hand_is_no_reason(database: Database, valkey: Broker, subject: str) -> None:
    with database.engine.begin() as connection:
        given_forgotten(connection, subject)
    hint(valkey, Lane.COMMANDS, subject)

    with database.engine.begin() as other:
        other.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended('apply:' || :subject, 0))"), {"subject": subject}
        )
        assert not looks_untaken(database, valkey)

    assert looks_untaken(database, valkey)


def test_an_unseen_canary_is_work_too_once_it_is_late(database: Database, valkey: Broker) -> None:
    Sweeper(database.engine, HintPublisher(make_app(valkey.settings))).send_canaries()
    hint(valkey, Lane.DELIVERIES, "canary:1")

    with database.engine.begin() as connection:
        connection.execute(text("UPDATE canaries SET sent_at = now() + interval '1 minute'"))
    assert not looks_untaken(database, valkey, Lane.DELIVERIES)

    with database.engine.begin() as connection:
        connection.execute(text("UPDATE canaries SET sent_at = now() - interval '1 minute'"))
    assert looks_untaken(database, valkey, Lane.DELIVERIES)


def test_a_broker_that_is_away_is_a_fault_and_no_answer(database: Database, broker: Broker) -> None:
    with database.engine.begin() as connection:
        given_forgotten(connection, "incident:1:7")
    broker.stop()

    with pytest.raises(OperationalError):
        looks_untaken(database, broker)


# --- patience --------------------------------------------------------------------------------------------------


def test_patience_ends_after_as_many_looks_as_make_up_its_time() -> None:
    looks, gave_up = watched(lambda _: True)

    assert (looks, gave_up) == (CHECKS_PER_TIMEOUT + 1, True)


def test_a_beat_begins_the_time_anew() -> None:
    pulse = Heartbeat()

    def beat_at_the_sixth(look: int) -> bool:
        if look == CHECKS_PER_TIMEOUT:
            pulse.beat()
        return True

    looks, gave_up = watched(beat_at_the_sixth, pulse)

    assert (looks, gave_up) == (2 * CHECKS_PER_TIMEOUT + 1, True)


def test_a_look_at_nothing_begins_the_time_anew() -> None:
    looks, gave_up = watched(lambda look: look != CHECKS_PER_TIMEOUT)

    assert (looks, gave_up) == (2 * CHECKS_PER_TIMEOUT + 1, True)


def raise_at_every_fifth(look: int) -> bool:
    if look % 5 == 0:
        raise ConnectionError
    return True


@pytest.mark.parametrize(
    "sees",
    [
        pytest.param(lambda _: False, id="nothing waits"),
        pytest.param(raise_at_every_fifth, id="the database or the broker is away now and then"),
        pytest.param(lambda look: look % CHECKS_PER_TIMEOUT > 0, id="others take the work now and then"),
    ],
)
def test_a_worker_that_is_not_to_blame_stays(sees: Callable[[int], bool]) -> None:
    looks, gave_up = watched(sees, looks_enough=100)

    assert (looks >= 100, gave_up) == (True, False)


def test_a_worker_that_makes_progress_stays() -> None:
    pulse = Heartbeat()

    def beat(_: int) -> bool:
        pulse.beat()
        return True

    looks, gave_up = watched(beat, pulse, looks_enough=100)

    assert (looks >= 100, gave_up) == (True, False)


def test_a_pulse_beats_across_a_fork() -> None:
    pulse = Heartbeat()

    child = os.fork()
    if child == 0:
        pulse.beat()
        os._exit(0)
    os.waitpid(child, 0)

    assert pulse.count == 1


# --- what the stories lean on ----------------------------------------------------------------------------------


@pytest.fixture
def line(broker: Broker) -> Iterator[DeafLine]:
    with served(deaf_line_to(broker)) as line:
        yield line


@contextmanager
def supervised(harness: Harness, broker_url: str) -> Iterator[tuple[Program, dict[str, int]]]:
    """Two workers under a supervisor, and their processes: ``busy`` with commands, ``idle`` without work."""
    environment = json.dumps({"DATABASE_URL": harness.url, "BROKER_URL": broker_url})
    with open_folder() as folder, running(SUPERVISE, str(folder), environment) as up:
        yield up, json.loads(up.until("pids").removeprefix("pids "))
        up.end(signal.SIGTERM)


def all_seen(engine: Engine) -> bool:
    with engine.connect() as connection:
        return {flight.queue for flight in canary_status(connection) if flight.way_seconds is not None} == set(Lane)


def hint(broker: Broker, lane: Lane, subject: str) -> None:
    """A hint lies on the lane's queue."""
    app = make_app(broker.settings)
    hinter = HintPublisher(app)
    hinter.start()
    hinter.publish(lane, [subject])
    eventually(lambda: count_hints(app, [lane]) == 1)
    hinter.stop()


def looks_untaken(database: Database, broker: Broker, *lanes: Lane) -> bool:
    settings = BrokerSettings.model_validate({"BROKER_URL": broker.url})
    return has_unclaimed_work(database.engine, make_app(settings), lanes or (Lane.COMMANDS,))


def watched(
    sees: Callable[[int], bool], pulse: Heartbeat | None = None, *, looks_enough: int | None = None
) -> tuple[int, bool]:
    """Watch until it gives up, or has looked often enough: the number of looks, and whether it gave up."""
    looks, ended, gave_up = 0, threading.Event(), threading.Event()

    def look() -> bool:
        nonlocal looks
        looks += 1
        if looks == looks_enough:
            ended.set()
        return sees(looks)

    def give_up() -> None:
        gave_up.set()
        ended.set()

    watch = Watchdog(StallDetector(pulse or Heartbeat(), look), give_up, patience_seconds=0.01 * CHECKS_PER_TIMEOUT)
    watch.start()
    assert ended.wait(30)
    watch.stop()
    return looks, gave_up.is_set()
