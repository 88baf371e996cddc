"""Ten thousand requests that must be refused: none is a fault, and none leaves a trace in the tables."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Any, Final

import pytest
from sqlalchemy.engine import Engine

from tests.http.fuzz_settings import SEED, TIMES
from tests.http.gateway_server import Gateway
from tests.http.hostile_requests import Operation, Request, hostile_requests, operations_of, unreadable

PARTS: Final = 4
READABLE: Final = 2_350 * TIMES
UNREADABLE: Final = 150 * TIMES
CONNECTIONS: Final = 16
BREAKING: Final = 4
PATIENCE_SECONDS: Final = 120


@pytest.mark.timeout(600 * TIMES)
@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("part", range(PARTS))
def test_hostile_requests_cause_no_errors_and_change_nothing(
    unlimited_gateway: Gateway, ledger: Engine, part: int
) -> None:
    operations = operations_of(unlimited_gateway.get("/openapi.json", by=None).json())
    before = contents(ledger)

    answers = asyncio.run(bombard(unlimited_gateway, operations, Random(SEED * PARTS + part)))

    assert answers.total() * PARTS >= 10_000
    assert not [status for status in answers if status >= 500]
    assert contents(ledger) == before
    assert unlimited_gateway.get("/readyz", by=None).status_code == 200


def contents(engine: Engine) -> dict[str, tuple[int, str]]:
    """Every table: its number of rows, and a digest of all that stands in them."""
    with engine.connect() as connection:
        names = connection.exec_driver_sql(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
        ).scalars()
        digest = "SELECT count(*), coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM \"{}\" AS t"
        return {name: tuple(connection.exec_driver_sql(digest.format(name)).one()) for name in sorted(names)}


async def bombard(gateway: Gateway, operations: list[Operation], chance: Random) -> Counter[int]:
    """Send it all, several requests at a time; how often each status came back (0: the connection was closed)."""
    answers: Counter[int] = Counter()
    requests = islice(hostile_requests(operations, chance), READABLE)
    garbage = iter([unreadable(operations, chance) for _ in range(UNREADABLE)])
    port = int(gateway.url.rpartition(":")[2])
    await asyncio.gather(
        *(keep_sending(port, requests, answers) for _ in range(CONNECTIONS)),
        *(keep_breaking(port, garbage, answers) for _ in range(BREAKING)),
    )
    return answers


async def keep_sending(port: int, requests: Iterator[Request], answers: Counter[int]) -> None:
    """Requests on one connection, as long as the gateway keeps it."""
    connection: Any = None
    for request in requests:
        if connection is None:
            connection = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = connection
        with contextlib.suppress(ConnectionError):
            writer.write(request.sent)
            await writer.drain()
        status, goes_on = await asyncio.wait_for(answer_of(reader, request.method), PATIENCE_SECONDS)
        answers[status] += 1
        assert status < 500, request.sent[:2_000]
        assert not request.is_write or status == 0 or status >= 400, request.sent[:2_000]
        if not goes_on:
            writer.close()
            connection = None
    if connection is not None:
        connection[1].close()


async def keep_breaking(port: int, garbage: Iterator[bytes], answers: Counter[int]) -> None:
    """A connection for each; we stop in the middle, as whoever breaks off does."""
    for sent in garbage:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            writer.write(sent)
            writer.write_eof()
        status, _ = await asyncio.wait_for(answer_of(reader, "POST"), PATIENCE_SECONDS)
        answers[status] += 1
        assert status == 0 or 200 <= status < 500, sent[:2_000]
        writer.close()


async def answer_of(reader: asyncio.StreamReader, method: str) -> tuple[int, bool]:
    """The status of an answer, read to its end, and whether the connection goes on; (0, False) if there is none."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        fields = dict(line.partition(b": ")[::2] for line in head.split(b"\r\n")[1:])
        if method != "HEAD" and status not in (204, 304):
            await reader.readexactly(int(fields.get(b"content-length", 0)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0, False
    return status, fields.get(b"connection") != b"close"
