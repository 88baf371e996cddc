"""Measure open streams of server-sent events: the memory that each costs a gateway, and the delay of events.

A thousand people of twenty organizations follow the events of their organization on one gateway, while comments are
posted at a steady rate. Every event goes to fifty streams. The delay is measured from when the worker wrote the event
(``events.date_created``) to when the client has read it, on one machine.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg

from bench.load_generator import HOST
from bench.output import progress
from tasks.startup import free_port
from workers.stack.managed_process import ManagedProcess
from workers.stack.own_processes import GatewayProcess, TocsinProcess, tocsin
from workers.stack.servers import EmbeddedServers, embedded_servers

ORGANIZATIONS: Final = 20
PEOPLE: Final = 50
"""The number of people in each organization. Each follows one stream."""

GOAL_KB: Final = 40
GOAL_P99_MS: Final = 250


@dataclass
class Received:
    """What the streams have received: the time of each receipt, with the id of the event."""

    streams: int
    receipts_expected: int
    opened: int = 0
    receipts: list[tuple[str, float]] = field(default_factory=list)
    all_open: asyncio.Event = field(default_factory=asyncio.Event)
    all_received: asyncio.Event = field(default_factory=asyncio.Event)

    def open(self) -> None:
        """Count an open stream."""
        self.opened += 1
        if self.opened == self.streams:
            self.all_open.set()

    def receive(self, event: str) -> None:
        """Record the receipt of an event."""
        self.receipts.append((event, time.time()))
        if len(self.receipts) == self.receipts_expected:
            self.all_received.set()


def main() -> int:
    """Measure, print the figures, and return 0 if both goals are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=100, help="events per second")
    parser.add_argument("--seconds", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, embedded_servers(Path(folder)) as servers:
        return _measure(servers, options.rate, options.seconds)


def _measure(servers: EmbeddedServers, rate: int, seconds: int) -> int:
    port = free_port(HOST, 0)
    logs = servers.data_dir.logs
    environment = (
        os.environ
        | servers.environment
        | {
            "TOCSIN_RATE": "1000000",
            "TOCSIN_DATA": str(servers.data_dir.path),
            "TOCSIN_SECRET": servers.data_dir.secret(),
            "TOCSIN_LOG_LEVEL": "warning",
        }
    )
    _run(tocsin("migrate"), environment)
    _run(tocsin("directory", "import", "-"), environment, json.dumps(_directory()))
    gateway = GatewayProcess(HOST, port, logs=logs, environment=environment)
    processes: list[ManagedProcess] = [
        gateway,
        *(TocsinProcess(name, tocsin(name), log=logs / f"{name}.log", environment=environment)
          for name in ("worker", "relay", "notifier")),
    ]  # fmt: skip
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.wait_ready()
        return asyncio.run(_follow(servers.database_url, gateway, port, rate, seconds))
    finally:
        for process in reversed(processes):
            process.stop()


async def _follow(database_url: str, gateway: ManagedProcess, port: int, rate: int, seconds: int) -> int:
    numbers = [await asyncio.to_thread(_open_incident, port, organization) for organization in range(ORGANIZATIONS)]
    process = psutil.Process(gateway.pid)
    before = process.memory_full_info().pss
    expected = rate * seconds * PEOPLE
    received = Received(ORGANIZATIONS * PEOPLE, expected)
    streams = [
        asyncio.create_task(_stream(port, organization, person, received))
        for organization in range(ORGANIZATIONS)
        for person in range(PEOPLE)
    ]
    await received.all_open.wait()
    idle = process.memory_full_info().pss
    progress(f"{len(streams)} streams are open")
    cpu = sum(process.cpu_times()[:2])
    stop = threading.Event()
    await asyncio.to_thread(_post, port, numbers, rate, seconds, stop)
    with suppress(TimeoutError):
        async with asyncio.timeout(30):
            await received.all_received.wait()
    cpu = sum(process.cpu_times()[:2]) - cpu
    loaded = process.memory_full_info().pss
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT id::text, extract(epoch FROM date_created) FROM events").fetchall()
    written = {id_: float(at) for id_, at in rows}
    delays = sorted((at - written[id_]) * 1000 for id_, at in received.receipts if id_ in written)
    idle_kb = (idle - before) / len(streams) / 1024
    loaded_kb = (loaded - before) / len(streams) / 1024
    p50, p99 = delays[len(delays) // 2], delays[int(len(delays) * 0.99)]
    print(f"streams                      {len(streams)}")
    print(f"memory per stream, idle      {idle_kb:.1f} KB (PSS of the gateway; goal ≤ {GOAL_KB})")
    print(f"memory per stream, after     {loaded_kb:.1f} KB")
    print(f"events received              {len(delays):,} of {expected:,}")
    print(f"delay p50 / p99              {p50:.0f} / {p99:.0f} ms (goal ≤ {GOAL_P99_MS})")
    print(f"CPU per event and stream     {cpu / max(1, len(delays)) * 1e6:.0f} µs")
    return 0 if idle_kb <= GOAL_KB and p99 <= GOAL_P99_MS and len(delays) >= expected else 1


async def _stream(port: int, organization: int, person: int, received: Received) -> None:
    reader, writer = await asyncio.open_connection(HOST, port)
    token = f"stream-{organization}-{person}"
    writer.write(
        f"GET /api/0/organizations/org-{organization}/events/ HTTP/1.1\r\nHost: {HOST}\r\n"
        f"Authorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n".encode()
    )
    event = ""
    while line := await reader.readline():
        if line.startswith(b"retry:"):
            received.open()
        elif line.startswith(b"id: "):
            event = line[4:].strip().decode()
        elif line == b"event: incident.comment_posted\n":
            received.receive(event)


def _post(port: int, numbers: list[str], rate: int, seconds: int, stop: threading.Event) -> None:
    """Post ``rate`` comments per second, by turns on the incidents of all organizations."""
    per_request = max(1, rate // ORGANIZATIONS)
    interval = per_request / rate
    started = time.monotonic()
    for number in range(rate * seconds // per_request):
        organization = number % ORGANIZATIONS
        items = [
            {"type": "comment.post", "incident": numbers[organization], "comment": f"event {each}"}
            for each in range(per_request)
        ]
        _request(port, organization, "/commands/", {"commands": items})
        if (pause := started + (number + 1) * interval - time.monotonic()) > 0:
            stop.wait(pause)


def _open_incident(port: int, organization: int) -> str:
    answer = _request(port, organization, "/incidents/", {"title": "Streams", "projects": ["p"]})
    return str(answer["identifier"])


def _request(port: int, organization: int, path: str, body: Any) -> Any:
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        headers = {"Authorization": f"Bearer stream-{organization}-0", "Content-Type": "application/json"}
        connection.request("POST", f"/api/0/organizations/org-{organization}{path}", json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise SystemExit(f"{path} was answered with {response.status}: {content[:300]!r}")
        return json.loads(content)
    finally:
        connection.close()


def _directory() -> dict[str, Any]:
    organizations = range(ORGANIZATIONS)
    people = [(organization, person) for organization in organizations for person in range(PEOPLE)]
    return {
        "organizations": [{"slug": f"org-{each}", "features": ["organizations:incidents"]} for each in organizations],
        "users": [
            {"username": f"person-{organization}-{person}", "email": f"person-{organization}-{person}@x.test"}
            for organization, person in people
        ],
        "projects": [{"organization": f"org-{each}", "slug": "p"} for each in organizations],
        "teams": [{"organization": f"org-{each}", "slug": "t", "projects": ["p"]} for each in organizations],
        "members": [
            {
                "organization": f"org-{organization}",
                "user": f"person-{organization}-{person}",
                "role": "owner" if person == 0 else "member",
                "teams": ["t"],
            }
            for organization, person in people
        ],
        "tokens": [
            {"token": f"stream-{organization}-{person}", "user": f"person-{organization}-{person}"}
            for organization, person in people
        ],
    }


def _run(command: list[str], environment: dict[str, str], text: str | None = None) -> None:
    ended = subprocess.run(command, env=environment, input=text, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{ended.stdout}{ended.stderr}")


if __name__ == "__main__":
    sys.exit(main())
