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
from tests.brokers import Broker
from tests.builders import an_accepted_command
from tests.conftest import Database
from tests.faults.ledger import a_comment_command
from tests.faults.relay_harness import running_relays
from tests.faults.silent_proxy import SilentProxy, running_proxy, silent_proxy_to
from tests.faults.test_sweeper import insert_stale_command
from tests.handlers.acme import Acme
from tests.handlers.conftest import Harness, house
from tests.journeys.subprocesses import Program, alive, public_temp_dir, running_script
from tests.waiting import eventually
from workers.apply.watchdog import Heartbeat, StallDetector, has_unclaimed_work
from workers.relay.relay import Relay
from workers.relay.sweeper import Sweeper

__all__ = ["house"]

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


def test_a_worker_whose_child_hangs_is_restarted_and_the_work_is_done(house: Harness, broker: Broker) -> None:
    acme = Acme(house.engine)
    with supervised(house, broker.url) as (up, pids), running_relays(Relay(house.engine, broker.settings)):
        eventually(lambda: all_canaries_seen(house.engine))
        (child,) = psutil.Process(pids["busy"]).children()

        child.suspend()
        id_ = house.accept(a_comment_command("Anyone?"), **acme.by("mem"))

        assert up.read_until("is back").endswith(f"(it ended with exit code {EXIT_STUCK})")
        eventually(lambda: house.ledger_row(id_)["state"] == "applied")
        assert alive(child.pid) == []
        assert alive(pids["idle"]) == [pids["idle"]]


def test_a_worker_with_a_dead_broker_connection_is_restarted_and_the_work_is_done(
    house: Harness, broker: Broker, line: SilentProxy
) -> None:
    acme = Acme(house.engine)
    with supervised(house, line.url) as (up, pids), running_relays(Relay(house.engine, broker.settings)):
        eventually(lambda: all_canaries_seen(house.engine))

        line.is_silent = True
        id_ = house.accept(a_comment_command("Anyone?"), **acme.by("mem"))
        eventually(lambda: not alive(pids["busy"]), within_seconds=60)
        line.is_silent = False

        assert up.read_until("is back").endswith(f"(it ended with exit code {EXIT_STUCK})")
        # The new worker may have begun to wait on a line that was still deaf; then it is not the last.
        eventually(lambda: house.ledger_row(id_)["state"] == "applied", within_seconds=60)


# --- whether work lies there untaken ---------------------------------------------------------------------------


def test_waiting_work_with_a_queued_hint_counts_as_unclaimed(database: Database, broker: Broker) -> None:
    with database.engine.begin() as connection:
        insert_stale_command(connection, "incident:1:7")
    publish_hint(broker, Lane.COMMANDS, "incident:1:7")

    assert is_unclaimed(database, broker)
    assert not is_unclaimed(database, broker, Lane.BULK)


def test_waiting_work_without_a_queued_hint_does_not_count(database: Database, broker: Broker) -> None:
    with database.engine.begin() as connection:
        insert_stale_command(connection, "incident:1:7")

    assert not is_unclaimed(database, broker)


def test_a_hint_without_stale_work_does_not_count(database: Database, valkey: Broker) -> None:
    with database.engine.begin() as connection:
        an_accepted_command(connection, subject="incident:1:7")
        # However slow this machine is, it is young.
        connection.execute(text("UPDATE commands SET accepted_at = now() + interval '1 minute'"))
    publish_hint(valkey, Lane.COMMANDS, "incident:1:7")

    assert not is_unclaimed(database, valkey)


def test_work_that_is_not_due_does_not_count(database: Database, valkey: Broker) -> None:
    with database.engine.begin() as connection:
        insert_stale_command(connection, "incident:1:7")
        connection.execute(text("UPDATE commands SET next_attempt_at = now() + interval '1 minute'"))
    publish_hint(valkey, Lane.COMMANDS, "incident:1:7")

    assert not is_unclaimed(database, valkey)


@pytest.mark.parametrize("subject", ["incident:1:7", "incident:1:8", "org:1", "user:5", "incident:99:12345"])
def test_work_locked_by_another_worker_does_not_count(database: Database, valkey: Broker, subject: str) -> None:
    with database.engine.begin() as connection:
        insert_stale_command(connection, subject)
    publish_hint(valkey, Lane.COMMANDS, subject)

    with database.engine.begin() as other:
        other.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended('apply:' || :subject, 0))"), {"subject": subject}
        )
        assert not is_unclaimed(database, valkey)

    assert is_unclaimed(database, valkey)


def test_an_overdue_canary_counts_as_unclaimed_work(database: Database, valkey: Broker) -> None:
    Sweeper(database.engine, HintPublisher(make_app(valkey.settings))).send_canaries()
    publish_hint(valkey, Lane.DELIVERIES, "canary:1")

    with database.engine.begin() as connection:
        connection.execute(text("UPDATE canaries SET sent_at = now() + interval '1 minute'"))
    assert not is_unclaimed(database, valkey, Lane.DELIVERIES)

    with database.engine.begin() as connection:
        connection.execute(text("UPDATE canaries SET sent_at = now() - interval '1 minute'"))
    assert is_unclaimed(database, valkey, Lane.DELIVERIES)


