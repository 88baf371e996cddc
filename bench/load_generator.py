"""The load generator: a separate process that posts comments, each of which mentions a person. It uses little CPU.

``python -m bench.load_generator`` reads a :class:`Load` as JSON from standard input and prints measurements as JSON. It
implements only as much HTTP/1.1 as the two systems need on loopback: keep-alive, ``Content-Length``, and one request at
a time per connection.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import psycopg
import uvloop

HOST = "127.0.0.1"
_POLL_SECONDS = 0.001


@dataclass(frozen=True)
class Load:
    """A load: what to post, how often, and how to observe the effect.

    ``people`` contains user ids, starting with the people who have tokens. ``inbox_query`` finds the inbox row by the
    ``id`` in the response, and is used only in mode ``latency``.
    """

    mode: Literal["accept", "latency"]
    port: int
    count: int
    connections: int
    organization: str
    incidents: int
    tokens: tuple[str, ...]
    people: tuple[int, ...]
    prefer: str | None = None
    database: str = ""
    inbox_query: str = ""
    pause_seconds: float = 0.02


@dataclass(frozen=True)
class AcceptFigures:
    """Measurements of concurrent requests: the number of responses per status, and the latency under full load."""

    seconds: float
    statuses: dict[str, int]
    latency_ms: dict[str, float]
    generator_cpu_seconds: float


@dataclass(frozen=True)
class LatencyFigures:
    """Measurements of requests that are sent one at a time.

    They are the number of responses per status, and the milliseconds until the response and until the inbox row.
    """

    statuses: dict[str, int]
    response_ms: dict[str, float]
    inbox_ms: dict[str, float]


def requests(load: Load) -> Iterator[bytes]:
    """Yield the bytes of each request, cycling through the incidents.

    All comments on an incident have the same author and mention the same other person. These two people are the
    incident's only subscribers, so every comment creates exactly one inbox row, in both systems and in every round.
    """
    prefer = f"Prefer: {load.prefer}\r\n" if load.prefer else ""
    for number in range(load.count):
        comment = f"Shard {number} answers again since the last deployment, please have a look at its queue."
        incident = number % load.incidents + 1
        author = incident % len(load.tokens)
        mentioned = load.people[(author + 1 + incident % (len(load.people) - 1)) % len(load.people)]
        body = json.dumps({"comment": comment, "mentions": [f"user:{mentioned}"]})
        yield (
            f"POST /api/0/organizations/{load.organization}/incidents/{incident}/comments/ HTTP/1.1\r\n"
            f"Host: {HOST}:{load.port}\r\n"
            f"Authorization: Bearer {load.tokens[author]}\r\n"
            f"Content-Type: application/json\r\n{prefer}"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


# --- concurrent requests ---------------------------------------------------------------------------------------


class _Run:
    """A run's remaining requests, and the responses received so far."""

    def __init__(self, load: Load) -> None:
        self.left = iter(list(requests(load)))
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.open = load.connections
        self.finished = asyncio.get_running_loop().create_future()


class _Connection(asyncio.Protocol):
    """A connection that sends the next request as soon as the last response is complete."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._received = b""
        self._began = 0.0
        self._waiting = False
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send_next()

    def data_received(self, data: bytes) -> None:
        self._received += data
        length = response_length(self._received)
        if length is None or len(self._received) < length:
            return
        self._run.latencies.append(time.perf_counter() - self._began)
        self._run.statuses[self._received[9:12].decode()] += 1
        self._received = self._received[length:]
        self._waiting = False
        self._send_next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names the parameter
        if self._waiting:
            self._run.statuses["lost"] += 1
        self._run.open -= 1
        if not self._run.open:
            self._run.finished.set_result(None)

    def _send_next(self) -> None:
        request = next(self._run.left, None)
        if request is None:
            self._transport.close()
            return
        self._waiting = True
        self._began = time.perf_counter()
        self._transport.write(request)


def response_length(received: bytes) -> int | None:
    """Return the length of the response at the start of the bytes, or ``None`` if its head is incomplete."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = received[:end].lower()
    position = head.find(b"content-length:")
    length = 0 if position < 0 else int(head[position + 15 :].split(b"\r\n", 1)[0])
    return end + 4 + length


async def measure_accept(load: Load) -> AcceptFigures:
    """Post comments over all connections. Each connection sends a request as soon as the previous response arrives."""
    run = _Run(load)
    loop = asyncio.get_running_loop()
    cpu_before, began = _cpu_seconds(), time.perf_counter()
    for _ in range(load.connections):
        await loop.create_connection(lambda: _Connection(run), HOST, load.port)
    await run.finished
    seconds = time.perf_counter() - began
    cpu = _cpu_seconds() - cpu_before
    return AcceptFigures(seconds, dict(run.statuses), quantiles(run.latencies), cpu)


# --- one at a time ---------------------------------------------------------------------------------------------


def measure_latency(load: Load) -> LatencyFigures:
    """Post one comment at a time, and wait for its inbox row before posting the next."""
    statuses: Counter[str] = Counter()
    responses, inboxes = [], []
    with (
        psycopg.connect(load.database, autocommit=True, prepare_threshold=1) as database,
        socket.create_connection((HOST, load.port)) as server,
    ):
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request in requests(load):
            time.sleep(load.pause_seconds)
            began = time.perf_counter()
            server.sendall(request)
            status, body = _receive(server)
            responded = time.perf_counter()
            statuses[status] += 1
            if status not in ("201", "202"):
                continue
            responses.append(responded - began)
            if _wait_for_row(database, load.inbox_query, json.loads(body)["id"], within_seconds=10):
                inboxes.append(time.perf_counter() - began)
            else:
                statuses["no inbox row"] += 1
    return LatencyFigures(dict(statuses), quantiles(responses), quantiles(inboxes))


def _receive(server: socket.socket) -> tuple[str, bytes]:
    received = b""
    while (length := response_length(received)) is None or len(received) < length:
        data = server.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        received += data
    return received[9:12].decode(), received[received.index(b"\r\n\r\n") + 4 :]


def _wait_for_row(database: psycopg.Connection[Any], query: str, id_: str, *, within_seconds: float) -> bool:
    deadline = time.perf_counter() + within_seconds
    while time.perf_counter() < deadline:
        if database.execute(query, (id_,)).fetchone():
            return True
        time.sleep(_POLL_SECONDS)
    return False


# --- figures ---------------------------------------------------------------------------------------------------


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Return p50 and p99 in milliseconds, or an empty dictionary if there are no measurements."""
    if not seconds:
        return {}
    ranked = sorted(seconds)
    return {f"p{cent}": round(1000 * ranked[min(len(ranked) * cent // 100, len(ranked) - 1)], 2) for cent in (50, 99)}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Read a load from standard input, run it, and print the measurements."""
    load = Load(**json.load(sys.stdin))
    figures = measure_latency(load) if load.mode == "latency" else uvloop.run(measure_accept(load))
    json.dump(asdict(figures), sys.stdout)


if __name__ == "__main__":
    main()
