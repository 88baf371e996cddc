"""The measured systems. Each has its own database and processes, and all do the same work."""

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

from bench import baseline_api
from bench.load_generator import HOST, Load
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
USER_IDS = tuple(range(1, 51))
TOKENS = tuple(f"bench-{number}" for number in USER_IDS[:20])


class HttpProcess(ManagedProcess):
    """A process that is ready as soon as GET /livez succeeds."""

    def __init__(self, name: str, command: list[str], port: int, *, log: Path, environment: Mapping[str, str]) -> None:
        """Set up the process, without starting it."""
        super().__init__(name, command, log=log, environment=environment)
        self._port = port

    def is_ready(self) -> bool:
        """Return whether GET /livez returns 200."""
        connection = http.client.HTTPConnection(HOST, self._port, timeout=1)
        try:
            connection.request("GET", "/livez")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a round: how many commands are finished and applied, and how many inbox rows exist.

    ``finish_seconds`` and ``inbox_seconds`` are measured from the first outcome, by the database's clock.
    """

    finished: int
    applied: int
    inbox: int
    finish_seconds: float
    inbox_seconds: float


@dataclasses.dataclass(frozen=True)
class Applied:
    """The final progress of a round, and the wall-clock seconds until each stage was reached."""

    progress: Progress
    finished_after: float
    inbox_after: float
    idle_after: float


class System(ABC):
    """A system that accepts commands over HTTP, applies them in worker processes, and stores outcomes in tables."""

    name: ClassVar[str]
    inbox_query: ClassVar[str]
    latency_prefer: ClassVar[str | None] = None
    accept_prefer: ClassVar[str | None] = None
    _progress: ClassVar[str]
    _idle: ClassVar[str] = "SELECT true"

    def __init__(self, servers: EmbeddedServers, *, database: str, subjects: int, workers: int) -> None:
        """Create the database with its tables, people and incidents."""
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
        self.processes: list[ManagedProcess] = []

    @abstractmethod
    def prepare(self) -> None:
        """Create tables, people and incidents."""

    @abstractmethod
    def serving_processes(self) -> list[ManagedProcess]:
        """Return all processes except the workers."""

    @abstractmethod
    def worker_processes(self) -> list[ManagedProcess]:
        """Return the workers."""

    def start(self, processes: list[ManagedProcess]) -> None:
        """Start processes and wait until they are ready."""
        self.processes += processes
        for process in processes:
            process.start()
        for process in processes:
            process.wait_ready()

    def stop(self) -> None:
        """Stop all processes, in reverse order of starting."""
        for process in reversed(self.processes):
            process.request_stop()
        for process in reversed(self.processes):
            process.stop()
        self.processes.clear()

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU seconds that each kind of running process, including its children, has used so far."""
        used: dict[str, float] = {}
        for process in self.processes:
            if process.pid is not None:
                kind = process.name.partition("-")[0]
                used[kind] = used.get(kind, 0.0) + cpu_seconds_of(process.pid)
        return used

    def load(self, **options: Any) -> Load:
        """Return a load that the load generator can run on this system."""
        return Load(
            port=self.port,
            organization=ORGANIZATION,
            incidents=self.subjects,
            tokens=TOKENS,
            people=USER_IDS,
            database=self.database_url,
            inbox_query=self.inbox_query,
            **options,
        )

    def database_time(self) -> Any:
        """Return the database's current time, which separates a round's commands from earlier ones."""
        with self.engine.connect() as connection:
            return connection.execute(text("SELECT clock_timestamp()")).scalar_one()

    def is_idle(self) -> bool:
        """Return whether no work is left."""
        with self.engine.connect() as connection:
            return bool(connection.execute(text(self._idle)).scalar_one())

    def progress_since(self, began_at: Any) -> Progress:
        """Return the progress of the commands finished since ``began_at``, by the database's clock."""
        with self.engine.connect() as connection:
            row = connection.execute(text(self._progress), {"began_at": began_at}).one()
        return Progress(
            row.finished, row.applied, row.inbox, float(row.finish_seconds or 0), float(row.inbox_seconds or 0)
        )


class Tocsin(System):
    """tocsin, as the processes that `tocsin up` starts."""

    name = "tocsin"
    accept_prefer = "respond-async"
    inbox_query = "SELECT 1 FROM notifications WHERE activity_id = %s::bigint"
    _idle = "SELECT NOT EXISTS (SELECT 1 FROM events WHERE announced_at IS NULL OR planned_at IS NULL)"
    _progress = """
        SELECT c.*, n.inbox, extract(epoch FROM n.last - c.first) AS inbox_seconds FROM (
            SELECT count(*) AS finished, count(*) FILTER (WHERE state = 'applied') AS applied,
                   min(finished_at) AS first, extract(epoch FROM max(finished_at) - min(finished_at)) AS finish_seconds
            FROM commands WHERE finished_at > :began_at
        ) AS c CROSS JOIN (
            SELECT count(*) AS inbox, max(date_created) AS last FROM notifications WHERE date_created > :began_at
        ) AS n
    """

    def __init__(self, servers: EmbeddedServers, *, subjects: int, workers: int) -> None:
        """Create the database, and set up the environment for the processes."""
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
        """Migrate the database, import the directory, and insert incidents."""
        migrate(self.engine)
        with self.engine.begin() as connection:
            import_directory(connection, _directory())
            organization = connection.execute(organizations.select()).one().id
            project = connection.execute(projects.select()).one().id
            now = connection.execute(text("SELECT now()")).scalar_one()
            rows = [_incident(organization, number, now) for number in range(1, self.subjects + 1)]
            ids = connection.execute(insert(incidents).returning(incidents.c.id), rows).scalars().all()
            connection.execute(insert(incident_projects), [{"incident_id": id_, "project_id": project} for id_ in ids])

    def serving_processes(self) -> list[ManagedProcess]:
        """Return the gateway, the relay and the notifier."""
        return [
            GatewayProcess(HOST, self.port, logs=self.logs, environment=self._environment),
            self._process("relay", "relay"),
            self._process("notifier", "notifier"),
        ]

    def worker_processes(self) -> list[ManagedProcess]:
        """Return one process per worker, each with one child that applies commands."""
        return [self._process(f"worker-{number}", "worker") for number in range(1, self.workers + 1)]

    def _process(self, name: str, command: str) -> ManagedProcess:
        return TocsinProcess(name, tocsin(command), log=self.logs / f"{name}.log", environment=self._environment)