def test_a_broker_outage_raises_an_error(database: Database, broker: Broker) -> None:
    with database.engine.begin() as connection:
        insert_stale_command(connection, "incident:1:7")
    broker.stop()

    with pytest.raises(OperationalError):
        is_unclaimed(database, broker)


# --- patience --------------------------------------------------------------------------------------------------


def test_the_watchdog_gives_up_after_a_fixed_number_of_checks() -> None:
    looks, gave_up = run_watchdog(lambda _: True)

    assert (looks, gave_up) == (CHECKS_PER_TIMEOUT + 1, True)


def test_a_heartbeat_resets_the_watchdog() -> None:
    pulse = Heartbeat()

    def beat_at_the_sixth(look: int) -> bool:
        if look == CHECKS_PER_TIMEOUT:
            pulse.beat()
        return True

    looks, gave_up = run_watchdog(beat_at_the_sixth, pulse)

    assert (looks, gave_up) == (2 * CHECKS_PER_TIMEOUT + 1, True)


def test_a_check_without_waiting_work_resets_the_watchdog() -> None:
    looks, gave_up = run_watchdog(lambda look: look != CHECKS_PER_TIMEOUT)

    assert (looks, gave_up) == (2 * CHECKS_PER_TIMEOUT + 1, True)


def fail_every_fifth_check(look: int) -> bool:
    if look % 5 == 0:
        raise ConnectionError
    return True


@pytest.mark.parametrize(
    "sees",
    [
        pytest.param(lambda _: False, id="nothing waits"),
        pytest.param(fail_every_fifth_check, id="the database or the broker is away now and then"),
        pytest.param(lambda look: look % CHECKS_PER_TIMEOUT > 0, id="others take the work now and then"),
    ],
)
def test_a_worker_that_is_not_stuck_keeps_running(sees: Callable[[int], bool]) -> None:
    looks, gave_up = run_watchdog(sees, max_checks=100)

    assert (looks >= 100, gave_up) == (True, False)


def test_a_worker_that_makes_progress_keeps_running() -> None:
    pulse = Heartbeat()

    def beat(_: int) -> bool:
        pulse.beat()
        return True

    looks, gave_up = run_watchdog(beat, pulse, max_checks=100)

    assert (looks >= 100, gave_up) == (True, False)


def test_heartbeats_are_shared_across_a_fork() -> None:
    pulse = Heartbeat()

    child = os.fork()
    if child == 0:
        pulse.beat()
        os._exit(0)
    os.waitpid(child, 0)

    assert pulse.count == 1


# --- what the stories lean on ----------------------------------------------------------------------------------


@pytest.fixture
def line(broker: Broker) -> Iterator[SilentProxy]:
    with running_proxy(silent_proxy_to(broker)) as line:
        yield line


@contextmanager
def supervised(house: Harness, broker_url: str) -> Iterator[tuple[Program, dict[str, int]]]:
    """Two workers under a supervisor, and their processes: ``busy`` with commands, ``idle`` without work."""
    environment = json.dumps({"DATABASE_URL": house.url, "BROKER_URL": broker_url})
    with public_temp_dir() as folder, running_script(SUPERVISE, str(folder), environment) as up:
        yield up, json.loads(up.read_until("pids").removeprefix("pids "))
        up.stop(signal.SIGTERM)


def all_canaries_seen(engine: Engine) -> bool:
    with engine.connect() as connection:
        return {flight.queue for flight in canary_status(connection) if flight.way_seconds is not None} == set(Lane)


def publish_hint(broker: Broker, lane: Lane, subject: str) -> None:
    """A hint lies on the lane's queue."""
    app = make_app(broker.settings)
    hinter = HintPublisher(app)
    hinter.start()
    hinter.publish(lane, [subject])
    eventually(lambda: count_hints(app, [lane]) == 1)
    hinter.stop()


def is_unclaimed(database: Database, broker: Broker, *lanes: Lane) -> bool:
    settings = BrokerSettings.model_validate({"BROKER_URL": broker.url})
    return has_unclaimed_work(database.engine, make_app(settings), lanes or (Lane.COMMANDS,))


def run_watchdog(
    is_waiting: Callable[[int], bool], pulse: Heartbeat | None = None, *, max_checks: int | None = None
) -> tuple[int, bool]:
    """Watch until it gives up, or has looked often enough: the number of looks, and whether it gave up."""
    looks, ended, gave_up = 0, threading.Event(), threading.Event()

    def look() -> bool:
        nonlocal looks
        looks += 1
        if looks == max_checks:
            ended.set()
        return is_waiting(looks)

    def give_up() -> None:
        gave_up.set()
        ended.set()

    watch = Watchdog(StallDetector(pulse or Heartbeat(), look), give_up, patience_seconds=0.01 * CHECKS_PER_TIMEOUT)
    watch.start()
    assert ended.wait(30)
    watch.stop()
    return looks, gave_up.is_set()
