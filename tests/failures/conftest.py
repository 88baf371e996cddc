"""A Valkey and a worker that can be killed and brought back."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tasks.settings import BrokerSettings
from workers.stack.folder import DataFolder
from workers.stack.valkey import Valkey


def eventually(holds: Callable[[], bool], within_seconds: float = 30) -> None:
    """Wait for a fact.

    :raises AssertionError: it did not come about.
    """
    until = time.monotonic() + within_seconds
    while not holds():
        assert time.monotonic() < until, f"never came about: {holds}"
        time.sleep(0.02)


class Broker:
    """A Valkey of our own."""

    def __init__(self, valkey: Valkey) -> None:
        self.server = valkey
        self.url = valkey.broker_url
        self.client = redis.Redis.from_url(valkey.redis_url)

    @property
    def settings(self) -> BrokerSettings:
        return BrokerSettings(BROKER_URL=self.url)

    def stop(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()
        self.server.wait_ready()


class Worker:
    """A worker process that writes down what it was told."""

    def __init__(self, broker_url: str, folder: Path, *, prefetch: int = 1) -> None:
        self.folder = folder
        self._log = (folder / "log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.failures.hint_worker", str(folder), str(prefetch)],
            env={**os.environ, "BROKER_URL": broker_url},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def handled(self) -> list[str]:
        """The subjects it was told, in order."""
        path = self.folder / "handled"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    @property
    def child(self) -> int:
        """The process id of the one that does the work."""
        named = self.folder / "child"
        # The worker is ready before its child is.
        eventually(named.exists)
        return int(named.read_text())

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def wait_ready(self) -> None:
        eventually(lambda: not self.is_alive or (self.folder / "ready").exists())
        assert self.is_alive, self.log

    def wait_handled(self, subject: str) -> None:
        eventually(lambda: not self.is_alive or subject in self.handled)
        assert self.is_alive, self.log

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()


@pytest.fixture(scope="session")
def valkey() -> Iterator[Broker]:
    folder = DataFolder(Path(tempfile.mkdtemp(prefix="tocsin-", dir="/tmp")))
    folder.create()
    server = Valkey(folder)
    try:
        server.start()
        server.wait_ready()
        yield Broker(server)
    finally:
        server.stop()
        folder.clear_run_folder()
        folder.remove()


@pytest.fixture
def broker(valkey: Broker) -> Broker:
    if not valkey.server.is_running():
        valkey.start()
    valkey.client.flushall()
    return valkey


@contextlib.contextmanager
def a_worker(broker_url: str, folder: Path, *, prefetch: int = 1) -> Iterator[Worker]:
    worker = Worker(broker_url, folder, prefetch=prefetch)
    try:
        worker.wait_ready()
        yield worker
    finally:
        worker.close()


@pytest.fixture
def worker(broker: Broker, tmp_path: Path) -> Iterator[Worker]:
    with a_worker(broker.url, tmp_path) as worker:
        yield worker
