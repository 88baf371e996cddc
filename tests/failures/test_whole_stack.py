"""What a crash costs: nothing accepted is lost, nothing is applied twice, and work goes on without a human."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import redis

from models.vocabulary import Lane
from tasks.app import make_app
from tasks.hints import Hint
from tasks.queues import declare
from tasks.settings import BrokerSettings
from tests.journeys.house import ACME, Stack, a_stack, careful_post
from tests.journeys.programs import open_folder
from tests.waiting import eventually

pytestmark = pytest.mark.xdist_group("faults")

TOTAL = 120


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with open_folder() as folder, a_stack(folder / "data") as running:
        yield running


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


@pytest.mark.parametrize("part", ["gateway", "worker-1", "relay", "notifier", "valkey", "postgres"])
def test_a_part_killed_in_mid_load_loses_and_doubles_nothing(stack: Stack, part: str) -> None:
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
        pid = stack.kill(part)
        caller.result()

    stack.comes_back(part, other_than=pid)
    eventually(lambda: len(written(stack, part)) >= TOTAL, within_seconds=60)
    assert written(stack, part) == texts
    eventually(lambda: items(stack, part) >= TOTAL, within_seconds=60)
    assert items(stack, part) == TOTAL


def test_a_broker_wiped_in_mid_load_loses_nothing(stack: Stack) -> None:
    valkey = redis.Redis.from_url(stack.running["environment"]["REDIS_URL"])
    texts = [f"wiped {number}" for number in range(TOTAL)]

    with stack.client(Prefer="respond-async") as client:
        for number, text in enumerate(texts):
            post_until_accepted(client, text)
            if number % 10 == 0:
                valkey.flushall()

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
                    Lane.COMMANDS.task, args=Hint((subject,)).to_args(), queue=Lane.COMMANDS, connection=connection
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
