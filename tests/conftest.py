"""Shared fixtures: embedded servers for the session, and a fresh migrated database per test."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
import structlog
from playwright.sync_api import Browser
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from models.database.migrate import migrate
from tests.brokers import RabbitBroker, ValkeyBroker
from tests.chromium import find_chromium, running_chromium
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.journeys.stack import Stack, running_stack
from tests.journeys.subprocesses import public_temp_dir
from tests.rabbitmq import RabbitMQ, find_rabbitmq_server
from workers.stack.servers import EmbeddedServers, embedded_servers

# The default renders a traceback with every local variable, which takes seconds on a busy machine.
structlog.configure(
    [
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ],
    # Not what a test captures: a server that an earlier test has stopped may still log a line.
    logger_factory=structlog.PrintLoggerFactory(sys.stderr),
)

# Collecting thousands of tests allocates objects that all stay alive. Garbage collection would only double the time.
gc.disable()

_EMPTY_TEMPLATE = "empty"
_ACME_TEMPLATE = "acme"
_numbers = count(1)


def pytest_xdist_auto_num_workers() -> int:
    """Run three workers per two cores, but at most eight: many tests wait for other processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores * 3 // 2, 8)


_POSTGRES_FIXTURES = {"servers", "demo", "system", "stack"}
_SLOW_FIXTURES = {"demo", "system", "stack", "image"}
_BROKER_FIXTURES = {"broker", "valkey", "rabbitmq", "rabbitmq_node", "system"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the servers they need, and run the fault tests one after another in one process."""
    tests = Path(__file__).parent
    for item in items:
        # The packages' doctests also pass through this hook.
        folder = item.path.relative_to(tests).parts[0] if item.path.is_relative_to(tests) else ""
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & _BROKER_FIXTURES:
            item.add_marker("broker")
        if fixtures & _POSTGRES_FIXTURES or folder == "journeys":
            item.add_marker("postgres")
        if "chromium" in fixtures:
            item.add_marker("browser")
        if fixtures & _SLOW_FIXTURES:
            item.add_marker("slow")
        if folder == "faults" and not any(item.iter_markers("xdist_group")):
            item.add_marker(pytest.mark.xdist_group("faults"))
        if not any(item.iter_markers("broker")) and not any(item.iter_markers("postgres")):
            item.add_marker("unit")


def pytest_collection_finish() -> None:
    """Turn garbage collection back on, and exempt the collected tests from it."""
    gc.freeze()
    gc.enable()


@dataclass(frozen=True)
class Database:
    """The migrated database for one test. ``url`` has the format of DATABASE_URL."""

    url: str
    engine: Engine


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[EmbeddedServers]:
    """PostgreSQL and Valkey for the whole session. A test that stops one must restart it."""
    with ExitStack() as running:
        servers = running.enter_context(embedded_servers(_memory_directory(running), durable=False))
        yield servers
        ValkeyBroker(servers.valkey).check_nothing_parked(request)


@pytest.fixture(scope="session")
def maintenance(servers: EmbeddedServers) -> Engine:
    """An autocommit engine that creates and drops databases.

    Two template databases exist: one that is migrated but empty, and one with the directory of :class:`Acme`.
    """
    engine = create_engine(_with_driver(servers.database_url), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    _execute(engine, f"CREATE DATABASE {_EMPTY_TEMPLATE}")
    migrate(create_engine(engine.url.set(database=_EMPTY_TEMPLATE), poolclass=NullPool))
    _execute(engine, f"CREATE DATABASE {_ACME_TEMPLATE} TEMPLATE {_EMPTY_TEMPLATE}")
    Acme(create_engine(engine.url.set(database=_ACME_TEMPLATE), poolclass=NullPool))
    return engine


class BackgroundTasks:
    """Tasks that run one after another in a thread, so that the next test does not wait for them."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._futures: list[Future[None]] = []

    def submit(self, work: Callable[..., None], *arguments: object) -> None:
        """Queue `work` to run after all tasks submitted before it."""
        self._futures.append(self._executor.submit(work, *arguments))

    def wait(self) -> None:
        """Wait for all submitted tasks; raise the first error among them, once."""
        futures, self._futures = self._futures, []
        for future in futures:
            future.result()


@pytest.fixture(scope="session")
def background() -> Iterator[BackgroundTasks]:
    """Tasks that run in the background of the next tests. An error in a task fails the session's teardown."""
    with ThreadPoolExecutor(1) as executor:
        tasks = BackgroundTasks(executor)
        yield tasks
        tasks.wait()


@pytest.fixture
def quiet_servers(servers: EmbeddedServers, background: BackgroundTasks) -> EmbeddedServers:
    """The servers once all background tasks have ended, for tests that stop the servers or measure their work."""
    background.wait()
    return servers


@pytest.fixture
def database(request: pytest.FixtureRequest, maintenance: Engine, background: BackgroundTasks) -> Iterator[Database]:
    """A fresh, migrated database, with the directory of :class:`Acme` if the test uses the fixture ``acme``."""
    name, template = f"test_{next(_numbers)}", _ACME_TEMPLATE if "acme" in request.fixturenames else _EMPTY_TEMPLATE
    _execute(maintenance, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    url = maintenance.url.set(database=name)
    engine = create_engine(url)
    yield Database(url.set(drivername="postgresql").render_as_string(hide_password=False), engine)
    engine.dispose()
    # If a session is still connected, DROP DATABASE waits 0.1 s before it checks again.
    background.submit(_drop, maintenance, name)


@pytest.fixture
def harness(database: Database) -> Harness:
    """A harness on an empty database, or on one with :class:`Acme` if the test uses the fixture ``acme``."""
    return Harness(database.url, database.engine)


@pytest.fixture
def acme(harness: Harness) -> Acme:
    """The organization acme, in the harness's database."""
    return Acme(harness.engine)


@pytest.fixture(scope="session")
def demo() -> Iterator[Stack]:
    """A demo stack on embedded servers, for tests in the group ``stack`` that leave it intact."""
    with public_temp_dir() as folder, running_stack(folder / "data") as running:
        yield running


@pytest.fixture(scope="session")
def rabbitmq_node() -> Iterator[RabbitMQ]:
    """A RabbitMQ node for the whole session. A test that stops it must restart it."""
    program = find_rabbitmq_server()
    if program is None:
        if "CI" in os.environ:
            pytest.fail("rabbitmq-server is not installed here: install it, as .ci/run does")
        pytest.skip("RabbitMQ is not installed here")
    with ExitStack() as cleanup:
        directory = _memory_directory(cleanup) or Path(cleanup.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        yield cleanup.enter_context(RabbitMQ(program, directory).running())


# While a browser runs, Playwright keeps an event loop in the test's thread, in which other tests cannot start theirs.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser for the tests of one module."""
    program = find_chromium()
    if program is None:
        if "CI" in os.environ:
            pytest.fail("chromium is not installed here: install it, as .ci/run does")
        pytest.skip("chromium is not installed here")
    with running_chromium(program) as browser:
        yield browser


@pytest.fixture
def rabbitmq(request: pytest.FixtureRequest, rabbitmq_node: RabbitMQ) -> Iterator[RabbitBroker]:
    """A RabbitMQ virtual host for one test."""
    with rabbitmq_node.virtual_host() as host:
        broker = RabbitBroker(rabbitmq_node, host)
        yield broker
        broker.check_nothing_parked(request)


def _memory_directory(cleanup: ExitStack) -> Path | None:
    """Create a directory in memory; return ``None`` if less than 1 GiB is free.

    Copying a database there is ten times as fast."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < 1 << 30:
        return None
    directory = Path(tempfile.mkdtemp(prefix="tocsin-", dir=memory))
    cleanup.callback(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _with_driver(url: str) -> URL:
    return make_url(url).set(drivername="postgresql+psycopg")


def _drop(engine: Engine, database: str) -> None:
    # The next test may have stopped the server. A leftover database does no harm.
    with contextlib.suppress(OperationalError):
        _execute(engine, f"DROP DATABASE {database} WITH (FORCE)")


def _execute(engine: Engine, statement: str) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
