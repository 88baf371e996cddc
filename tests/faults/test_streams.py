"""Event streams when PostgreSQL loses transactions: it crashes, or a copy that lags behind takes its place.

Both assign transaction ids again that the gateway has seen before. The tests assert that the ids are really assigned
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any
from uuid import UUID

import httpx
import psutil
import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.pool import NullPool
from tocsin_client import Tocsin

from gateway.container import Timeouts
from gateway.settings import GatewaySettings
from models.database.migrate import migrate
from tests.handlers.acme import Acme
from tests.http.gateway_server import A_COMMENT, ACME, COMMENTS, Gateway, Worker, running_gateway
from tests.http.streams import EVENTS, broadcaster_of, incident_of, record_event
from tests.waiting import eventually
from workers.stack.postgres import DATABASE
from workers.stack.servers import EmbeddedServers, embedded_servers

THE_END = "the end"
NUMBERS = count(1)


class Reader:
    """A thread that follows acme's events until one says :data:`THE_END`."""

    def __init__(self, gateway: Gateway, follow: Callable[[Gateway], Iterator[tuple[str, str]]]) -> None:
        self.ids: list[str] = []
        self._events = follow(gateway)
        self._thread = threading.Thread(target=self._read, daemon=True)
        before = broadcaster_of(gateway).stream_count
        self._thread.start()
        eventually(lambda: broadcaster_of(gateway).stream_count > before)

    def _read(self) -> None:
        for id_, comment in self._events:
            if comment == THE_END:
                return
            self.ids.append(id_)

    def wait_for(self, id_: UUID) -> None:
        eventually(lambda: str(id_) in self.ids)

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


def as_browser(gateway: Gateway) -> Iterator[tuple[str, str]]:
    """Follow the events as an EventSource does: it reconnects, but gives up if the response is not 200."""
    last = ""
    with gateway.client() as client:
        while True:
            # The client drops a header without a value.
            headers = {"Last-Event-ID": last} if last else {}
            with contextlib.suppress(httpx.TransportError), client.stream("GET", EVENTS, headers=headers) as response:
                if response.status_code != 200:
                    return
                for line in response.iter_lines():
                    field, _, value = line.partition(": ")
                    last = value if field == "id" else last
                    if field == "data":
                        yield last, comment_of(json.loads(value)["data"])


def as_client(gateway: Gateway) -> Iterator[tuple[str, str]]:
    """Follow the events with the Python client."""
    with Tocsin(gateway.url, "dev-mem", organization="acme") as client:
        for event in client.follow():
            yield event.id, comment_of(event.data)


def comment_of(data: Any) -> str:
    return str(data["activity"]["comment"])


class Stack:
    """A gateway on servers of its own, whose polls for new events a test can suspend."""

    def __init__(self, servers: EmbeddedServers, gateway: Gateway, engine: Engine) -> None:
        self.servers, self.gateway, self.engine = servers, gateway, engine
        self.incident = incident_of(engine, Acme(engine).organizations["acme"])
        self._seen: list[str] = []
        self._suspended, self._waiting = threading.Event(), threading.Event()
        broadcaster: Any = broadcaster_of(gateway)
        broadcaster.poll_seconds = 0.05
        poll, read_since = broadcaster._poll, broadcaster._feed.read_since

        async def suspendable_poll() -> None:
            while self._suspended.is_set():
                self._waiting.set()
                await asyncio.sleep(0.01)
            await poll()

        async def recorded_read(*given: Any, **named: Any) -> Any:
            batch = await read_since(*given, **named)
            self._seen.append(batch.until)
            return batch

        broadcaster._poll, broadcaster._feed.read_since = suspendable_poll, recorded_read

    def suspend_polls(self) -> int:
        """Let the gateway poll for events once more, and then suspend its polls.

        Return the lowest transaction id that it has not seen.
        """
        before = len(self._seen)
        # The first of the two may have begun before.
        eventually(lambda: len(self._seen) >= before + 2)
        self._suspended.set()
        assert self._waiting.wait(20)
        return int(self._seen[-1].split(":")[1])

    def resume_polls(self) -> None:
        self._suspended.clear()

    def record_event(self, comment: str = "Look.") -> UUID:
        return record_event(self.engine, self.incident, comment)

    def use_transaction_ids(self, count: int) -> None:
        """Use up this many transaction ids."""
        with psycopg.connect(self.servers.database_url) as connection:
            for _ in range(count):
                connection.execute("SELECT pg_current_xact_id()")
                connection.rollback()

    def events_since(self, first: UUID) -> dict[str, int]:
        """Return the transaction id of every event after the first one, by event id, except the last one."""
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql(
                "SELECT id::text, written_by::text::bigint AS written_by FROM events"
                " WHERE id > %(first)s AND body::text NOT LIKE %(end)s",
                {"first": first, "end": f"%{THE_END}%"},
            )
            return {row.id: row.written_by for row in rows}


