"""A complete stack, started with ``tocsin up --demo`` in an empty directory and used over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from tocsin_client import Tocsin

from models.settings import sqlalchemy_url
from tests.brokers import RabbitBroker
from tests.journeys.subprocesses import CLEAN_ENVIRONMENT, Program
from tests.rabbitmq import RabbitMQ
from tests.waiting import eventually

ACME = "/api/0/organizations/acme"


@dataclass
class Stack:
    """A running `tocsin up --demo`."""

    program: Program
    folder: Path
    url: str

    @property
    def state(self) -> dict[str, Any]:
        """The contents of the stack's state file: settings and processes."""
        state: dict[str, Any] = json.loads((self.folder / "stack.json").read_text())
        return state

    def engine(self) -> Engine:
        """Return an engine for the stack's database."""
        return create_engine(sqlalchemy_url(self.state["environment"]["DATABASE_URL"]))

    def client(self, token: str = "dev-mem", **headers: str) -> httpx.Client:
        """Return an HTTP client that sends this token and these headers."""
        # Without TLS there is nothing to verify, and loading certificates takes longer than a request.
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {token}"} | headers, timeout=40, verify=False
        )

    def tocsin_client(self, token: str = "dev-mem", **named: Any) -> Tocsin:
        """Return tocsin's Python client with this token."""
        return Tocsin(self.url, token, organization="acme", **named)

    def kill(self, name: str) -> int:
        """Kill a process with SIGKILL; return the process id it had."""
        pid: int = self.state["pids"][name]
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_for_restart(self, name: str, *, other_than: int) -> None:
        """Wait until the process is running with another process id."""
        eventually(lambda: self.state["pids"].get(name, other_than) != other_than)

    @contextlib.contextmanager
    def process_down(self, name: str) -> Iterator[None]:
        """Kill a process with SIGKILL and keep it down for the duration of the block."""
        supervisor = self.program.process
        supervisor.send_signal(signal.SIGSTOP)
        try:
            pid = self.kill(name)
            yield
        finally:
            supervisor.send_signal(signal.SIGCONT)
        self.wait_for_restart(name, other_than=pid)

    def parked_count(self) -> int:
        """The number of messages that the transport has parked, from the gateway's metrics."""

        def scrape() -> re.Match[str] | None:
            with self.client() as client:
                return re.search(r"^tocsin_parked_messages{\S+} (\S+)$", client.get("/metrics").text, re.MULTILINE)

        # If the broker has just been restarted, the metric is missing at first.
        found = eventually(scrape)
        assert found is not None
        return int(float(found[1]))

    def run_tocsin(self, *words: str) -> str:
        """Run a tocsin command against this stack; return the command's output."""
        done = subprocess.run(
            [sys.executable, "-m", "workers.cli", *words, "--data", str(self.folder)],
            env=CLEAN_ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    @contextlib.contextmanager
    def running_tap(self, *words: str) -> Iterator[Program]:
        """Run `tocsin tap` against this stack for the duration of the block."""
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.cli", "tap", *words, "--data", str(self.folder)],
            env=CLEAN_ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        program = Program(process)
        try:
            yield program
        finally:
            # Not SIGINT, because a shell's background jobs ignore it.
            program.stop(signal.SIGTERM)


@contextlib.contextmanager
def stack_broker(request: pytest.FixtureRequest) -> Iterator[RabbitBroker | None]:
    """Yield the RabbitMQ for a stack if the fixture's parameter selects it, or ``None`` for the embedded Valkey."""
    if request.param == "valkey":
        yield None
        return
    node: RabbitMQ = request.getfixturevalue("rabbitmq_node")
    with node.virtual_host() as host:
        yield RabbitBroker(node, host)


def post_until_accepted(client: httpx.Client, path: str, body: dict[str, Any], *, key: str) -> httpx.Response:
    """Post with an idempotency key, and repeat the request until the gateway accepts it."""

    def attempt() -> list[httpx.Response]:
        try:
            response = client.post(path, json=body, headers={"Idempotency-Key": key})
        except httpx.TransportError:
            return []
        return [] if response.status_code == 503 else [response]

    return eventually(attempt, within_seconds=60)[0]


@contextlib.contextmanager
def running_stack(folder: Path, *words: str, broker: RabbitBroker | None = None, **environment: str) -> Iterator[Stack]:
    """Start a stack with the demo on a free port; stop it with SIGINT at the end of the block."""
    environment |= {"BROKER_URL": broker.url} if broker else {}
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.cli", "up", "--demo", "--data", str(folder), "--port", "0", *words],
        cwd=folder.parent,
        env=CLEAN_ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    program = Program(process)
    try:
        url = program.read_until("ready http").removeprefix("ready ")
        stack = Stack(program, folder, url)
        with stack.client() as client:
            eventually(lambda: client.get(f"{ACME}/incidents/5/").status_code == 200)
        yield stack
        if process.poll() is None:
            assert stack.parked_count() == 0, "the transport has parked messages: see transport.parked in the logs"
    finally:
        if process.poll() is None:
            program.stop(signal.SIGINT)
