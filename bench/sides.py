"""The two sides of the comparison, each with its own database, its own processes and the same thing to do."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import psutil
from sqlalchemy import create_engine, insert, text
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from bench import plain
from bench.load import HOST, Order
from models.database.migrate import migrate
from models.directory.importer import import_directory
from models.directory.tables import organizations, projects
from models.enums import Feature, IncidentStatus, IncidentType, StatusMethod
from models.incidents.incident import incident_projects, incidents
from tasks.startup import free_port
from workers.stack.managed_process import ManagedProcess
from workers.stack.own_processes import GatewayProcess, TocsinProcess, tocsin
from workers.stack.servers import EmbeddedServers

ORGANIZATION = "acme"
PEOPLE = tuple(range(1, 51))
TOKENS = tuple(f"bench-{number}" for number in PEOPLE[:20])


class Doorway(ManagedProcess):
    """A web server that is ready when it answers GET /livez."""

    def __init__(self, name: str, command: list[str], port: int, *, log: Path, environment: Mapping[str, str]) -> None:
        """Describe it; nothing is started yet."""
        super().__init__(name, command, log=log, environment=environment)
        self._port = port

    def is_ready(self) -> bool:
        """Whether it answers."""
        connection = http.client.HTTPConnection(HOST, self._port, timeout=1)
        try:
            connection.request("GET", "/livez")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@dataclasses.dataclass(frozen=True)
class Done:
    """How far the commands of a round are: finished, in inboxes, and by the database's clock how fast."""

    finished: int
    applied: int
    inbox: int
    finish_seconds: float
    inbox_seconds: float


class Side(ABC):
    """One way of doing the work: a doorway that accepts, workers that apply, and tables that show it."""

    name: ClassVar[str]
    inbox_query: ClassVar[str]
    latency_prefer: ClassVar[str | None] = None
    accept_prefer: ClassVar[str | None] = None
    _progress: ClassVar[str]
    _settled: ClassVar[str] = "SELECT true"

    def __init__(self, servers: EmbeddedServers, *, database: str, subjects: int, workers: int) -> None:
        """Make its database, tables, people and incidents."""
        self.port = free_port(HOST, 0)
        self.logs = servers.data_dir.logs
        self.workers = workers
        self.subjects = subjects
        maintenance = create_engine(
            servers.database_url.replace("postgresql:", "postgresql+psycopg:", 1), isolation_level="AUTOCOMMIT"
        )
        with maintenance.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {database}")
        url = maintenance.url.set(database=database)
        maintenance.dispose()
        self.engine: Engine = create_engine(url, poolclass=NullPool)
        self.sqlalchemy_url = url.render_as_string(hide_password=False)
        self.database_url = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self.prepare()
        self.parts: list[ManagedProcess] = []

    @abstractmethod
    def prepare(self) -> None:
        """Make tables, people and incidents."""

    @abstractmethod
    def doorway(self) -> list[ManagedProcess]:
        """Everything but the workers."""

    @abstractmethod
    def workforce(self) -> list[ManagedProcess]:
        """The workers."""

    def start(self, parts: list[ManagedProcess]) -> None:
        """Start these and wait until they are ready."""
        self.parts += parts
        for part in parts:
            part.start()
        for part in parts:
            part.wait_ready()

    def stop(self) -> None:
        """Stop everything of this side."""
        for part in reversed(self.parts):
            part.request_stop()
        for part in reversed(self.parts):
            part.stop()
        self.parts.clear()

    def cpu_seconds(self) -> dict[str, float]:
        """CPU used so far by each part that runs, its children included."""
        used: dict[str, float] = {}
        for part in self.parts:
            if part.pid is not None:
                kind = part.name.partition("-")[0]
                used[kind] = used.get(kind, 0.0) + cpu_of(part.pid)
        return used

    def order(self, **wishes: Any) -> Order:
        """An order for the load generator against this side."""
        return Order(
            port=self.port,
            organization=ORGANIZATION,
            incidents=self.subjects,
            tokens=TOKENS,
            people=PEOPLE,
            database=self.database_url,
            inbox_query=self.inbox_query,
            **wishes,
        )

    def mark(self) -> Any:
        """The database's clock: what finishes after it belongs to the round that begins."""
        with self.engine.connect() as connection:
            return connection.execute(text("SELECT clock_timestamp()")).scalar_one()

    def is_settled(self) -> bool:
        """Whether nothing is left to do."""
        with self.engine.connect() as connection:
            return bool(connection.execute(text(self._settled)).scalar_one())

    def done_since(self, mark: Any) -> Done:
        """What was finished since."""
        with self.engine.connect() as connection:
            row = connection.execute(text(self._progress), {"mark": mark}).one()
        return Done(row.finished, row.applied, row.inbox, float(row.finish_seconds or 0), float(row.inbox_seconds or 0))


