"""A stack for one load of ``bench.stress``: its own servers and database, and the processes of a checkout.

Everything here uses only what all releases have in common: the command line, the HTTP API, and a few columns of the
ledger. The servers are always started by this checkout, so that only tocsin's own code differs.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import psycopg

from bench.compare import SOURCES
from bench.load_generator import HOST
from models.types import JSON
from tasks.startup import free_port
from workers.stack.managed_process import READY_SECONDS, ManagedProcess
from workers.stack.own_processes import GatewayProcess, TocsinProcess, tocsin
from workers.stack.servers import EmbeddedServers, embedded_servers

PERSON: Final = "stress-person"
READER: Final = "user:2"
"""A person who may be mentioned."""

SERVICE: Final = "stress-service"
ITEMS_PER_REQUEST: Final = 1_000
CONNECTIONS: Final = 4
MAX_REQUESTS: Final = 10
SETUP_SECONDS: Final = 300.0
"""How many seconds the preparation of a load may take."""

_ROOT: Final = "/api/0/organizations/acme"
_DIRECTORY: Final[dict[str, JSON]] = {
    "organizations": [{"slug": "acme", "name": "Acme", "features": ["organizations:incidents"]}],
    "users": [
        {"id": 1, "username": "owner", "name": "Owner", "email": "owner@x.test"},
        {"id": 2, "username": "reader", "name": "Reader", "email": "reader@x.test"},
    ],
    "projects": [{"organization": "acme", "slug": "p1", "name": "P1"}],
    "teams": [{"organization": "acme", "slug": "t1", "name": "T1", "projects": ["p1"]}],
    "members": [
        {"organization": "acme", "user": "owner", "role": "owner", "teams": ["t1"]},
        {"organization": "acme", "user": "reader", "role": "member", "teams": ["t1"]},
    ],
    "tokens": [
        {"token": PERSON, "user": "owner"},
        {
            "token": SERVICE,
            "organization": "acme",
            "name": "stress",
            "kind": "service",
            "scopes": ["org:read", "project:read", "project:write", "alerts:read", "alerts:write"],
        },
    ],
}


class StressError(Exception):
    """Raised when a load cannot be measured."""


class Stack:
    """The stack of one checkout. Its workers are started and stopped apart from its other processes."""

    def __init__(self, checkout: Path, servers: EmbeddedServers) -> None:
        """Migrate the database and import the directory, without starting any process."""
        self.checkout = checkout
        self.database_url = servers.database_url
        self._logs = servers.data_dir.logs
        self._port = free_port(HOST, 0)
        self.environment = checkout_environment(checkout) | {
            **servers.environment,
            "TOCSIN_RATE": "1000000",
            "TOCSIN_DATA": str(servers.data_dir.path),
            "TOCSIN_SECRET": servers.data_dir.secret(),
            "TOCSIN_LOG_LEVEL": "warning",
        }
        self._services: list[ManagedProcess] = []
        self._workers: list[ManagedProcess] = []
        self._run(tocsin("migrate"))
        self._run(tocsin("directory", "import", "-"), json.dumps(_DIRECTORY))
        self._connection = psycopg.connect(self.database_url, autocommit=True)

    @property
    def pids(self) -> list[tuple[str, int]]:
        """The name and the process id of each running process of tocsin."""
        processes = [*self._services, *self._workers]
        return [(each.name, each.popen.pid) for each in processes if each.popen is not None]

    @property
    def backend_pid(self) -> int:
        """The process id of the database session that this object uses."""
        return self._connection.info.backend_pid

    # --- processes ---------------------------------------------------------------------------------------------

    def start_services(self) -> None:
        """Start the gateway, the relay and the notifier."""
        self._services = [
            GatewayProcess(HOST, self._port, logs=self._logs, environment=self.environment),
            self._process("relay", "relay"),
            self._process("notifier", "notifier"),
        ]
        _start(self._services)

    def start_workers(self, count: int = 2) -> datetime:
        """Start workers, and return the time at which the first was ready, by the database's clock."""
        self._workers = [self._process(f"worker-{number}", "worker") for number in range(1, count + 1)]
        for worker in self._workers:
            worker.start()
        # If none is ready in time, wait_ready() says why.
        until = time.monotonic() + READY_SECONDS
        while not any(worker.is_ready() for worker in self._workers) and time.monotonic() < until:
            time.sleep(0.01)
        ready_at = self.now()
        for worker in self._workers:
            worker.wait_ready()
        return ready_at

    def stop_workers(self) -> None:
        """Stop all workers."""
        _stop(self._workers)
        self._workers = []

    def stop_services(self) -> None:
        """Stop all other processes."""
        _stop(self._services)
        self._services = []

    def close(self) -> None:
        """Stop everything but the servers."""
        self.stop_workers()
        self.stop_services()
        self._connection.close()

    def run_module(self, path: Path, *arguments: str) -> str:
        """Run a Python file that imports the checkout's modules, and return its output."""
        return self._run([*tocsin()[:1], str(path), *arguments])

    def _run(self, command: list[str], standard_input: str | None = None) -> str:
        process = subprocess.run(
            command, env=self.environment, input=standard_input, capture_output=True, text=True, check=False
        )
        if process.returncode:
            raise StressError(f"{' '.join(command[1:])} failed in {self.checkout}:\n{process.stdout}{process.stderr}")
        return process.stdout

    def _process(self, name: str, command: str) -> ManagedProcess:
        return TocsinProcess(name, tocsin(command), log=self._logs / f"{name}.log", environment=self.environment)

    # --- HTTP --------------------------------------------------------------------------------------------------

    def post(self, path: str, body: JSON, *, token: str) -> Any:
        """Send a POST request that does not wait for outcomes, and return the parsed body of its response.

        After a 503, the request is repeated with the same key, up to ``MAX_REQUESTS`` times in total.

        :raises StressError: if the response is not 202.
        """
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Prefer": "respond-async",
            "Idempotency-Key": str(uuid4()),
        }
        status, content = 0, b""
        for _ in range(MAX_REQUESTS):
            status, content = self._send(path, json.dumps(body), headers)
            if status != http.HTTPStatus.SERVICE_UNAVAILABLE:
                break
            time.sleep(1)
        if status != http.HTTPStatus.ACCEPTED:
            raise StressError(f"POST {path} was answered with {status}: {content[:500]!r}")
        return json.loads(content)

    def _send(self, path: str, body: str, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", _ROOT + path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()

    def submit(self, items: Sequence[JSON], *, token: str = PERSON) -> list[str]:
        """Submit commands in bulk requests, and return their ids, in the same order."""
        slices = [items[start : start + ITEMS_PER_REQUEST] for start in range(0, len(items), ITEMS_PER_REQUEST)]

        def send(commands: Sequence[JSON]) -> list[str]:
            answer = self.post("/commands/", {"commands": list(commands)}, token=token)
            return [each["id"] for each in answer["commands"]]

        with ThreadPoolExecutor(CONNECTIONS) as senders:
            return [id_ for ids in senders.map(send, slices) for id_ in ids]

    def comment(self, number: str) -> str:
        """Post a comment on an incident at the endpoint for people, and return the command's id."""
        answer = self.post(f"/incidents/{number}/comments/", {"comment": "by hand"}, token=PERSON)
        return str(answer["id"])

    def comment_and_wait(self, number: str, *, mention: str) -> None:
        """Post a comment on an incident that mentions a person, and wait until it is applied.

        :raises StressError: if it is not.
        """
        body = json.dumps({"comment": "by hand", "mentions": [mention]})
        headers = {"Authorization": f"Bearer {PERSON}", "Content-Type": "application/json"}
        status, content = self._send(f"/incidents/{number}/comments/", body, headers)
        if status != http.HTTPStatus.CREATED:
            raise StressError(f"a comment was answered with {status}: {content[:500]!r}")

    def comment_in_bulk(self, numbers: Sequence[str], count: int) -> list[str]:
        """Post comments in bulk, on each of the incidents in turn, and return the ids of the commands."""
        return self.submit([comment_on(numbers[index % len(numbers)]) for index in range(count)])

    def open_incidents(self, count: int, **fields: JSON) -> list[str]:
        """Open incidents, wait until they are open, and return their identifiers.

        If ``fields`` have a ``dedupKey``, its ``{}`` is replaced by a number.
        """
        key = fields.pop("dedupKey", None)
        items: list[JSON] = [open_item(f"Incident {each}", key and str(key).format(each)) for each in range(count)]
        ids = self.submit(items, token=SERVICE)
        return [str(body["identifier"]) for body in self.outcomes(ids)]

    # --- the ledger --------------------------------------------------------------------------------------------

    def sql(self, statement: str, *parameters: Any) -> list[Any]:
        """Execute a statement in its own transaction, and return its rows."""
        cursor = self._connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []

    def now(self) -> datetime:
        """Return the time by the database's clock."""
        now: datetime = self.sql("SELECT clock_timestamp()")[0][0]
        return now

    def waits(self, ids: Sequence[str] | None = None) -> int:
        """Return how many of these commands are waiting, or, without ids, of all."""
        if ids is None:
            return int(self.sql("SELECT count(*) FROM commands WHERE state = 'accepted'")[0][0])
        query = "SELECT count(*) FROM commands WHERE id = ANY(%s::uuid[]) AND state = 'accepted'"
        return int(self.sql(query, list(ids))[0][0])

    def finish(self, ids: Sequence[str] | None = None, *, within_seconds: float) -> bool:
        """Wait until none of these commands (or none at all) is waiting, and return whether that was in time."""
        until = time.monotonic() + within_seconds
        while self.waits(ids):
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def outcomes(self, ids: Sequence[str]) -> list[Any]:
        """Wait for the outcomes of these commands, and return their bodies, in the same order.

        :raises StressError: if one of them was not applied.
        """
        if not self.finish(ids, within_seconds=SETUP_SECONDS):
            raise StressError(f"{self.waits(ids)} of {len(ids)} commands still wait after {SETUP_SECONDS:.0f} s")
        rows = self.sql("SELECT id::text, outcome_status, outcome_body FROM commands WHERE id = ANY(%s::uuid[])", ids)
        outcomes = {id_: (status, body) for id_, status, body in rows}
        refused = [outcome for outcome in outcomes.values() if (outcome[0] or 500) >= http.HTTPStatus.BAD_REQUEST]
        if refused:
            raise StressError(f"{len(refused)} of {len(ids)} commands were not applied: {refused[0]}")
        return [outcomes[id_][1] for id_ in ids]

    def settle(self, *, poll_seconds: float = 0.1) -> None:
        """Wait until no command is waiting, and all events are announced and planned."""
        unfinished = "SELECT EXISTS (SELECT 1 FROM events WHERE announced_at IS NULL OR planned_at IS NULL)"
        until = time.monotonic() + SETUP_SECONDS
        while self.waits() or self.sql(unfinished)[0][0]:
            if time.monotonic() > until:
                raise StressError(f"the stack was still busy after {SETUP_SECONDS:.0f} s")
            time.sleep(poll_seconds)


def comment_on(number: str) -> JSON:
    """Return a comment on an incident as an item of a bulk request."""
    return {"type": "comment.post", "incident": number, "comment": "in bulk"}


def open_item(title: str, key: str | None = None) -> JSON:
    """Return an ``incident.open`` command as an item of a bulk request."""
    item: dict[str, JSON] = {"type": "incident.open", "title": title, "projects": ["p1"]}
    return item if key is None else item | {"dedupKey": key}


def checkout_environment(checkout: Path) -> dict[str, str]:
    """Return the environment in which Python imports tocsin from the checkout, whatever the working directory is."""
    sources = os.pathsep.join(str(checkout / source) for source in SOURCES)
    return {**os.environ, "PYTHONPATH": sources, "PYTHONSAFEPATH": "1"}


@contextlib.contextmanager
def running_stack(checkout: Path, data: Path | None) -> Iterator[Stack]:
    """Run a stack with two workers in the directory ``data``, or in a temporary directory that is removed."""
    with embedded_servers(data) as servers, running_processes(checkout, servers) as stack:
        yield stack


@contextlib.contextmanager
def running_processes(checkout: Path, servers: EmbeddedServers) -> Iterator[Stack]:
    """Run the processes of a checkout, with two workers, on servers that run already."""
    stack = Stack(checkout, servers)
    try:
        stack.start_services()
        stack.start_workers()
        yield stack
    finally:
        stack.close()


def _start(processes: Sequence[ManagedProcess]) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.wait_ready()


def _stop(processes: Sequence[ManagedProcess]) -> None:
    for process in processes:
        process.request_stop()
    for process in processes:
        process.stop()
