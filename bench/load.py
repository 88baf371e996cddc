"""The load: comments that mention a person, posted by a process of its own which costs little itself.

``python -m bench.load`` reads an :class:`Order` as JSON from standard input and prints a JSON answer. The client speaks
just enough HTTP/1.1 for two servers on loopback: keep-alive, ``Content-Length``, one request at a time per connection.
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
class Order:
    """What to post, how often, and how to see its effect.

    ``people`` are ids, those with the tokens first. ``inbox_query`` finds the inbox row by the ``id`` of the answer;
    it is asked in mode ``latency`` only.
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
class Accepting:
    """How fast requests were answered; ``statuses`` counts the answers, ``latency_ms`` is under full load."""

    seconds: float
    statuses: dict[str, int]
    latency_ms: dict[str, float]
    generator_cpu_seconds: float


@dataclass(frozen=True)
class Latencies:
    """One request at a time: milliseconds from sending to the answer, and to the inbox row being visible."""

    statuses: dict[str, int]
    answer_ms: dict[str, float]
    inbox_ms: dict[str, float]


def requests(order: Order) -> Iterator[bytes]:
    """Ready-made requests: incidents in turn, each with one author and one other person who is mentioned.

    So its subscribers are these two, and every comment means exactly one inbox row, on any side and in any round.
    """
    prefer = f"Prefer: {order.prefer}\r\n" if order.prefer else ""
    for number in range(order.count):
        comment = f"Shard {number} answers again since the last deployment, please have a look at its queue."
        incident = number % order.incidents + 1
        author = incident % len(order.tokens)
        mentioned = order.people[(author + 1 + incident % (len(order.people) - 1)) % len(order.people)]
        body = json.dumps({"comment": comment, "mentions": [f"user:{mentioned}"]})
        yield (
            f"POST /api/0/organizations/{order.organization}/incidents/{incident}/comments/ HTTP/1.1\r\n"
            f"Host: {HOST}:{order.port}\r\n"
            f"Authorization: Bearer {order.tokens[author]}\r\n"
            f"Content-Type: application/json\r\n{prefer}"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


# --- many at once ----------------------------------------------------------------------------------------------


class _Run:
    """Requests left to send, and what was answered."""

    def __init__(self, order: Order) -> None:
        self.left = iter(list(requests(order)))
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.open = order.connections
        self.over = asyncio.get_running_loop().create_future()


class _Connection(asyncio.Protocol):
    """Sends the next request as soon as the last one is answered."""

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
        length = answer_length(self._received)
        if length is None or len(self._received) < length:
            return
        self._run.latencies.append(time.perf_counter() - self._began)
        self._run.statuses[self._received[9:12].decode()] += 1
        self._received = self._received[length:]
        self._waiting = False
        self._send_next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the caller names it
        if self._waiting:
            self._run.statuses["lost"] += 1
        self._run.open -= 1
        if not self._run.open:
            self._run.over.set_result(None)

    def _send_next(self) -> None:
        request = next(self._run.left, None)
        if request is None:
            self._transport.close()
            return
        self._waiting = True
        self._began = time.perf_counter()
        self._transport.write(request)


def answer_length(received: bytes) -> int | None:
    """How long the answer at the start of these bytes is, once its head is there."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = received[:end].lower()
    place = head.find(b"content-length:")
    length = 0 if place < 0 else int(head[place + 15 :].split(b"\r\n", 1)[0])
    return end + 4 + length


async def accept(order: Order) -> Accepting:
    """Post everything over all connections, as fast as it is answered."""
    run = _Run(order)
    loop = asyncio.get_running_loop()
    cpu_before, began = _cpu_seconds(), time.perf_counter()
    for _ in range(order.connections):
        await loop.create_connection(lambda: _Connection(run), HOST, order.port)
    await run.over
    seconds = time.perf_counter() - began
    cpu = _cpu_seconds() - cpu_before
    return Accepting(seconds, dict(run.statuses), quantiles(run.latencies), cpu)


# --- one at a time ---------------------------------------------------------------------------------------------


def latency(order: Order) -> Latencies:
    """Post one after the other; wait for each one's inbox row before the next."""
    statuses: Counter[str] = Counter()
    answers, inboxes = [], []
    with (
        psycopg.connect(order.database, autocommit=True, prepare_threshold=1) as database,
        socket.create_connection((HOST, order.port)) as server,
    ):
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request in requests(order):
            time.sleep(order.pause_seconds)
            began = time.perf_counter()
            server.sendall(request)
            status, body = _receive(server)
            answered = time.perf_counter()
            statuses[status] += 1
            if status not in ("201", "202"):
                continue
            answers.append(answered - began)
            if _wait_for_row(database, order.inbox_query, json.loads(body)["id"], within_seconds=10):
                inboxes.append(time.perf_counter() - began)
            else:
                statuses["no inbox row"] += 1
    return Latencies(dict(statuses), quantiles(answers), quantiles(inboxes))


def _receive(server: socket.socket) -> tuple[str, bytes]:
    received = b""
    while (length := answer_length(received)) is None or len(received) < length:
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
    """p50 and p99 in milliseconds; empty if nothing was measured."""
    if not seconds:
        return {}
    ranked = sorted(seconds)
    return {f"p{part}": round(1000 * ranked[min(len(ranked) * part // 100, len(ranked) - 1)], 2) for part in (50, 99)}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Carry out the order on standard input."""
    order = Order(**json.load(sys.stdin))
    result = latency(order) if order.mode == "latency" else uvloop.run(accept(order))
    json.dump(asdict(result), sys.stdout)


if __name__ == "__main__":
    main()
