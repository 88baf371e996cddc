"""A gateway and a worker that run in threads in the test process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import httpx
import psycopg
import uvloop

from gateway.container import Timeouts
from gateway.main import GatewayServer, create_app, server_config
from gateway.settings import GatewaySettings
from models.database.engine import make_engine
from tasks.broker.pubsub import OUTCOMES_CHANNEL, WakeupPublisher
from tests.waiting import eventually
from workers.apply.applier import Applier, BatchResult
from workers.apply.in_flight import InFlightBatch

ACME = "/api/0/organizations/acme"
COMMENTS = f"{ACME}/incidents/1/comments/"
COMMANDS = f"{ACME}/commands/"
A_COMMENT = {"comment": "Look at this."}
RULES = range(1, 9)
"""The ids of the alert rules that the fixture ``rules`` inserts."""

WEBHOOK, DELIVERY = 5_001, UUID("01a224b3-4109-77a6-b7e9-0495fba1aaaa")
"""The ids of the first webhook that the fixture ``webhook_deliveries`` inserts, and of the delivery to it."""

DESTINATION, CHAT_DELIVERY = 6_001, UUID("01a224b3-4109-77a6-b7e9-0495fba1bbbb")
"""The ids of the first chat destination that the fixture ``webhook_deliveries`` inserts, and of the delivery to it."""

SECRET = "a secret for these tests"
"""The gateways' ``TOCSIN_SECRET``."""

GENEROUS_TIMEOUTS = Timeouts(acceptance_seconds=60, read_seconds=60, pool_seconds=60, key_seconds=60)
"""Timeouts that even a slow machine does not reach. Tests of outages use the defaults in :class:`Timeouts`."""


class Gateway:
    """A gateway that listens on a free port of the loopback interface."""

    def __init__(self, settings: GatewaySettings, timeouts: Timeouts = GENEROUS_TIMEOUTS) -> None:
        # asyncio sets TCP_NODELAY only if the protocol is named. Without it, each response waits 40 ms for an ACK.
        self._socket = socket.socket(proto=socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.app = create_app(settings, timeouts)
        config = server_config(self.app, settings, timeout_graceful_shutdown=2)
        self.server = GatewayServer(config, self.app.state.container)
        self._thread = threading.Thread(target=self._serve)

    def start(self) -> None:
        self._thread.start()
        eventually(lambda: self.server.started)

    def request_stop(self) -> None:
        """Request a shutdown, which takes a few tenths of a second, without waiting for it."""
        self.server.should_exit = True

    def stop(self) -> None:
        """Shut down the server if it is running, and wait for its end."""
        self.request_stop()
        self._thread.join(120)
        assert not self._thread.is_alive()
        self._socket.close()

    def _serve(self) -> None:
        # The event loop used in production, which is also the faster one.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self.server.serve(sockets=[self._socket]))

    def client(self, token: str | None = "dev-mem", **headers: str) -> httpx.Client:
        """Return a client that sends this token and these headers. Underscores in header names stand for hyphens."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        # Without TLS there is nothing to verify, and loading certificates would take longer than a request.
        return httpx.Client(base_url=self.url, headers=sent, timeout=30, verify=False)

    def post(self, path: str, json: Any = None, *, by: str | None = "dev-mem", **headers: str) -> httpx.Response:
        with self.client(by, **headers) as client:
            return client.post(path, json=json)

    def put(self, path: str, json: Any = None, *, by: str | None = "dev-mem", **headers: str) -> httpx.Response:
        with self.client(by, **headers) as client:
            return client.put(path, json=json)

    def delete(self, path: str, *, by: str | None = "dev-mem", **headers: str) -> httpx.Response:
        with self.client(by, **headers) as client:
            return client.delete(path)

    def get(self, path: str, *, by: str | None = "dev-mem", **headers: str) -> httpx.Response:
        with self.client(by, **headers) as client:
            return client.get(path)

    def concurrently(self, times: int, send: Callable[[], httpx.Response]) -> list[httpx.Response]:
        """Send a request many times concurrently, each from its own thread."""
        with ThreadPoolExecutor(times) as pool:
            return [each.result() for each in [pool.submit(send) for _ in range(times)]]


@contextlib.contextmanager
def running_gateway(settings: GatewaySettings, timeouts: Timeouts = GENEROUS_TIMEOUTS) -> Iterator[Gateway]:
    """Run a gateway for the duration of the block."""
    gateway = Gateway(settings, timeouts)
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.stop()


class Worker:
    """A worker's applier in this process, without a broker.

    It applies commands when :meth:`apply` is called, or continuously once started.

    Like every worker, it publishes finished commands to the pub/sub channel at ``wake_url``.
    """

    def __init__(self, database_url: str, wake_url: str | None = None) -> None:
        self._database_url = database_url
        self._engine = make_engine(database_url, application="test worker")
        self._autocommit_engine = make_engine(database_url, application="test autocommit")
        self._applier = Applier(
            engine=self._engine,
            in_flight=InFlightBatch(
                self._autocommit_engine.execution_options(isolation_level="AUTOCOMMIT"), worker="test"
            ),
            on_commit=self._publish_finished,
            request_continuation=lambda _: None,
        )
        self._publisher = WakeupPublisher(wake_url)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def apply(self) -> None:
        """Apply all commands that are due."""
        self._applier.drain(())

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(120)
        self._engine.dispose()
        self._autocommit_engine.dispose()
        self._publisher.close()

    def _publish_finished(self, result: BatchResult) -> None:
        if result.finished:
            self._publisher.publish(OUTCOMES_CHANNEL, " ".join(map(str, result.finished)))

    def _work(self) -> None:
        # Polling for full batches would use most of a core.
        with psycopg.connect(self._database_url, autocommit=True) as connection:
            while not self._stopped.wait(0.01):
                if connection.execute("SELECT FROM commands WHERE state = 'accepted' LIMIT 1").rowcount:
                    self.apply()
