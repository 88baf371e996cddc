"""Flower, as documented, beside a running stack on both brokers."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from tasks.startup import free_port
from tests.journeys.stack import running_stack, stack_broker
from tests.journeys.subprocesses import public_temp_dir
from tests.waiting import eventually

NODE = f"commands+bulk+deliveries.worker-1@{socket.gethostname()}"


@contextlib.contextmanager
def running_flower(broker_url: str) -> Iterator[httpx.Client]:
    """Run Flower for the duration of the block, and yield a client for its API."""
    port = free_port("127.0.0.1", 0)
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "--broker", broker_url, "flower", "--address=127.0.0.1", f"--port={port}"],
        env={**os.environ, "FLOWER_UNAUTHENTICATED_API": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
@pytest.mark.parametrize("broker", ["valkey", "rabbitmq"])
def test_flower_shows_the_workers_and_can_take_a_queue_from_one(request: pytest.FixtureRequest, broker: str) -> None:
    request.param = broker
    with (
        stack_broker(request) as rabbitmq,
        public_temp_dir() as folder,
        running_stack(folder / "data", "--workers", "1", broker=rabbitmq, TOCSIN_CELERY_EVENTS="1") as stack,
        running_flower(stack.state["environment"]["BROKER_URL"]) as flower,
    ):

        def nodes() -> dict[str, object]:
            with contextlib.suppress(httpx.HTTPError, ValueError):
                known: dict[str, object] = flower.get("/api/workers", params={"refresh": "1"}).json()
                return known
            return {}

        eventually(lambda: NODE in nodes(), within_seconds=60)
        answer = flower.post(f"/api/worker/queue/cancel-consumer/{NODE}", params={"queue": "bulk"})

        assert answer.status_code == 200, answer.text
        if broker == "rabbitmq":

            def states() -> dict[str, str]:
                with stack.client("dev-ops") as ops:
                    return {each["name"]: each["state"] for each in ops.get("/ops/api/queues/").json()}

            eventually(lambda: states() == {"commands": "running", "bulk": "no_consumer", "deliveries": "running"})