class Tocsin(Side):
    """tocsin: its own commands as real processes, as `tocsin up` starts them."""

    name = "tocsin"
    accept_prefer = "respond-async"
    inbox_query = "SELECT 1 FROM notifications WHERE activity_id = %s::bigint"
    _settled = "SELECT NOT EXISTS (SELECT 1 FROM events WHERE announced_at IS NULL OR planned_at IS NULL)"
    _progress = """
        SELECT c.*, n.inbox, extract(epoch FROM n.last - c.first) AS inbox_seconds FROM (
            SELECT count(*) AS finished, count(*) FILTER (WHERE state = 'applied') AS applied,
                   min(finished_at) AS first, extract(epoch FROM max(finished_at) - min(finished_at)) AS finish_seconds
            FROM commands WHERE finished_at > :mark
        ) AS c CROSS JOIN (
            SELECT count(*) AS inbox, max(date_created) AS last FROM notifications WHERE date_created > :mark
        ) AS n
    """

    def __init__(self, servers: EmbeddedServers, *, subjects: int, workers: int) -> None:
        """Make its database, and the environment of its processes."""
        super().__init__(servers, database="bench_tocsin", subjects=subjects, workers=workers)
        self._environment = {
            **os.environ,
            **servers.environment,
            "DATABASE_URL": self.database_url,
            "TOCSIN_RATE": "1000000",
            "TOCSIN_DATA": str(servers.data_dir.path),
            "TOCSIN_SECRET": servers.data_dir.secret(),
            "TOCSIN_LOG_LEVEL": "warning",
        }

    def prepare(self) -> None:
        """Migrate, import a directory, insert incidents."""
        migrate(self.engine)
        with self.engine.begin() as connection:
            import_directory(connection, _directory())
            organization = connection.execute(organizations.select()).one().id
            project = connection.execute(projects.select()).one().id
            now = connection.execute(text("SELECT now()")).scalar_one()
            rows = [_incident(organization, number, now) for number in range(1, self.subjects + 1)]
            made = connection.execute(insert(incidents).returning(incidents.c.id), rows).scalars().all()
            connection.execute(insert(incident_projects), [{"incident_id": id_, "project_id": project} for id_ in made])

    def doorway(self) -> list[ManagedProcess]:
        """Gateway, relay and notifier."""
        return [
            GatewayProcess(HOST, self.port, logs=self.logs, environment=self._environment),
            self._process("relay", "relay"),
            self._process("notifier", "notifier"),
        ]

    def workforce(self) -> list[ManagedProcess]:
        """One process per worker, each with one child that applies."""
        return [self._process(f"worker-{number}", "worker") for number in range(1, self.workers + 1)]

    def _process(self, name: str, word: str) -> ManagedProcess:
        return TocsinProcess(name, tocsin(word), log=self.logs / f"{name}.log", environment=self._environment)


