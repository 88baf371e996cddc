"""The Celery worker process survives a killed child, ends its child when killed, and stops in an orderly way."""

from __future__ import annotations

import os
import signal

import psutil

from models.enums import Lane
from tasks.broker.hint_publisher import HintPublisher
from tests.faults.conftest import HintWorker
from tests.waiting import eventually


def test_a_killed_child_process_is_replaced_and_work_continues(worker: HintWorker, publisher: HintPublisher) -> None:
    child = worker.child
    publisher.publish(Lane.COMMANDS, ["wait:never"])
    worker.wait_handled("wait:never")

    os.kill(child, signal.SIGKILL)
    eventually(lambda: worker.child != child)
    publisher.publish(Lane.COMMANDS, ["org:1"])

    worker.wait_handled("org:1")
    assert worker.handled.count("wait:never") == 1


def test_killing_a_worker_also_ends_its_child_process(worker: HintWorker) -> None:
    child = worker.child

    os.kill(worker.process.pid, signal.SIGKILL)

    eventually(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_a_stopping_worker_finishes_its_current_message(worker: HintWorker, publisher: HintPublisher) -> None:
    publisher.publish(Lane.COMMANDS, ["wait:go", "org:1"])
    worker.wait_handled("wait:go")

    worker.process.terminate()
    (worker.folder / "go").touch()

    assert worker.process.wait(timeout=30) == 0
    assert worker.handled == ["wait:go", "org:1"]
