"""A gateway that listens, people who call it, and a worker that can be sent to work."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import uvicorn
import uvloop

from gateway.container import Timeouts
from gateway.main import GatewayServer, create_app
from gateway.settings import GatewaySettings
from models.database.engine import make_engine
from tasks.broker.pubsub import OUTCOMES_CHANNEL, WakeupPublisher
from tests.waiting import eventually
from workers.apply.applier import Applier, BatchResult

ACME = "/api/0/organizations/acme"
COMMENTS = f"{ACME}/incidents/1/comments/"
COMMANDS = f"{ACME}/commands/"
A_COMMENT = {"comment": "Look at this."}
RULES = range(1, 9)
"""Ids of alert rules, where a test asks for them."""

GENEROUS_TIMEOUTS = Timeouts(acceptance_seconds=60, read_seconds=60, pool_seconds=60)
"""That a machine is slow for a second makes nothing unavailable; tests of what is take :class:`Timeouts` as it is."""


class Gateway:
    """A running gateway."""

    def __init__(self, settings: GatewaySettings, patience: Timeouts = GENEROUS_TIMEOUTS) -> None:
        # Named as TCP, which asyncio looks at before it turns off that answers wait for acknowledgements, 40 ms each.
        self._socket = socket.socket(proto=socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.app = create_app(settings, patience)
        config = uvicorn.Config(self.app, log_config=None, access_log=False, timeout_graceful_shutdown=2)
        self._server = GatewayServer(config, self.app.state.services)
        self._thread = threading.Thread(target=self._serve)

    def start(self) -> None:
        self._thread.start()
        eventually(lambda: self._server.started)

    def request_stop(self) -> None:
        """Take no more calls; it ends within a few tenths of a second, most of which the server sleeps."""
        self._server.should_exit = True

    def stop(self) -> None:
        """Stop, if it still runs."""
        self.request_stop()
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._socket.close()

    def _serve(self) -> None:
        # As in production; it costs the tests less, too.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._server.serve(sockets=[self._socket]))

    def client(self, token: str | None = "dev-mem", **headers: str) -> httpx.Client:
        """A client of this caller; header names may be written with underscores."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        # There is no TLS here, and reading certificates for each client would take longer than the gateway does.
        return httpx.Client(base_url=self.url, headers=sent, timeout=30, verify=False)

    def post(self, path: str, json: Any = None, *, by: str | None = "dev-mem", **headers: str) -> httpx.Response:
        with self.client(by, **headers) as client:
            return client.post(path, json=json)

    def get(self, path: str, *, by: str | None = "dev-mem", **headers: str) -> httpx.Response:
        with self.client(by, **headers) as client:
            return client.get(path)

    def concurrently(self, times: int, ask: Callable[[], httpx.Response]) -> list[httpx.Response]:
        """The same request many times, side by side."""
        with ThreadPoolExecutor(times) as pool:
            return [each.result() for each in [pool.submit(ask) for _ in range(times)]]


@contextlib.contextmanager
def running_gateway(settings: GatewaySettings, patience: Timeouts = GENEROUS_TIMEOUTS) -> Iterator[Gateway]:
    """A gateway for as long as the block lasts."""
    gateway = Gateway(settings, patience)
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.stop()


class Worker:
    """A real worker's loop, in this process and without a broker: it applies when it is told to, or all the time.

    Who waits at ``wake_url`` hears what has ended, as from any worker.
    """

    def __init__(self, database_url: str, wake_url: str | None = None) -> None:
        self._database_url = database_url
        self._engine = make_engine(database_url, application="test worker")
        self._notes = make_engine(database_url, application="test notes")
        self._applier = Applier(
            engine=self._engine,
            autocommit_engine=self._notes.execution_options(isolation_level="AUTOCOMMIT"),
            worker="test",
            on_commit=self._tell,
            request_continuation=lambda: None,
        )
        self._waker = WakeupPublisher(wake_url)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def apply(self) -> None:
        """Apply everything that is due."""
        self._applier.drain(())

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(20)
        self._engine.dispose()
        self._notes.dispose()
        self._waker.close()

    def _tell(self, done: BatchResult) -> None:
        if done.finished:
            self._waker.publish(OUTCOMES_CHANNEL, " ".join(map(str, done.finished)))

    def _work(self) -> None:
        # To look so often with all that a batch does would cost most of a core.
        with psycopg.connect(self._database_url, autocommit=True) as looking:
            while not self._stopped.wait(0.01):
                if looking.execute("SELECT FROM commands WHERE state = 'accepted' LIMIT 1").rowcount:
                    self.apply()
