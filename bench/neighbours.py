"""Measure what a caller of another organization notices of a caller that sends ten times what it may.

The quiet caller posts a comment, waits for its outcome, reads the list of its incidents, and pauses. It does so alone
and beside the loud caller by turns, in slices of a few seconds, for each way of being loud.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

import psycopg

from bench.load_generator import HOST
from bench.loud_caller import PEOPLE, PERSON, PROGRAM, Loudness, ways
from bench.output import progress
from models.messaging.subject import Subject
from models.types import JSON
from tasks.startup import free_port
from workers.stack.own_processes import own_processes
from workers.stack.servers import EmbeddedServers, embedded_servers

GOAL: Final = 2.0
"""How many times as long the 95th percentile may be beside the loud caller."""

PAUSE_SECONDS: Final = 0.01
LARGE_COMMENTS: Final = 120
_LOCK: Final = "hashtextextended('apply:' || %s, 0)"

Latencies = dict[str, list[float]]


def main() -> int:
    """Measure, print a table, and return 0 if the goal is met for every way."""
    names = list(ways(Loudness("", 0, "", 0, 1, "", "")))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=50, help="TOCSIN_RATE")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4, help="length of a slice")
    parser.add_argument("--ways", nargs="*", default=names, choices=names)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded_servers(Path(folder)) as servers,
        _running_stack(servers, options.rate) as port,
    ):
        bench = _Bench(port, servers.database_url, names, options)
        bench.prepare()
        print("| way | responses to the loud caller | POST p50 | POST p95 | GET p50 | GET p95 | worst p95 |")
        print("|---|---|---|---|---|---|---|")
        return int(max([bench.measure(way) for way in options.ways]) > GOAL)


@contextlib.contextmanager
def _running_stack(servers: EmbeddedServers, rate: int) -> Iterator[int]:
    environment = (
        os.environ
        | servers.environment
        | {
            "TOCSIN_RATE": str(rate),
            "TOCSIN_DATA": str(servers.data_dir.path),
            "TOCSIN_SECRET": servers.data_dir.secret(),
            "TOCSIN_LOG_LEVEL": "warning",
        }
    )
    for command, text in ((["migrate"], None), (["directory", "import", "-"], json.dumps(_directory()))):
        program = [sys.executable, "-m", "workers.cli", *command]
        subprocess.run(program, env=environment, input=text, check=True, text=True, stdout=subprocess.DEVNULL)
    port = free_port(HOST, 0)
    processes = own_processes(HOST, port, 2, logs=servers.data_dir.logs, environment=environment)
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.wait_ready()
        yield port
    finally:
        for process in reversed(processes):
            process.stop()


class _Bench:
    """The quiet caller, and the loud one beside it."""

    def __init__(self, port: int, database_url: str, names: list[str], options: argparse.Namespace) -> None:
        self._port = port
        self._options = options
        self._names = names
        self._connection = http.client.HTTPConnection(HOST, port, timeout=60)
        self._database = psycopg.connect(database_url, autocommit=True)
        self._incidents: dict[str, str] = {}

    def prepare(self) -> None:
        """Open the incidents, and write comments so large that the list of the loud organization has 7 MB."""
        for name in ("quiet", "loud", "blocked", "large"):
            organization = name if name == "quiet" else "loud"
            body = {"title": name, "projects": ["p"]}
            opened = self._request("POST", f"{organization}/incidents/", organization, body)
            self._incidents[name] = str(opened["identifier"])
            self._comment(name)
        for _ in range(LARGE_COMMENTS):
            # Within the rate.
            time.sleep(1 / self._options.rate)
            self._comment("large", "x" * 60_000)
        progress("the stack is ready")

    def measure(self, way: str) -> float:
        """Print the row of the table for a way, and return the worst ratio of the 95th percentiles."""
        loudness = Loudness(
            way,
            self._port,
            PERSON.format(1 + self._names.index(way)),
            self._options.seconds,
            self._options.rate,
            self._incidents["loud"],
            self._incidents["blocked"],
        )
        alone: Latencies = {"POST": [], "GET": []}
        beside: Latencies = {"POST": [], "GET": []}
        statuses: Counter[str] = Counter()
        with _loud_process(loudness) as (commands, answers), self._nothing_is_applied_on("blocked"):
            for _ in range(self._options.rounds):
                self._be_quiet(alone)
                print("now", file=commands, flush=True)
                self._be_quiet(beside)
                statuses.update(json.loads(answers.readline()))
                # What the loud caller has left behind belongs to neither slice.
                self._wait_until_idle()
        counts = ", ".join(f"{number} × {status}" for status, number in sorted(statuses.items()))
        cells, worst = [], 0.0
        for kind in alone:
            for cent in (50, 95):
                before, then = _percentile(alone[kind], cent), _percentile(beside[kind], cent)
                cells.append(f"{before:.1f} → {then:.1f} ms (×{then / before:.2f})")
                worst = max(worst, then / before) if cent == 95 else worst
        print(f"| {way} | {counts} | {' | '.join(cells)} | ×{worst:.2f} |", flush=True)
        return worst

    def _be_quiet(self, latencies: Latencies) -> None:
        until = time.monotonic() + self._options.seconds
        while time.monotonic() < until:
            started = time.perf_counter()
            self._comment("quiet")
            commented = time.perf_counter()
            self._request("GET", "quiet/incidents/", "quiet")
            latencies["POST"].append(commented - started)
            latencies["GET"].append(time.perf_counter() - commented)
            time.sleep(max(PAUSE_SECONDS, 1 / self._options.rate - (time.perf_counter() - started)))

    def _comment(self, incident: str, text: str = "quiet") -> None:
        organization = "quiet" if incident == "quiet" else "loud"
        path = f"{organization}/incidents/{self._incidents[incident]}/comments/"
        self._request("POST", path, organization, {"comment": text})

    def _request(self, method: str, path: str, organization: str, body: JSON = None) -> Any:
        token = PERSON.format(0) if organization == "loud" else "quiet-person"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Prefer": "wait=30"}
        content = None if body is None else json.dumps(body)
        self._connection.request(method, f"/api/0/organizations/{path}", content, headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status not in (200, 201):
            raise SystemExit(f"{method} {path} was answered with {response.status}: {answer[:300]!r}")
        return json.loads(answer)

    @contextlib.contextmanager
    def _nothing_is_applied_on(self, incident: str) -> Iterator[None]:
        """Hold the lock that a worker takes before it applies commands on an incident."""
        subject = self._subject_of(incident)
        self._database.execute(f"SELECT pg_advisory_lock({_LOCK})", [subject])
        try:
            yield
        finally:
            self._database.execute(f"SELECT pg_advisory_unlock({_LOCK})", [subject])

    def _wait_until_idle(self) -> None:
        unfinished = """
            SELECT 1 FROM commands WHERE state = 'accepted' AND subject <> %s
            UNION ALL SELECT 1 FROM events WHERE announced_at IS NULL OR planned_at IS NULL LIMIT 1
        """
        while self._database.execute(unfinished, [self._subject_of("blocked")]).fetchone():
            time.sleep(0.05)

    def _subject_of(self, incident: str) -> str:
        query = "SELECT id FROM organizations WHERE slug = 'loud'"
        (organization,) = self._database.execute(query).fetchone() or (0,)
        return str(Subject.incident(organization, int(self._incidents[incident])))


@contextlib.contextmanager
def _loud_process(loudness: Loudness) -> Iterator[tuple[IO[str], IO[str]]]:
    command = [sys.executable, "-m", "bench.loud_caller"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(asdict(loudness)), file=process.stdin, flush=True)
        process.stdout.readline()
        yield process.stdin, process.stdout
        process.stdin.close()


def _percentile(seconds: list[float], cent: int) -> float:
    ranked = sorted(seconds)
    return 1000 * ranked[min(len(ranked) * cent // 100, len(ranked) - 1)]


def _directory() -> dict[str, Any]:
    people = range(1, PEOPLE + 1)
    return {
        "organizations": [{"slug": each, "features": ["organizations:incidents"]} for each in ("loud", "quiet")],
        "users": [
            {"id": each, "username": f"person-{each}", "email": f"person-{each}@x.test"} for each in [*people, 1000]
        ],
        "projects": [{"organization": each, "slug": "p"} for each in ("loud", "quiet")],
        "teams": [{"organization": each, "slug": "t", "projects": ["p"]} for each in ("loud", "quiet")],
        "members": [
            *({"organization": "loud", "user": f"person-{each}", "role": "owner", "teams": ["t"]} for each in people),
            {"organization": "quiet", "user": "person-1000", "role": "owner", "teams": ["t"]},
        ],
        "tokens": [
            *({"token": PERSON.format(each), "user": f"person-{each + 1}"} for each in range(20)),
            {"token": "quiet-person", "user": "person-1000"},
            {
                "token": PROGRAM,
                "organization": "loud",
                "name": "program",
                "kind": "service",
                "act_as": True,
                "scopes": ["org:read", "project:read", "project:write", "alerts:read", "alerts:write", "event:write"],
            },
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
