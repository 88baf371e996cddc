"""Fixtures for brokers and a worker that can be killed and restarted."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.app import make_app
from tasks.broker.hint_publisher import HintPublisher
from tests.brokers import BROKER_PARAMS, Broker, RabbitBroker, ValkeyBroker
from tests.faults.outage_proxy import OutageProxy
from tests.faults.relay_harness import Subscriber
from tests.waiting import eventually
from workers.stack.data_dir import DataDirectory
from workers.stack.valkey import Valkey


class HintWorker:
    """A worker process that records the subjects of the hints it receives."""

    def __init__(self, broker_url: str, folder: Path, *, prefetch: int = 1) -> None:
        self.folder = folder
        self._log = (folder / "log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.hint_worker", str(folder), str(prefetch)],
            env={**os.environ, "BROKER_URL": broker_url},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def handled(self) -> list[str]:
        """The subjects of the hints received so far, in order; a hint without subjects counts as an empty one."""
        path = self.folder / "handled"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    @property
    def child(self) -> int:
        """The process id of the child that runs the tasks."""
        path = self.folder / "child"
        # The worker reports that it is ready before its child has started.
        eventually(path.exists)
        return int(path.read_text())

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
def valkey_server() -> Iterator[Valkey]:
    folder = DataDirectory(Path(tempfile.mkdtemp(prefix="tocsin-", dir="/tmp")))
    folder.create()
    server = Valkey(folder)
    try:
        server.start()
        server.wait_ready()
        yield server
    finally:
        server.stop()
        folder.remove_socket_directory()
        folder.remove()


@pytest.fixture
def valkey(request: pytest.FixtureRequest, valkey_server: Valkey) -> Iterator[ValkeyBroker]:
    """An empty Valkey."""
    broker = ValkeyBroker(valkey_server)
    if not valkey_server.is_running():
        broker.start()
    broker.delete_queues()
    yield broker
    broker.check_nothing_parked(request)


@pytest.fixture(params=BROKER_PARAMS)
def broker(request: pytest.FixtureRequest) -> Broker:
    """An empty broker. Each test that uses this fixture runs once per kind of broker."""
    found: Broker = request.getfixturevalue(request.param)
    return found


@contextlib.contextmanager
def running_worker(broker_url: str, folder: Path, *, prefetch: int = 1) -> Iterator[HintWorker]:
    worker = HintWorker(broker_url, folder, prefetch=prefetch)
    try:
        worker.wait_ready()
        yield worker
    finally:
        worker.close()


@pytest.fixture
def worker(broker: Broker, tmp_path: Path) -> Iterator[HintWorker]:
    with running_worker(broker.url, tmp_path) as worker:
        yield worker


@pytest.fixture
def publisher(broker: Broker) -> Iterator[HintPublisher]:
    """A running hint publisher."""
    publisher = HintPublisher(make_app(broker.settings))
    publisher.start()
    yield publisher
    publisher.stop()


@pytest.fixture
def subscriber(rabbitmq: RabbitBroker) -> Subscriber:
    """A service that subscribes to all events."""
    service = Subscriber(rabbitmq)
    service.subscribe("#")
    return service


@pytest.fixture
def proxy(subscriber: Subscriber, rabbitmq: RabbitBroker) -> Iterator[OutageProxy]:
    """A proxy between the relay and RabbitMQ."""
    with OutageProxy(rabbitmq).running() as proxy:
        yield proxy
