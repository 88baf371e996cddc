"""The loud caller of ``bench.neighbours``: a separate process that sends far more than one caller may.

``python -m bench.loud_caller`` reads a :class:`Loudness` as the first line of standard input. For each further line, it
is loud for a while and then prints the number of responses per status as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any, Final

import uvloop

from bench.load_generator import HOST, response_length

PEOPLE: Final = 200
"""How many people the loud organization has, for all of whom its program may act."""

PERSON: Final = "loud-{}"
"""The token of each of the first people. Each way of being loud has a person of its own, who owes nothing yet."""

PROGRAM: Final = "loud-program"
ROOT: Final = "/api/0/organizations/loud"
BODY_BYTES: Final = 8 * 1024 * 1024
TIMES: Final = 10
"""How many times its rate the caller sends."""


@dataclass(frozen=True)
class Loudness:
    """How the caller is loud: its way, the rate that it is allowed, and the incidents it may use.

    Nothing is applied on ``blocked_incident`` while the caller is loud, so that all who wait for it wait long.
    """

    way: str
    port: int
    token: str
    seconds: float
    rate: int
    incident: str
    blocked_incident: str


@dataclass(frozen=True)
class Way:
    """The requests of a way, how many per second are sent, and over how many connections.

    With ``stays_open``, responses are not awaited before the next request: each has a connection of its own.
    """

    requests: Iterator[bytes]
    per_second: float
    connections: int = 16
    stays_open: bool = False


def ways(loudness: Loudness) -> dict[str, Callable[[], Way]]:
    """Return all ways of being loud, by name."""
    often = float(TIMES * loudness.rate)
    incident = f"{ROOT}/incidents/{loudness.incident}/comments/"
    blocked = f"{ROOT}/incidents/{loudness.blocked_incident}/comments/"
    item = {"type": "comment.post", "incident": loudness.incident, "comment": "loud"}
    wrong_mentions = [f"nobody-{number}" for number in range(100)]

    def post(path: str, body: Any, *, token: str = loudness.token, **headers: Any) -> bytes:
        return _request("POST", path, json.dumps(body).encode(), token=token, **headers)

    def get(path: str, *, token: str = loudness.token) -> bytes:
        return _request("GET", path, token=token)

    return {
        "commands": lambda: Way(cycle([post(incident, {"comment": "loud"})]), often),
        "bulk": lambda: Way(cycle([post(f"{ROOT}/commands/", {"commands": [item] * loudness.rate})]), TIMES, 4),
        "mentions": lambda: Way(cycle([post(incident, {"comment": "loud", "mentions": wrong_mentions})]), often),
        "refused writes": lambda: Way(cycle([post(incident, {"comment": ""})]), often),
        "8 MiB bodies": lambda: Way(
            cycle([_request("POST", f"{ROOT}/commands/", each, token=loudness.token) for each in _bodies(item)]),
            TIMES,
            4,
        ),
        "lists of 7 MB": lambda: Way(cycle([get(f"{ROOT}/incidents/?project=-1&expand=activities")]), often, 8),
        "streams": lambda: Way(cycle([get(f"{ROOT}/events/")]), 50, stays_open=True),
        "long waits": lambda: Way(
            cycle([post(blocked, {"comment": "loud"}, prefer="wait=60")]), often, stays_open=True
        ),
        "wrong tokens": lambda: Way((get(f"{ROOT}/incidents/", token=f"wrong-{each}") for each in count()), often),
        "Act-As": lambda: Way(
            cycle([post(incident, {"comment": "loud"}, token=PROGRAM, act_as=each) for each in range(1, PEOPLE + 1)]),
            often,
        ),
    }


def _bodies(item: dict[str, str]) -> list[bytes]:
    """Return a valid body, one with too many values, one that is too deep, and one with a long item."""
    return [
        json.dumps({"commands": [item | {"comment": "x" * 60_000}] * (BODY_BYTES // 61_000)}).encode(),
        b'{"commands": [' + b"0," * (BODY_BYTES // 2 - 50) + b"0]}",
        b"[" * (BODY_BYTES - 50),
        b'{"commands": ["' + b"[," * (BODY_BYTES // 2 - 50) + b'"]}',
    ]


def _request(
    method: str, path: str, body: bytes = b"", *, token: str, act_as: int = 0, prefer: str = "respond-async"
) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\nPrefer: {prefer}\r\n"
    if act_as:
        head += f"Act-As: user:{act_as}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


class LoudCaller:
    """Sends the requests of a way at a steady pace, and counts the responses."""

    def __init__(self, way: Way, port: int) -> None:
        self._way = way
        self._port = port
        self.statuses: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """Be loud for a while, then close all connections."""
        self.statuses.clear()
        turns: asyncio.Queue[None] = asyncio.Queue()
        senders = [] if self._way.stays_open else [self._send_often(turns) for _ in range(self._way.connections)]
        tasks = [asyncio.create_task(each) for each in senders]
        loop = asyncio.get_running_loop()
        started, sent = loop.time(), 0
        while (elapsed := loop.time() - started) < seconds:
            due = int(elapsed * self._way.per_second) - sent
            sent += due
            for _ in range(due):
                if self._way.stays_open:
                    tasks.append(asyncio.create_task(self._send_once()))
                elif turns.qsize() < self._way.connections:
                    turns.put_nowait(None)
            await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _send_often(self, turns: asyncio.Queue[None]) -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(HOST, self._port)
                try:
                    while True:
                        await turns.get()
                        await self._exchange(reader, writer)
                finally:
                    writer.close()

    async def _send_once(self) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(HOST, self._port)
            try:
                await self._exchange(reader, writer)
                await reader.read()
            finally:
                writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(next(self._way.requests))
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        status = head[9:12].decode()
        is_final = status not in ("429", "503") or b"retry-after:" in head.lower()
        self.statuses[status if is_final else f"{status} without Retry-After"] += 1
        length = response_length(head) or 0
        await reader.readexactly(length - len(head))


async def main() -> None:
    """Be loud once per line of standard input."""
    loudness = Loudness(**json.loads(sys.stdin.readline()))
    caller = LoudCaller(ways(loudness)[loudness.way](), loudness.port)
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        await caller.run(loudness.seconds)
        print(json.dumps(caller.statuses), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
