"""Every client uses TLS if the URL requires it, and verifies the server's certificate."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Queue
from urllib.parse import urlencode, urlsplit

import psycopg
import pytest
import redis
import trustme
from kombu.exceptions import OperationalError as BrokerAway
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from models.database.async_engine import make_async_engine
from models.database.engine import make_engine
from models.settings import sqlalchemy_url
from tasks.app import make_app
from tasks.broker.pubsub import WakeupListener, WakeupPublisher, subscribe
from tasks.broker.topology import NOTIFIER_QUEUE, declare, topology_errors
from tasks.settings import BrokerSettings
from tests.brokers import RabbitBroker, broker_settings
from tests.conftest import Database
from tests.tls import Streams, tls_proxy
from tests.waiting import eventually
from workers.relay.event_bus import EventBus, PublishResult
from workers.relay.sent_batch import BusMessage
from workers.stack.servers import EmbeddedServers

CHANNEL = "tocsin:test"


@dataclass(frozen=True)
class Trust:
    """TLS contexts for servers, with the certificate files of the authority that signed them and of another one."""

    server: ssl.SSLContext
    server_by_ip: ssl.SSLContext
    authority: str
    other_authority: str


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("certificates")
    ours, other = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(folder / "ours.pem")
    other.cert_pem.write_to_path(folder / "other.pem")
    by_name, by_ip = (ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) for _ in range(2))
    ours.issue_cert("localhost").configure_cert(by_name)
    ours.issue_cert("127.0.0.1").configure_cert(by_ip)
    return Trust(by_name, by_ip, str(folder / "ours.pem"), str(folder / "other.pem"))


@pytest.fixture
def postgres(database: Database, servers: EmbeddedServers, trust: Trust) -> Iterator[str]:
    """The DATABASE_URL of a PostgreSQL that requires TLS, without query parameters."""
    path = f"{servers.postgres.sockets}/.s.PGSQL.5432"
    with tls_proxy(lambda: asyncio.open_unix_connection(path), trust.server, postgres=True) as port:
        url = make_url(database.url)
        yield f"postgresql://{url.username}@localhost:{port}/{url.database}"


@pytest.fixture
def valkey(servers: EmbeddedServers, trust: Trust) -> Iterator[str]:
    """The URL of a Valkey that requires TLS, without query parameters."""
    path = servers.redis_url.removeprefix("unix://")
    with tls_proxy(lambda: asyncio.open_unix_connection(path), trust.server) as port:
        yield f"rediss://localhost:{port}/0"


def with_parameters(url: str, **parameters: str) -> str:
    return f"{url}?{urlencode(parameters)}"


def by_ip_address(url: str) -> str:
    """Return the URL with the server's IP address, which the server's certificate does not name."""
    return url.replace("localhost", "127.0.0.1")


def query_database(url: str) -> None:
    engine = make_engine(sqlalchemy_url(url), application="test")
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            assert driver.pgconn.ssl_in_use
    finally:
        engine.dispose()


def query_database_async(url: str) -> None:
    async def query() -> None:
        engine = make_async_engine(sqlalchemy_url(url), application="test", pool_size=1, pool_timeout=5)
        try:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        finally:
            await engine.dispose()

    asyncio.run(query())


@pytest.mark.parametrize("client", [query_database, query_database_async])
def test_the_database_is_reached_over_tls_and_only_with_a_valid_certificate(
    client: Callable[[str], None], postgres: str, trust: Trust
) -> None:
    client(with_parameters(postgres, sslmode="verify-full", sslrootcert=trust.authority))

    for url in (
        with_parameters(postgres, sslmode="verify-full", sslrootcert=trust.other_authority),
        with_parameters(by_ip_address(postgres), sslmode="verify-full", sslrootcert=trust.authority),
    ):
        with pytest.raises(OperationalError, match="certificate"):
            client(url)


def send_wake_up(url: str) -> None:
    """Publish a wake-up and receive it with a synchronous listener, both at this URL."""
    listener, publisher = WakeupListener(url, [CHANNEL]), WakeupPublisher(url)
    listener.start()
    try:
        if not listener.wait_until_subscribed(2):
            raise redis.ConnectionError("no subscriber")
        listener.wait(5)
        publisher.publish(CHANNEL)
        assert listener.wait(5)
    finally:
        publisher.close()
        listener.stop()


def send_wake_up_async(url: str) -> None:
    """Publish a wake-up and receive it with an asynchronous subscriber, both at this URL."""

    async def receive() -> str:
        received: asyncio.Queue[str] = asyncio.Queue()
        listening = asyncio.Event()
        task = asyncio.create_task(
            subscribe(url, [CHANNEL], lambda _, data: received.put_nowait(data), on_listening=listening.set)
        )
        publisher = WakeupPublisher(url)
        try:
            await asyncio.wait_for(listening.wait(), 2)
            await asyncio.to_thread(publisher.publish, CHANNEL, "an id")
            return await asyncio.wait_for(received.get(), 5)
        except TimeoutError:
            raise redis.ConnectionError("no subscriber") from None
        finally:
            publisher.close()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    assert asyncio.run(receive()) == "an id"


def declare_queues(url: str) -> None:
    """Declare the exchanges and queues at this URL, as every process does at start-up."""
    app = make_app(BrokerSettings.model_validate({"BROKER_URL": url}))
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
        declare(connection)


@pytest.mark.parametrize("client", [send_wake_up, send_wake_up_async, declare_queues])
def test_valkey_is_reached_over_tls_and_only_with_a_valid_certificate(
    client: Callable[[str], None], valkey: str, trust: Trust
) -> None:
    client(with_parameters(valkey, ssl_ca_certs=trust.authority))

    for url in (
        with_parameters(valkey, ssl_ca_certs=trust.other_authority),
        with_parameters(by_ip_address(valkey), ssl_ca_certs=trust.authority),
        valkey,
    ):
        with pytest.raises((redis.ConnectionError, BrokerAway, ssl.SSLError)):
            client(url)


@contextlib.contextmanager
def silent_broker(context: ssl.SSLContext) -> Iterator[tuple[str, Queue[socket.socket]]]:
    """Yield the URL of a TLS broker that sends nothing, and the sockets of its clients."""
    clients: Queue[socket.socket] = Queue()

    async def connect() -> Streams:
        theirs, ours = socket.socketpair()
        clients.put(ours)
        return await asyncio.open_connection(sock=theirs)

    with tls_proxy(connect, context) as port:
        # kombu replaces localhost with 127.0.0.1, whatever the certificate names.
        yield f"amqps://guest:guest@127.0.0.1:{port}//", clients


def first_bytes(clients: Queue[socket.socket]) -> bytes:
    """Return the first bytes from any client; clients that reject the certificate close the connection."""
    while True:
        with clients.get(timeout=20) as client:
            client.settimeout(20)
            if data := client.recv(8):
                return data


def test_rabbitmq_is_reached_over_tls_and_only_with_a_valid_certificate(trust: Trust) -> None:
    with silent_broker(trust.server) as (url, _), pytest.raises(BrokerAway, match="not valid for"):
        declare_queues(with_parameters(url, ssl_ca_certs=trust.authority))

    with silent_broker(trust.server_by_ip) as (url, clients):
        for untrusted in (url, with_parameters(url, ssl_ca_certs=trust.other_authority)):
            with pytest.raises(BrokerAway, match="verify failed"):
                declare_queues(untrusted)
        with ThreadPoolExecutor(1) as background:
            trusted = background.submit(
                declare_queues, with_parameters(url, ssl_ca_certs=trust.authority, heartbeat="10")
            )
            greeting = first_bytes(clients)

    assert greeting == b"AMQP\x00\x00\x09\x01"
    assert isinstance(trusted.exception(), BrokerAway)


@pytest.mark.xdist_group("faults")
def test_queues_are_declared_on_rabbitmq_over_tls(rabbitmq: RabbitBroker, trust: Trust) -> None:
    address = urlsplit(rabbitmq.url)
    with tls_proxy(lambda: asyncio.open_connection(address.hostname, address.port), trust.server_by_ip) as port:
        declare_queues(
            with_parameters(f"amqps://guest:guest@127.0.0.1:{port}/{rabbitmq.host}", ssl_ca_certs=trust.authority)
        )

    with rabbitmq.connection() as connection:
        assert topology_errors(connection) == []


@pytest.mark.xdist_group("faults")
def test_events_are_published_on_rabbitmq_over_tls_also_after_an_alarm(rabbitmq: RabbitBroker, trust: Trust) -> None:
    address = urlsplit(rabbitmq.url)
    with tls_proxy(lambda: asyncio.open_connection(address.hostname, address.port), trust.server_by_ip) as port:
        url = with_parameters(f"amqps://guest:guest@127.0.0.1:{port}/{rabbitmq.host}", ssl_ca_certs=trust.authority)
        bus = EventBus(broker_settings(url))
        messages = [BusMessage("incident.opened", str(number)) for number in range(500)]

        with rabbitmq.node.memory_alarm():
            assert len(bus.publish(messages).unconfirmed) == len(messages)
        eventually(lambda: is_free(bus))
        bus.check()

        assert bus.publish(messages) == PublishResult()
    assert rabbitmq.depth(NOTIFIER_QUEUE) == len(messages)


def is_free(bus: EventBus) -> bool:
    bus.check()
    return not bus.is_blocked