class Plain(Side):
    """The plain way of :mod:`bench.plain`."""

    name = "plain"
    inbox_query = (
        "SELECT 1 FROM outcomes o JOIN notifications n ON n.activity_id = (o.body->>'id')::bigint WHERE o.id = %s::uuid"
    )
    _progress = """
        SELECT c.*, n.inbox, extract(epoch FROM n.last - c.first) AS inbox_seconds FROM (
            SELECT count(*) AS finished, count(*) FILTER (WHERE status < 400) AS applied,
                   min(finished_at) AS first, extract(epoch FROM max(finished_at) - min(finished_at)) AS finish_seconds
            FROM outcomes WHERE finished_at > :mark
        ) AS c CROSS JOIN (
            SELECT count(*) AS inbox, max(date_created) AS last FROM notifications WHERE date_created > :mark
        ) AS n
    """

    def __init__(self, servers: EmbeddedServers, *, subjects: int, workers: int) -> None:
        """Make its database, and the environment of its processes."""
        super().__init__(servers, database="bench_plain", subjects=subjects, workers=workers)
        # A numbered database of its own on the same Valkey.
        broker = f"{servers.broker_url}?virtual_host=1"
        self._environment = {**os.environ, "BENCH_DATABASE_URL": self.sqlalchemy_url, "BENCH_BROKER_URL": broker}

    def prepare(self) -> None:
        """Make tables, people and incidents."""
        plain.make_tables(self.engine, organization=ORGANIZATION, tokens=TOKENS, people=PEOPLE, incidents=self.subjects)

    def doorway(self) -> list[ManagedProcess]:
        """The web application."""
        command = [sys.executable, "-m", "bench.plain", "api", "--port", str(self.port)]
        log = self.logs / "plain-gateway.log"
        return [Doorway("gateway", command, self.port, log=log, environment=self._environment)]

    def workforce(self) -> list[ManagedProcess]:
        """One Celery worker with as many processes as the other side has workers."""
        command = [sys.executable, "-m", "bench.plain", "worker", "--processes", str(self.workers)]
        return [ManagedProcess("worker", command, log=self.logs / "plain-worker.log", environment=self._environment)]


def generate(order: Order) -> dict[str, Any]:
    """Have the load generator carry out an order, in a process of its own."""
    command = [sys.executable, "-m", "bench.load"]
    done = subprocess.run(
        command, input=json.dumps(dataclasses.asdict(order)), stdout=subprocess.PIPE, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def wait_until_done(side: Side, mark: Any, count: int, *, within_seconds: float) -> tuple[Done, float, float, float]:
    """Wait until so many commands are finished, in inboxes, and nothing is left to do; by the outside clock, when.

    :raises TimeoutError: it takes too long.
    """
    began = time.monotonic()
    finished_after = inbox_after = 0.0
    while True:
        done, elapsed = side.done_since(mark), time.monotonic() - began
        if not finished_after and done.finished >= count:
            finished_after = elapsed
        if finished_after and not inbox_after and done.inbox >= done.applied:
            inbox_after = elapsed
        if inbox_after and side.is_settled():
            return done, finished_after, inbox_after, elapsed
        if elapsed > within_seconds:
            raise TimeoutError(f"{side.name}: {done.finished} of {count} finished, {done.inbox} in inboxes")
        time.sleep(0.1)


def cpu_of(pid: int) -> float:
    """CPU seconds of a process and its living children."""
    total = 0.0
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def _directory() -> dict[str, Any]:
    return {
        "organizations": [{"slug": ORGANIZATION, "name": "Acme", "features": [Feature.INCIDENTS.value]}],
        "users": [{"id": i, "username": f"u{i}", "name": f"User {i}", "email": f"u{i}@x.test"} for i in PEOPLE],
        "projects": [{"organization": ORGANIZATION, "slug": "p1", "name": "P1"}],
        "teams": [{"organization": ORGANIZATION, "slug": "t1", "name": "T1", "projects": ["p1"]}],
        "members": [{"organization": ORGANIZATION, "user": f"u{i}", "role": "member", "teams": ["t1"]} for i in PEOPLE],
        "tokens": [{"token": token, "user": f"u{i}"} for token, i in zip(TOKENS, PEOPLE, strict=False)],
    }


def _incident(organization: int, number: int, now: Any) -> dict[str, Any]:
    return {
        "organization_id": organization,
        "identifier": number,
        "title": f"Incident {number}",
        "status": IncidentStatus.OPEN,
        "status_method": StatusMethod.MANUAL,
        "type": IncidentType.DETECTED,
        "date_started": now,
        "date_detected": now,
        "date_added": now,
        "last_activity_at": now,
    }
