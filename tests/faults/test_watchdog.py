"""The worker's watchdog: a stuck worker exits and is restarted, and any other worker keeps running."""

from __future__ import annotations

import itertools
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
from tests.harness import Harness
from tests.journeys.subprocesses import Program, alive, public_temp_dir, running_module
from tests.waiting import eventually
from workers.apply.watchdog import DeafLaneDetector, Heartbeat, StallDetector, find_unclaimed_lanes, has_unclaimed_work
from workers.relay.relay import Relay
from workers.relay.sweeper import Sweeper

WORKERS = "tests.faults.supervised_workers"


# --- end to end --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_whose_child_hangs_is_restarted_and_the_work_is_done(harness: Harness, broker: Broker) -> None:
    acme = Acme(harness.engine)
    with supervised(harness, broker.url) as (supervisor, pids), running_relays(Relay(harness.engine, broker.settings)):
        eventually(lambda: all_canaries_seen(harness.engine))
        (child,) = psutil.Process(pids["busy"]).children()

        child.suspend()
        id_ = harness.accept(a_comment_command("Anyone?"), **acme.by("mem"))

        assert supervisor.read_until("is back").endswith(f"(it ended with exit code {EXIT_STUCK})")
        eventually(lambda: harness.ledger_row(id_)["state"] == "applied")
        assert alive(child.pid) == []
        assert alive(pids["idle"]) == [pids["idle"]]


@pytest.mark.slow
def test_a_worker_with_a_dead_broker_connection_is_restarted_and_the_work_is_done(
    harness: Harness, broker: Broker, proxy: SilentProxy
) -> None:
    acme = Acme(harness.engine)
    with supervised(harness, proxy.url) as (supervisor, pids), running_relays(Relay(harness.engine, broker.settings)):
        eventually(lambda: all_canaries_seen(harness.engine))

        proxy.is_silent = True
        id_ = harness.accept(a_comment_command("Anyone?"), **acme.by("mem"))
        eventually(lambda: not alive(pids["busy"]), within_seconds=60)
        proxy.is_silent = False

        assert supervisor.read_until("is back").endswith(f"(it ended with exit code {EXIT_STUCK})")
        # The new worker may have connected while the proxy was still silent. In that case it is restarted once more.
        eventually(lambda: harness.ledger_row(id_)["state"] == "applied", within_seconds=60)


# --- unclaimed work ----------------------------------------------------------------------------------------------


def test_waiting_work_with_a_queued_hint_counts_as_unclaimed(database: Database, broker: Broker) -> None:
    with database.engine.begin() as connection:
        insert_stale_command(connection, "incident:1:7")
    publish_hint(broker, Lane.COMMANDS, "incident:1:7")

    assert is_unclaimed(database, broker)
    assert not is_unclaimed(database, broker, Lane.BULK)


def test_waiting_work_without_a_queued_hint_does_not_count_as_unclaimed(database: Database, broker: Broker) -> None:
    with database.engine.begin() as connection:
        insert_stale_command(connection, "incident:1:7")

    assert not is_unclaimed(database, broker)


def test_a_queued_hint_without_stale_work_does_not_count_as_unclaimed_work(database: Database, valkey: Broker) -> None:
    with database.engine.begin() as connection:
        an_accepted_command(connection, subject="incident:1:7")
        # The command stays recent, however slow the machine is.
        connection.execute(text("UPDATE commands SET accepted_at = now() + interval '1 minute'"))
    publish_hint(valkey, Lane.COMMANDS, "incident:1:7")

    assert not is_unclaimed(database, valkey)


def test_work_that_is_not_due_does_not_count_as_unclaimed(database: Database, valkey: Broker) -> None:
    with database.engine.begin() as connection:
        insert_stale_command(connection, "incident:1:7")
        connection.execute(text("UPDATE commands SET next_attempt_at = now() + interval '1 minute'"))
    publish_hint(valkey, Lane.COMMANDS, "incident:1:7")

    assert not is_unclaimed(database, valkey)


@pytest.mark.parametrize("subject", ["incident:1:7", "incident:1:8", "org:1", "user:5", "incident:99:12345"])
def test_work_locked_by_another_worker_does_not_count_as_unclaimed(
    database: Database, valkey: Broker, subject: str
) -> None:
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
    Sweeper(database.engine, HintPublisher(make_app(valkey.settings))).sweep()
    publish_hint(valkey, Lane.DELIVERIES, "canary:1")

    with database.engine.begin() as connection:
        connection.execute(text("UPDATE canaries SET sent_at = now() + interval '1 minute'"))
    assert not is_unclaimed(database, valkey, Lane.DELIVERIES)

    with database.engine.begin() as connection:
        connection.execute(text("UPDATE canaries SET sent_at = now() - interval '1 minute'"))
    assert is_unclaimed(database, valkey, Lane.DELIVERIES)


def test_checking_for_unclaimed_work_during_a_broker_outage_raises_an_error(database: Database, broker: Broker) -> None:
    with database.engine.begin() as connection:
        insert_stale_command(connection, "incident:1:7")
    broker.stop()

    with pytest.raises(OperationalError):
        is_unclaimed(database, broker)


# --- timeout -----------------------------------------------------------------------------------------------------


def test_the_watchdog_gives_up_after_a_fixed_number_of_checks_with_unclaimed_work() -> None:
    checks, gave_up = run_watchdog(lambda _: True)

    assert (checks, gave_up) == (CHECKS_PER_TIMEOUT + 1, True)


def test_a_heartbeat_resets_the_watchdog() -> None:
    heartbeat = Heartbeat()

    def beat_once(check: int) -> bool:
        if check == CHECKS_PER_TIMEOUT:
            heartbeat.beat()
        return True

    checks, gave_up = run_watchdog(beat_once, heartbeat)

    assert (checks, gave_up) == (2 * CHECKS_PER_TIMEOUT + 1, True)


