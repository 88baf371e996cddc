"""Crashes in a complete stack: no accepted command is lost or applied twice, and recovery is automatic."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest
import redis

from models.enums import Lane
from tasks.app import make_app
from tasks.broker.hints import Hint
from tasks.broker.topology import declare
from tasks.settings import BrokerSettings
from tests.brokers import RabbitBroker, broker_params
from tests.journeys.stack import ACME, Stack, post_until_accepted, running_stack, stack_broker
from tests.journeys.subprocesses import public_temp_dir
from tests.waiting import eventually

TOTAL = 90


@dataclass
class System:
    """A stack with three workers; ``rabbitmq`` is the stack's broker, or ``None`` if it uses the embedded Valkey."""

    stack: Stack
    rabbitmq: RabbitBroker | None

    def kill(self, process: str) -> None:
        """Kill a process with SIGKILL and wait until it has been restarted."""
        if process == "broker" and self.rabbitmq:
            self.rabbitmq.stop()
            self.rabbitmq.start()
            return
        process = "valkey" if process == "broker" else process
        pid = self.stack.kill(process)
        self.stack.wait_for_restart(process, other_than=pid)

    def delete_queues(self) -> None:
        """Delete every queue, with the hints and events in it."""
        if self.rabbitmq:
            self.rabbitmq.delete_queues()
        else:
            redis.Redis.from_url(self.stack.state["environment"]["REDIS_URL"]).flushall()


@pytest.fixture(scope="module", params=broker_params(valkey_group="faults"))
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    """A stack on each kind of broker."""
    with (
        stack_broker(request) as rabbitmq,
        public_temp_dir() as folder,
        running_stack(folder / "data", "--workers", "3", broker=rabbitmq) as running,
    ):
        yield System(running, rabbitmq)


@pytest.fixture
def stack(system: System) -> Stack:
    """The stack under test."""
    return system.stack


def post_comment(client: httpx.Client, text: str) -> None:
    """Post a comment until it is accepted, without waiting for its outcome."""
    body = {"comment": text, "mentions": ["user:12"]}
    response = post_until_accepted(client, f"{ACME}/incidents/1/comments/", body, key=text.replace(" ", "-"))
    assert response.status_code in {201, 202}, response.text


def comments_with_prefix(stack: Stack, prefix: str) -> list[str]:
    engine = stack.engine()
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT comment FROM incident_activities WHERE comment LIKE %(like)s ORDER BY id", {"like": f"{prefix} %"}
        )
        found = [row.comment for row in rows]
    engine.dispose()
    return found


def notification_count(stack: Stack, prefix: str) -> int:
    engine = stack.engine()
    with engine.connect() as connection:
        count: int = connection.exec_driver_sql(
            "SELECT count(*) FROM notifications n JOIN incident_activities a ON a.id = n.activity_id"
            " WHERE a.comment LIKE %(like)s AND n.user_id = 12 AND n.reason = 'mention'",
            {"like": f"{prefix} %"},
        ).scalar_one()
    engine.dispose()
    return count


@pytest.mark.parametrize("process", ["gateway", "worker-1", "relay", "notifier", "broker", "postgres"])
def test_killing_a_process_under_load_neither_loses_nor_duplicates_anything(
    system: System, stack: Stack, process: str
) -> None:
    texts = [f"{process} {number}" for number in range(TOTAL)]
    halfway = threading.Event()

    def load() -> None:
        with stack.client(Prefer="respond-async") as client:
            for number, text in enumerate(texts):
                post_comment(client, text)
                if number == TOTAL // 3:
                    halfway.set()

    with ThreadPoolExecutor(1) as callers:
        caller = callers.submit(load)
        eventually(lambda: halfway.is_set() or caller.done(), within_seconds=60)
        system.kill(process)
        caller.result()

    eventually(lambda: len(comments_with_prefix(stack, process)) >= TOTAL, within_seconds=60)
    assert comments_with_prefix(stack, process) == texts
    eventually(lambda: notification_count(stack, process) >= TOTAL, within_seconds=60)
    assert notification_count(stack, process) == TOTAL


def test_wiping_the_broker_under_load_loses_nothing(system: System, stack: Stack) -> None:
    texts = [f"wiped {number}" for number in range(TOTAL)]

    with stack.client(Prefer="respond-async") as client:
        for number, text in enumerate(texts):
            post_comment(client, text)
            if number % 40 == 0:
                system.delete_queues()

    eventually(lambda: len(comments_with_prefix(stack, "wiped")) >= TOTAL, within_seconds=60)
    assert comments_with_prefix(stack, "wiped") == texts
    eventually(lambda: notification_count(stack, "wiped") >= TOTAL, within_seconds=60)
    assert notification_count(stack, "wiped") == TOTAL


def test_duplicate_late_and_reordered_hints_change_nothing(stack: Stack) -> None:
    settings = stack.state["environment"]
    app = make_app(BrokerSettings.model_validate({"BROKER_URL": settings["BROKER_URL"]}))
    texts = [f"shuffled {number}" for number in range(TOTAL)]
    subjects = [f"incident:1:{identifier}" for identifier in (3, 2, 1)] + ["org:1", "user:12", "incident:1:999"]

    with stack.client(Prefer="respond-async") as client, app.connection_for_write() as connection:
        declare(connection)
        for number, text in enumerate(texts):
            post_comment(client, text)
            for subject in random.Random(number).sample(subjects, 4) * 2:
                app.send_task(
                    Lane.COMMANDS.task_name, args=Hint((subject,)).to_args(), queue=Lane.COMMANDS, connection=connection
                )

    eventually(lambda: len(comments_with_prefix(stack, "shuffled")) >= TOTAL, within_seconds=60)
    assert comments_with_prefix(stack, "shuffled") == texts
    eventually(lambda: notification_count(stack, "shuffled") >= TOTAL, within_seconds=60)
    assert notification_count(stack, "shuffled") == TOTAL


def test_fifty_identical_concurrent_posts_create_one_comment(stack: Stack) -> None:
    def post(_: int) -> tuple[int, str, str]:
        with stack.client() as client:
            response = post_until_accepted(
                client, f"{ACME}/incidents/2/comments/", {"comment": "fifty times"}, key="fifty"
            )
            return response.status_code, response.headers["Command-Id"], response.text

    with ThreadPoolExecutor(50) as callers:
        responses = set(callers.map(post, range(50)))

    assert len(responses) == 1
    assert responses.pop()[0] == 201
    assert comments_with_prefix(stack, "fifty") == ["fifty times"]
