"""Ten thousand requests that must be refused: none causes a 5xx, and none changes a table."""

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


@pytest.mark.slow
@pytest.mark.timeout(600 * TIMES)
@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("shard", range(SHARDS))
def test_hostile_requests_cause_no_errors_and_change_nothing(
    unlimited_gateway: Gateway, ledger: Engine, shard: int
) -> None:
    operations = operations_of(unlimited_gateway.get("/openapi.json", by=None).json())
    before = table_digests(ledger)

    responses = asyncio.run(send_all(unlimited_gateway, operations, Random(SEED * SHARDS + shard)))

    assert responses.total() * SHARDS >= 10_000
    assert not [status for status in responses if status >= 500]
    assert table_digests(ledger) == before
    assert unlimited_gateway.get("/readyz", by=None).status_code == 200


def table_digests(engine: Engine) -> dict[str, tuple[int, str]]:
    """Return the number of rows and a digest of the contents of every table."""
    with engine.connect() as connection:
        names = connection.exec_driver_sql(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
        ).scalars()
        digest = "SELECT count(*), coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM \"{}\" AS t"
        return {name: tuple(connection.exec_driver_sql(digest.format(name)).one()) for name in sorted(names)}


async def send_all(gateway: Gateway, operations: list[Operation], rng: Random) -> Counter[int]:
    """Send all requests over several connections; return the number of responses by status (0: connection closed)."""
    responses: Counter[int] = Counter()
    requests = islice(hostile_requests(operations, rng), WELL_FORMED_PER_SHARD)
    malformed = iter([malformed_http(operations, rng) for _ in range(MALFORMED_PER_SHARD)])
    port = int(gateway.url.rpartition(":")[2])
    await asyncio.gather(
        *(send_well_formed(port, requests, responses) for _ in range(CONNECTIONS)),
        *(send_malformed(port, malformed, responses) for _ in range(MALFORMED_CONNECTIONS)),
    )
    return responses


async def send_well_formed(port: int, requests: Iterator[Request], responses: Counter[int]) -> None:
    """Send requests over one connection for as long as the gateway keeps it open."""
    connection: Any = None
    for request in requests:
        if connection is None:
            connection = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = connection
        with contextlib.suppress(ConnectionError):
            writer.write(request.content)
            await writer.drain()
        status, keep_alive = await asyncio.wait_for(read_status(reader, request.method), RESPONSE_TIMEOUT_SECONDS)
        responses[status] += 1
        assert status < 500, request.content[:2_000]
        assert not request.is_write or status == 0 or status >= 400, request.content[:2_000]
        if not keep_alive:
            writer.close()
            connection = None
    if connection is not None:
        connection[1].close()


async def send_malformed(port: int, malformed: Iterator[bytes], responses: Counter[int]) -> None:
    """Send each message over its own connection and close the sending side."""
    for sent in malformed:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        # The gateway may have closed the connection already.
        with contextlib.suppress(OSError):
            writer.write(sent)
            writer.write_eof()
        status, _ = await asyncio.wait_for(read_status(reader, "POST"), RESPONSE_TIMEOUT_SECONDS)
        responses[status] += 1
        assert status == 0 or 200 <= status < 500, sent[:2_000]
        writer.close()


async def read_status(reader: asyncio.StreamReader, method: str) -> tuple[int, bool]:
    """Read a response; return its status and whether the connection stays open, or (0, False) without a response."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        fields = dict(line.partition(b": ")[::2] for line in head.split(b"\r\n")[1:])
        if method != "HEAD" and status not in (204, 304):
            await reader.readexactly(int(fields.get(b"content-length", 0)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0, False
    return status, fields.get(b"connection") != b"close"
