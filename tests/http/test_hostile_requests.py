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
from tests.http.hostile_requests import Operation, Request, hostile_requests, malformed_http, operations_of

SHARDS: Final = 4
WELL_FORMED_PER_SHARD: Final = 2_350 * TIMES
MALFORMED_PER_SHARD: Final = 150 * TIMES
CONNECTIONS: Final = 16
MALFORMED_CONNECTIONS: Final = 4
RESPONSE_TIMEOUT_SECONDS: Final = 120


@pytest.mark.timeout(600 * TIMES)
@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("part", range(SHARDS))
def test_hostile_requests_cause_no_errors_and_change_nothing(
    unlimited_gateway: Gateway, ledger: Engine, part: int
) -> None:
    operations = operations_of(unlimited_gateway.get("/openapi.json", by=None).json())
    before = table_digests(ledger)

    answers = asyncio.run(send_all(unlimited_gateway, operations, Random(SEED * SHARDS + part)))

    assert answers.total() * SHARDS >= 10_000
    assert not [status for status in answers if status >= 500]
    assert table_digests(ledger) == before
    assert unlimited_gateway.get("/readyz", by=None).status_code == 200


def table_digests(engine: Engine) -> dict[str, tuple[int, str]]:
    """Every table: its number of rows, and a digest of all that stands in them."""
    with engine.connect() as connection:
        names = connection.exec_driver_sql(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
        ).scalars()
        digest = "SELECT count(*), coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM \"{}\" AS t"
        return {name: tuple(connection.exec_driver_sql(digest.format(name)).one()) for name in sorted(names)}


async def send_all(gateway: Gateway, operations: list[Operation], chance: Random) -> Counter[int]:
    """Send it all, several requests at a time; how often each status came back (0: the connection was closed)."""
    answers: Counter[int] = Counter()
    requests = islice(hostile_requests(operations, chance), WELL_FORMED_PER_SHARD)
    garbage = iter([malformed_http(operations, chance) for _ in range(MALFORMED_PER_SHARD)])
    port = int(gateway.url.rpartition(":")[2])
    await asyncio.gather(
        *(send_well_formed(port, requests, answers) for _ in range(CONNECTIONS)),
        *(send_malformed(port, garbage, answers) for _ in range(MALFORMED_CONNECTIONS)),
    )
    return answers


async def send_well_formed(port: int, requests: Iterator[Request], answers: Counter[int]) -> None:
    """Requests on one connection, as long as the gateway keeps it."""
    connection: Any = None
    for request in requests:
        if connection is None:
            connection = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = connection
        with contextlib.suppress(ConnectionError):
            writer.write(request.content)
            await writer.drain()
        status, goes_on = await asyncio.wait_for(read_status(reader, request.method), RESPONSE_TIMEOUT_SECONDS)
        answers[status] += 1
        assert status < 500, request.content[:2_000]
        assert not request.is_write or status == 0 or status >= 400, request.content[:2_000]
        if not goes_on:
            writer.close()
            connection = None
    if connection is not None:
        connection[1].close()


async def send_malformed(port: int, garbage: Iterator[bytes], answers: Counter[int]) -> None:
    """A connection for each; we stop in the middle, as whoever breaks off does."""
    for sent in garbage:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            writer.write(sent)
            writer.write_eof()
        status, _ = await asyncio.wait_for(read_status(reader, "POST"), RESPONSE_TIMEOUT_SECONDS)
        answers[status] += 1
        assert status == 0 or 200 <= status < 500, sent[:2_000]
        writer.close()


async def read_status(reader: asyncio.StreamReader, method: str) -> tuple[int, bool]:
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