class Baseline(System):
    """The plain Celery application of :mod:`bench.baseline_api` and :mod:`bench.baseline_worker`."""

    name = "baseline"
    inbox_query = (
        "SELECT 1 FROM outcomes o JOIN notifications n ON n.activity_id = (o.body->>'id')::bigint WHERE o.id = %s::uuid"
    )
    _progress = """
        SELECT c.*, n.inbox, extract(epoch FROM n.last - c.first) AS inbox_seconds FROM (
            SELECT count(*) AS finished, count(*) FILTER (WHERE status < 400) AS applied,
                   min(finished_at) AS first, extract(epoch FROM max(finished_at) - min(finished_at)) AS finish_seconds
            FROM outcomes WHERE finished_at > :began_at
        ) AS c CROSS JOIN (
            SELECT count(*) AS inbox, max(date_created) AS last FROM notifications WHERE date_created > :began_at
        ) AS n
    """

    def __init__(self, servers: EmbeddedServers, *, subjects: int, workers: int) -> None:
        """Create the database, and set up the environment for the processes."""
        super().__init__(servers, database="bench_baseline", subjects=subjects, workers=workers)
        # Another database on the same Valkey.
        broker = f"{servers.broker_url}?virtual_host=1"
        self._environment = {**os.environ, "BENCH_DATABASE_URL": self.sqlalchemy_url, "BENCH_BROKER_URL": broker}

    def prepare(self) -> None:
        """Create tables, people and incidents."""
        baseline_api.create_tables(
            self.engine, organization=ORGANIZATION, tokens=TOKENS, people=USER_IDS, incidents=self.subjects
        )

    def serving_processes(self) -> list[ManagedProcess]:
        """Return the web application."""
        command = [sys.executable, "-m", "bench.baseline_api", "api", "--port", str(self.port)]
        log = self.logs / "baseline-gateway.log"
        return [HttpProcess("gateway", command, self.port, log=log, environment=self._environment)]

    def worker_processes(self) -> list[ManagedProcess]:
        """Return one Celery worker, with as many child processes as tocsin has workers."""
        command = [sys.executable, "-m", "bench.baseline_api", "worker", "--processes", str(self.workers)]
        return [ManagedProcess("worker", command, log=self.logs / "baseline-worker.log", environment=self._environment)]


def run_load(load: Load) -> dict[str, Any]:
    """Run the load generator in a separate process and return its measurements."""
    command = [sys.executable, "-m", "bench.load_generator"]
    generator = subprocess.run(
        command, input=json.dumps(dataclasses.asdict(load)), stdout=subprocess.PIPE, text=True, check=True
    )
    figures: dict[str, Any] = json.loads(generator.stdout)
    return figures


def wait_until_applied(system: System, began_at: Any, count: int, *, within_seconds: float) -> Applied:
    """Wait until ``count`` commands are finished and their notifications are in the inboxes, with no work left.

    :raises TimeoutError: if this takes longer than ``within_seconds``.
    """
    began = time.monotonic()
    finished_after = inbox_after = 0.0
    while True:
        progress, elapsed = system.progress_since(began_at), time.monotonic() - began
        if not finished_after and progress.finished >= count:
            finished_after = elapsed
        if finished_after and not inbox_after and progress.inbox >= progress.applied:
            inbox_after = elapsed
        if inbox_after and system.is_idle():
            return Applied(progress, finished_after, inbox_after, elapsed)
        if elapsed > within_seconds:
            raise TimeoutError(f"{system.name}: {progress.finished} of {count} finished, {progress.inbox} in inboxes")
        time.sleep(0.1)


def cpu_seconds_of(pid: int) -> float:
    """Return the CPU seconds of a process and its running children."""
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
        "users": [{"id": i, "username": f"u{i}", "name": f"User {i}", "email": f"u{i}@x.test"} for i in USER_IDS],
        "projects": [{"organization": ORGANIZATION, "slug": "p1", "name": "P1"}],
        "teams": [{"organization": ORGANIZATION, "slug": "t1", "name": "T1", "projects": ["p1"]}],
        "members": [
            {"organization": ORGANIZATION, "user": f"u{i}", "role": "member", "teams": ["t1"]} for i in USER_IDS
        ],
        "tokens": [{"token": token, "user": f"u{i}"} for token, i in zip(TOKENS, USER_IDS, strict=False)],
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
