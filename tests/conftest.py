"""What tests build on: real servers, and a fresh migrated database for each test that asks for one."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from models.database.migrate import migrate
from tests.brokers import RabbitBroker
from tests.handlers.acme import Acme
from tests.rabbitmq import RabbitMQ, find_rabbitmq_server
from workers.stack.servers import EmbeddedServers, embedded_servers

# Thousands of tests are collected, and stay: whoever looks through them for garbage takes twice as long to get there.
gc.disable()

_EMPTY = "empty"
_PEOPLED = "peopled"
_numbers = count(1)


def pytest_xdist_auto_num_workers() -> int:
    """Three processes of tests to two cores, since many a test waits for processes of ours; no more than eight."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores * 3 // 2, 8)


_POSTGRES_FIXTURES = {"servers", "demo", "system", "stack"}
_SLOW_FIXTURES = {"demo", "system", "stack", "image"}
_BROKER_FIXTURES = {"broker", "valkey", "rabbitmq", "rabbitmq_node", "system"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the servers that they need."""
    tests = Path(__file__).parent
    for item in items:
        # Doctests of the packages are collected with this file, too.
        folder = item.path.relative_to(tests).parts[0] if item.path.is_relative_to(tests) else ""
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & _BROKER_FIXTURES:
            item.add_marker("broker")
        if fixtures & _POSTGRES_FIXTURES or folder == "journeys":
            item.add_marker("postgres")
        if fixtures & _SLOW_FIXTURES:
            item.add_marker("slow")
        if not any(item.iter_markers("broker")) and not any(item.iter_markers("postgres")) and folder != "project":
            item.add_marker("unit")


def pytest_collection_finish() -> None:
    """From here on there is garbage; what has been collected is none."""
    gc.freeze()
    gc.enable()


@dataclass(frozen=True)
class Database:
    """A migrated database of one test. ``url`` is what DATABASE_URL would be."""

    url: str
    engine: Engine


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServers]:
    """PostgreSQL and Valkey for all tests of this process; whoever breaks one brings it back."""
    with ExitStack() as running:
        yield running.enter_context(embedded_servers(_folder_in_memory(running), durable=False))


@pytest.fixture(scope="session")
def maintenance(servers: EmbeddedServers) -> Engine:
    """Where databases are made and dropped, two of them for the others to copy: migrated, and with people in it."""
    engine = create_engine(_with_driver(servers.database_url), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    _execute(engine, f"CREATE DATABASE {_EMPTY}")
    migrate(create_engine(engine.url.set(database=_EMPTY), poolclass=NullPool))
    _execute(engine, f"CREATE DATABASE {_PEOPLED} TEMPLATE {_EMPTY}")
    Acme(create_engine(engine.url.set(database=_PEOPLED), poolclass=NullPool))
    return engine


class BackgroundTasks:
    """Does, one after the other, what the next test need not wait for."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._begun: list[Future[None]] = []

    def submit(self, work: Callable[..., None], *arguments: object) -> None:
        """Do it soon, after all that was given before."""
        self._begun.append(self._executor.submit(work, *arguments))

    def wait(self) -> None:
        """Wait for all of it; what went wrong is raised here, once."""
        begun, self._begun = self._begun, []
        for work in begun:
            work.result()


@pytest.fixture(scope="session")
def afterwards() -> Iterator[BackgroundTasks]:
    """For what the next test need not wait for; the last one of all fails if that goes wrong."""
    with ThreadPoolExecutor(1) as executor:
        doing = BackgroundTasks(executor)
        yield doing
        doing.wait()


@pytest.fixture
def alone(servers: EmbeddedServers, afterwards: BackgroundTasks) -> EmbeddedServers:
    """The servers, with nobody there from the tests before: for a test that breaks them, or is in need of quiet."""
    afterwards.wait()
    return servers


@pytest.fixture
def database(request: pytest.FixtureRequest, maintenance: Engine, afterwards: BackgroundTasks) -> Iterator[Database]:
    """A fresh migrated database; whoever asks for ``acme`` finds its people there."""
    name, template = f"test_{next(_numbers)}", _PEOPLED if "acme" in request.fixturenames else _EMPTY
    _execute(maintenance, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    url = maintenance.url.set(database=name)
    engine = create_engine(url)
    yield Database(url.set(drivername="postgresql").render_as_string(hide_password=False), engine)
    engine.dispose()
    # Where somebody is still connected, the server sleeps a tenth of a second before it looks again.
    afterwards.submit(_drop, maintenance, name)


@pytest.fixture(scope="session")
def rabbitmq_node() -> Iterator[RabbitMQ]:
    """A RabbitMQ for all tests of this process; whoever breaks it brings it back."""
    program = find_rabbitmq_server()
    if program is None:
        if "CI" in os.environ:
            pytest.fail("rabbitmq-server is not installed here: install it, as .ci/run does")
        pytest.skip("RabbitMQ is not installed here")
    with ExitStack() as removal:
        folder = _folder_in_memory(removal) or Path(removal.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        yield removal.enter_context(RabbitMQ(program, folder).running())


@pytest.fixture
def rabbitmq(rabbitmq_node: RabbitMQ) -> Iterator[RabbitBroker]:
    """A virtual host of one test."""
    with rabbitmq_node.virtual_host() as host:
        yield RabbitBroker(rabbitmq_node, host)


def _folder_in_memory(removal: ExitStack) -> Path | None:
    """A folder whose files cost no disk, if there is room: copying a database is then ten times as fast."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < 1 << 30:
        return None
    folder = Path(tempfile.mkdtemp(prefix="tocsin-", dir=memory))
    removal.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _with_driver(url: str) -> URL:
    return make_url(url).set(drivername="postgresql+psycopg")


def _drop(engine: Engine, database: str) -> None:
    # The next test may have killed the server. A database too many is in nobody's way.
    with contextlib.suppress(OperationalError):
        _execute(engine, f"DROP DATABASE {database} WITH (FORCE)")


def _execute(engine: Engine, statement: str) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
