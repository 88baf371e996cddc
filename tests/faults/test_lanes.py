from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from models.enums import Lane
from tasks.app import make_app
from tasks.broker.hint_publisher import MAX_PENDING_SUBJECTS, HintPublisher
from tasks.broker.hints import Hint
from tests.brokers import Broker
from tests.faults.conftest import HintWorker
from tests.waiting import eventually


@pytest.fixture
def hinter(broker: Broker) -> Iterator[HintPublisher]:
    hinter = HintPublisher(make_app(broker.settings))
    hinter.start()
    yield hinter
    hinter.stop()


def test_a_hint_reaches_the_body_of_its_lane(worker: HintWorker, hinter: HintPublisher) -> None:
    hinter.publish(Lane.COMMANDS, ["incident:12:7", "org:12"])

    worker.wait_handled("org:12")

    assert worker.handled == ["incident:12:7", "org:12"]


def test_what_we_publish_is_never_parked(broker: Broker, worker: HintWorker, hinter: HintPublisher) -> None:
    hinter.publish(Lane.COMMANDS, (f"incident:1:{number}" for number in range(2000)))

    worker.wait_handled("incident:1:1999")

    assert len(worker.handled) == 2000
    assert broker.parked_count() == 0


def test_hints_collect_while_the_broker_is_away_and_arrive_when_it_is_back(broker: Broker) -> None:
    hinter = HintPublisher(make_app(broker.settings))
    broker.stop()
    hinter.start()
    hinter.publish(Lane.BULK, ["org:1"])

    broker.start()

    def heard() -> bool:
        hinter.publish(Lane.BULK, ["org:2"])
        return broker.depth(Lane.BULK) > 0

    eventually(heard)
    hinter.stop()


def test_stopping_publishes_what_is_pending(broker: Broker) -> None:
    hinter = HintPublisher(make_app(broker.settings))
    hinter.publish(Lane.DELIVERIES, ["user:5"])

    hinter.start()
    hinter.stop(timeout=10)

    assert broker.depth(Lane.DELIVERIES) == 1


def test_many_callers_become_few_messages(broker: Broker) -> None:
    hinter = HintPublisher(make_app(broker.settings))
    for number in range(300):
        hinter.publish(Lane.COMMANDS, ["org:1", f"incident:1:{number}"])

    hinter.start()
    hinter.stop(timeout=10)

    assert broker.depth(Lane.COMMANDS) == 1


def test_a_full_queue_is_not_filled_further(broker: Broker) -> None:
    for subject in ("org:1", "org:2"):
        hinter = HintPublisher(make_app(broker.settings), max_waiting=1)
        hinter.publish(Lane.COMMANDS, [subject])
        hinter.start()
        hinter.stop(timeout=10)

    assert broker.depth(Lane.COMMANDS) == 1


def test_a_subject_that_is_none_spoils_no_other(worker: HintWorker, hinter: HintPublisher) -> None:
    hinter.publish(Lane.COMMANDS, ["", "incident:1:١٢", "x" * 201, "org:1"])

    worker.wait_handled("org:1")

    assert worker.handled == ["org:1"]


def test_pending_subjects_are_bounded(broker: Broker) -> None:
    hinter = HintPublisher(make_app(broker.settings))
    hinter.publish(Lane.COMMANDS, (f"incident:1:{number}" for number in range(2 * MAX_PENDING_SUBJECTS)))

    hinter.start()
    hinter.stop(timeout=30)

    assert broker.depth(Lane.COMMANDS) == len(list(Hint.for_subjects(map(str, range(MAX_PENDING_SUBJECTS)))))


def test_a_killed_child_is_replaced_and_work_goes_on(worker: HintWorker, hinter: HintPublisher) -> None:
    child = worker.child
    hinter.publish(Lane.COMMANDS, ["wait:never"])
    worker.wait_handled("wait:never")

    os.kill(child, signal.SIGKILL)
    eventually(lambda: worker.child != child)
    hinter.publish(Lane.COMMANDS, ["org:1"])

    worker.wait_handled("org:1")
    assert worker.handled.count("wait:never") == 1


def test_the_child_dies_with_a_killed_worker(worker: HintWorker) -> None:
    child = worker.child

    os.kill(worker.process.pid, signal.SIGKILL)

    eventually(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_a_worker_told_to_stop_finishes_what_it_has_in_hand(worker: HintWorker, hinter: HintPublisher) -> None:
    hinter.publish(Lane.COMMANDS, ["wait:go", "org:1"])
    worker.wait_handled("wait:go")

    worker.process.terminate()
    (worker.folder / "go").touch()

    assert worker.process.wait(timeout=30) == 0
    assert worker.handled == ["wait:go", "org:1"]
