"""What a crash costs: nothing accepted is lost, nothing is applied twice, and work goes on without a human."""

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
from tests.journeys.programs import open_folder
from tests.journeys.stack import ACME, Stack, a_broker_for_the_stack, careful_post, running_stack
from tests.waiting import eventually

TOTAL = 90


@dataclass
class System:
    """Three workers and all the rest; ``rabbitmq`` is their broker, if it is not the stack's own Valkey."""

    stack: Stack
    rabbitmq: RabbitBroker | None

    def kill(self, part: str) -> None:
        """Kill -9 a part, which is then brought back."""
        if part == "broker" and self.rabbitmq:
            self.rabbitmq.stop()
            self.rabbitmq.start()
            return
        part = "valkey" if part == "broker" else part
        pid = self.stack.kill(part)
        self.stack.comes_back(part, other_than=pid)

    def wipe_broker(self) -> None:
        """Take away every hint and every event on its way, with their queues."""
        if self.rabbitmq:
            self.rabbitmq.delete_queues()
        else:
            redis.Redis.from_url(self.stack.running["environment"]["REDIS_URL"]).flushall()


@pytest.fixture(scope="module", params=broker_params(beside="faults"))
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    """Everything, once on each kind of broker."""
    with (
        a_broker_for_the_stack(request) as rabbitmq,
        open_folder() as folder,
        running_stack(folder / "data", "--workers", "3", broker=rabbitmq) as running,
    ):
        yield System(running, rabbitmq)


@pytest.fixture
def stack(system: System) -> Stack:
    """What people use."""
    return system.stack


def post_until_accepted(client: httpx.Client, text: str) -> None:
    """Post a comment without waiting for its outcome, until somebody accepts it."""
    body = {"comment": text, "mentions": ["user:12"]}
    answer = careful_post(client, f"{ACME}/incidents/1/comments/", body, key=text.replace(" ", "-"))
    assert answer.status_code in {201, 202}, answer.text


def written(stack: Stack, prefix: str) -> list[str]:
    engine = stack.engine()
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT comment FROM incident_activities WHERE comment LIKE %(like)s ORDER BY id", {"like": f"{prefix} %"}
        )
        found = [row.comment for row in rows]
    engine.dispose()
    return found


def items(stack: Stack, prefix: str) -> int:
    engine = stack.engine()
    with engine.connect() as connection:
        count: int = connection.exec_driver_sql(
            "SELECT count(*) FROM notifications n JOIN incident_activities a ON a.id = n.activity_id"
            " WHERE a.comment LIKE %(like)s AND n.user_id = 12 AND n.reason = 'mention'",
            {"like": f"{prefix} %"},
        ).scalar_one()
    engine.dispose()
    return count


@pytest.mark.parametrize("part", ["gateway", "worker-1", "relay", "notifier", "broker", "postgres"])
def test_a_part_killed_in_mid_load_loses_and_doubles_nothing(system: System, stack: Stack, part: str) -> None:
    texts = [f"{part} {number}" for number in range(TOTAL)]
    halfway = threading.Event()

    def load() -> None:
        with stack.client(Prefer="respond-async") as client:
            for number, text in enumerate(texts):
                post_until_accepted(client, text)
                if number == TOTAL // 3:
                    halfway.set()

    with ThreadPoolExecutor(1) as callers:
        caller = callers.submit(load)
        eventually(lambda: halfway.is_set() or caller.done(), within_seconds=60)
        system.kill(part)
        caller.result()

    eventually(lambda: len(written(stack, part)) >= TOTAL, within_seconds=60)
    assert written(stack, part) == texts
    eventually(lambda: items(stack, part) >= TOTAL, within_seconds=60)
    assert items(stack, part) == TOTAL


def test_a_broker_wiped_in_mid_load_loses_nothing(system: System, stack: Stack) -> None:
    texts = [f"wiped {number}" for number in range(TOTAL)]

    with stack.client(Prefer="respond-async") as client:
        for number, text in enumerate(texts):
            post_until_accepted(client, text)
            if number % 40 == 0:
                system.wipe_broker()

    eventually(lambda: len(written(stack, "wiped")) >= TOTAL, within_seconds=60)
    assert written(stack, "wiped") == texts
    eventually(lambda: items(stack, "wiped") >= TOTAL, within_seconds=60)
    assert items(stack, "wiped") == TOTAL


def test_hints_that_come_twice_late_and_in_any_order_change_nothing(stack: Stack) -> None:
    settings = stack.running["environment"]
    app = make_app(BrokerSettings.model_validate({"BROKER_URL": settings["BROKER_URL"]}))
    texts = [f"shuffled {number}" for number in range(TOTAL)]
    subjects = [f"incident:1:{identifier}" for identifier in (3, 2, 1)] + ["org:1", "user:12", "incident:1:999"]

    with stack.client(Prefer="respond-async") as client, app.connection_for_write() as connection:
        declare(connection)
        for number, text in enumerate(texts):
            post_until_accepted(client, text)
            for subject in random.Random(number).sample(subjects, 4) * 2:
                app.send_task(
                    Lane.COMMANDS.task_name, args=Hint((subject,)).to_args(), queue=Lane.COMMANDS, connection=connection
                )

    eventually(lambda: len(written(stack, "shuffled")) >= TOTAL, within_seconds=60)
    assert written(stack, "shuffled") == texts
    eventually(lambda: items(stack, "shuffled") >= TOTAL, within_seconds=60)
    assert items(stack, "shuffled") == TOTAL


def test_fifty_equal_posts_at_once_make_one_comment(stack: Stack) -> None:
    def post(_: int) -> tuple[int, str, str]:
        with stack.client() as client:
            answer = careful_post(client, f"{ACME}/incidents/2/comments/", {"comment": "fifty times"}, key="fifty")
            return answer.status_code, answer.headers["Command-Id"], answer.text

    with ThreadPoolExecutor(50) as callers:
        answers = set(callers.map(post, range(50)))

    assert len(answers) == 1
    assert answers.pop()[0] == 201
    assert written(stack, "fifty") == ["fifty times"]