@pytest.fixture(scope="module")
def own_servers() -> Iterator[EmbeddedServers]:
    """Servers that only these tests use, with the directory of :class:`Acme` in their first database."""
    with embedded_servers(durable=False) as servers:
        engine = create_engine(sqlalchemy_url(servers), poolclass=NullPool)
        migrate(engine)
        Acme(engine)
        yield servers


@pytest.fixture
def stack(own_servers: EmbeddedServers) -> Iterator[Stack]:
    url = sqlalchemy_url(own_servers).set(database=f"test_{next(NUMBERS)}")
    with psycopg.connect(libpq_url(url.set(database="postgres")), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {url.database} TEMPLATE {DATABASE}".encode())
    environment = own_servers.environment | {"DATABASE_URL": libpq_url(url)}
    settings = GatewaySettings(_env_file=None, **environment)  # type: ignore[call-arg, arg-type]
    with running_gateway(settings, Timeouts()) as gateway:
        yield Stack(own_servers, gateway, create_engine(url, poolclass=NullPool))


def sqlalchemy_url(servers: EmbeddedServers) -> URL:
    return make_url(servers.database_url).set(drivername="postgresql+psycopg")


def libpq_url(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.mark.parametrize(
    ("follow", "noticed_by", "has_event"),
    [
        (as_browser, "the stream", True),
        (as_browser, "another request", False),
        (as_client, "the stream", False),
        (as_client, "another request", True),
    ],
)
def test_no_event_is_missed_after_a_crash_of_the_database(
    stack: Stack, follow: Callable[[Gateway], Iterator[tuple[str, str]]], noticed_by: str, has_event: bool
) -> None:
    if has_event:
        reader = Reader(stack.gateway, follow)
        first = stack.record_event()
        reader.wait_for(first)
    else:
        first = stack.record_event()
        reader = Reader(stack.gateway, follow)
    for _ in range(20):
        assert stack.gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async").status_code == 202
    with losing_unflushed_log(stack.servers) as crash:
        stack.use_transaction_ids(200)
        seen = stack.suspend_polls()
        crash()

    apply_commands(stack)
    if noticed_by == "another request":
        # Its error replaces every connection in the pool.
        eventually(lambda: stack.gateway.get(f"{ACME}/").status_code == 200)
    stack.resume_polls()
    stack.record_event(THE_END)
    reader.join()

    written = stack.events_since(first)
    assert len(written) == 20
    assert min(written.values()) < seen
    assert set(written) <= set(reader.ids)


@pytest.mark.parametrize(("follow", "has_event"), [(as_browser, True), (as_client, False)])
def test_no_event_is_missed_after_a_failover_to_a_copy_that_lags_behind(
    stack: Stack, follow: Callable[[Gateway], Iterator[tuple[str, str]]], has_event: bool
) -> None:
    first = stack.record_event()
    with lagging_copy(stack.servers) as fail_over:
        eventually(lambda: stack.gateway.get(f"{ACME}/").status_code == 200)
        if has_event:
            reader = Reader(stack.gateway, follow)
            lost = [stack.record_event() for _ in range(20)]
            reader.wait_for(lost[-1])
        else:
            lost = [stack.record_event() for _ in range(20)]
            reader = Reader(stack.gateway, follow)
        seen = stack.suspend_polls()
        fail_over()

    for _ in range(10):
        stack.record_event()
    stack.resume_polls()
    stack.record_event(THE_END)
    reader.join()

    written = stack.events_since(first)
    assert len(written) == 10
    assert max(written.values()) < seen
    assert set(written) <= set(reader.ids)


@contextlib.contextmanager
def losing_unflushed_log(servers: EmbeddedServers) -> Iterator[Callable[[], None]]:
    """Keep PostgreSQL from writing its log in the background; yield a function that kills a backend with -9.

    PostgreSQL then recovers from what is on the disk.
    """
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        row = connection.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'").fetchone()
        assert row is not None
        log_writer = psutil.Process(row[0])
        log_writer.suspend()

        def crash() -> None:
            os.kill(connection.info.backend_pid, signal.SIGKILL)
            # A suspended process could not obey the signal to quit.
            log_writer.kill()
            eventually(lambda: not log_writer.is_running())
            eventually(servers.postgres.is_ready)

        yield crash
    with contextlib.suppress(psutil.NoSuchProcess):
        log_writer.resume()


@contextlib.contextmanager
def lagging_copy(servers: EmbeddedServers) -> Iterator[Callable[[], None]]:
    """Copy the server's data; yield a function that kills the server and starts one on the copy in its place."""
    data = servers.postgres.data
    copy = data.with_name("lagging")
    servers.stop_postgres()
    # As root, PostgreSQL runs under another account, which must own the copy.
    subprocess.run(["cp", "-a", data, copy], check=True)
    servers.start_postgres()

    def fail_over() -> None:
        servers.kill_postgres()
        servers.postgres.end_orphans()
        shutil.rmtree(data)
        copy.rename(data)
        servers.start_postgres()

    yield fail_over


def apply_commands(stack: Stack) -> None:
    worker = Worker(libpq_url(stack.engine.url))
    try:
        worker.apply()
    finally:
        worker.stop()