def test_a_check_without_unclaimed_work_resets_the_watchdog() -> None:
    checks, gave_up = run_watchdog(lambda check: check != CHECKS_PER_TIMEOUT)

    assert (checks, gave_up) == (2 * CHECKS_PER_TIMEOUT + 1, True)


def fail_every_fifth_check(check: int) -> bool:
    if check % 5 == 0:
        raise ConnectionError
    return True


@pytest.mark.parametrize(
    "is_waiting",
    [
        pytest.param(lambda _: False, id="no work waits"),
        pytest.param(fail_every_fifth_check, id="occasional outages"),
        pytest.param(lambda check: check % CHECKS_PER_TIMEOUT > 0, id="other workers claim the work"),
    ],
)
def test_a_worker_that_is_not_stuck_keeps_running(is_waiting: Callable[[int], bool]) -> None:
    checks, gave_up = run_watchdog(is_waiting, max_checks=100)

    assert (checks >= 100, gave_up) == (True, False)


def test_a_worker_that_makes_progress_keeps_running() -> None:
    heartbeat = Heartbeat()

    def beat(_: int) -> bool:
        heartbeat.beat()
        return True

    checks, gave_up = run_watchdog(beat, heartbeat, max_checks=100)

    assert (checks >= 100, gave_up) == (True, False)


def test_heartbeats_are_shared_across_a_fork() -> None:
    heartbeat = Heartbeat()

    child = os.fork()
    if child == 0:
        heartbeat.beat()
        os._exit(0)
    os.waitpid(child, 0)

    assert heartbeat.count == 1


def test_a_worker_that_no_longer_consumes_one_of_its_lanes_is_stuck() -> None:
    heartbeat = Heartbeat()
    is_deaf = DeafLaneDetector(heartbeat, lambda: {Lane.COMMANDS, Lane.BULK})

    def check() -> bool:
        heartbeat.beat(Lane.BULK)
        return is_deaf()

    assert [check() for _ in range(4)] == [False, True, True, True]


@pytest.mark.parametrize("lanes", [[Lane.COMMANDS, Lane.BULK], [Lane.COMMANDS]])
def test_a_worker_that_consumes_each_of_its_lanes_now_and_then_is_not_deaf(lanes: list[Lane]) -> None:
    heartbeat, turns = Heartbeat(), itertools.cycle(lanes)
    is_deaf = DeafLaneDetector(heartbeat, lambda: set(lanes))

    def check() -> bool:
        heartbeat.beat(next(turns))
        return is_deaf()

    # The check after a lane's turn never finds the same lane silent as the one before.
    assert not any(check() for _ in range(10))


def test_the_lanes_with_unclaimed_work_are_named(database: Database, valkey: Broker) -> None:
    with database.engine.begin() as connection:
        insert_stale_command(connection, "incident:1:7")
    publish_hint(valkey, Lane.COMMANDS, "incident:1:7")
    publish_hint(valkey, Lane.BULK, "incident:1:8")

    assert find_unclaimed_lanes(database.engine, make_app(valkey.settings), list(Lane)) == {Lane.COMMANDS}


# --- helpers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(broker: Broker) -> Iterator[SilentProxy]:
    with running_proxy(silent_proxy_to(broker)) as proxy:
        yield proxy


@contextmanager
def supervised(harness: Harness, broker_url: str) -> Iterator[tuple[Program, dict[str, int]]]:
    """Run two workers under a supervisor; yield the supervisor and the workers' process ids by name.

    The worker ``busy`` consumes the lanes commands and bulk; the worker ``idle`` consumes the lane deliveries."""
    environment = json.dumps({"DATABASE_URL": harness.url, "BROKER_URL": broker_url})
    with public_temp_dir() as logs, running_module(WORKERS, str(logs), environment) as supervisor:
        yield supervisor, json.loads(supervisor.read_until("pids").removeprefix("pids "))
        supervisor.stop(signal.SIGTERM)


def all_canaries_seen(engine: Engine) -> bool:
    with engine.connect() as connection:
        return {flight.queue for flight in canary_status(connection) if flight.way_seconds is not None} == set(Lane)


def publish_hint(broker: Broker, lane: Lane, subject: str) -> None:
    """Publish a hint and wait until it is in the lane's queue."""
    app = make_app(broker.settings)
    publisher = HintPublisher(app)
    publisher.start()
    publisher.publish(lane, [subject])
    eventually(lambda: count_hints(app, [lane]) == 1)
    publisher.stop()


def is_unclaimed(database: Database, broker: Broker, *lanes: Lane) -> bool:
    settings = BrokerSettings.model_validate({"BROKER_URL": broker.url})
    return has_unclaimed_work(database.engine, make_app(settings), lanes or (Lane.COMMANDS,))


def run_watchdog(
    is_waiting: Callable[[int], bool], heartbeat: Heartbeat | None = None, *, max_checks: int | None = None
) -> tuple[int, bool]:
    """Run a watchdog until it gives up or reaches ``max_checks``; return the number of checks and if it gave up."""
    checks, ended, gave_up = 0, threading.Event(), threading.Event()

    def check() -> bool:
        nonlocal checks
        checks += 1
        if checks == max_checks:
            ended.set()
        return is_waiting(checks)

    def give_up() -> None:
        gave_up.set()
        ended.set()

    watchdog = Watchdog(
        StallDetector(heartbeat or Heartbeat(), check), give_up, patience_seconds=0.01 * CHECKS_PER_TIMEOUT
    )
    watchdog.start()
    assert ended.wait(30)
    watchdog.stop()
    return checks, gave_up.is_set()
