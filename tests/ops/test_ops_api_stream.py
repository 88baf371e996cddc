"""The live stream shows the overview and the queues to operators, from one poll for all streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway.operations_service import Snapshot
from gateway.stream.operations import MAX_STREAMS_PER_CALLER, OperationsBroadcaster
from models.refusals import TooManyRequests, Unauthenticated, Unavailable
from tests.harness import Harness
from tests.http.gateway_server import Gateway

STREAM = "/ops/api/stream/"


def events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in response.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def test_a_stream_sends_the_overview_and_the_queues(gateway: Gateway) -> None:
    with gateway.client("dev-viewer") as client, client.stream("GET", STREAM) as response:
        received = events(response)
        (first, overview), (second, queues) = next(received), next(received)

    assert response.headers["content-type"] == "text/event-stream"
    assert (first, second) == ("overview", "queues")
    assert overview["broker"]["status"] == "ok"
    assert [queue["name"] for queue in queues] == ["commands", "bulk", "deliveries"]


@pytest.mark.parametrize(("by", "status"), [(None, 401), ("dev-mem", 403)])
def test_others_cannot_open_a_stream(gateway: Gateway, by: str | None, status: int) -> None:
    assert gateway.get(STREAM, by=by).status_code == status


def test_a_stream_ends_when_its_token_is_revoked(gateway: Gateway, harness: Harness) -> None:
    broadcaster = gateway.app.state.container.operations_stream
    broadcaster.recheck_seconds = broadcaster.poll_seconds = 0.05

    with gateway.client("dev-viewer") as client, client.stream("GET", STREAM) as response:
        received = events(response)
        next(received)
        with harness.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE tokens SET revoked_at = now() WHERE name = 'vera'")
        for _ in received:
            pass

    assert response.is_stream_consumed


def _snapshot(waiting: int) -> Snapshot:
    return Snapshot({"waiting": waiting}, [])  # type: ignore[typeddict-item]


async def _allowed() -> None:
    return None


async def _next(stream: Any) -> bytes:
    chunk: bytes = await anext(stream)
    return chunk


def test_one_poll_serves_all_streams_and_ends_with_the_last_one() -> None:
    async def scenario() -> None:
        reads = 0

        async def read() -> Snapshot:
            nonlocal reads
            reads += 1
            return _snapshot(reads)

        broadcaster = OperationsBroadcaster(read)
        broadcaster.poll_seconds = 3_600
        streams = [broadcaster.open("ops:1", _allowed) for _ in range(3)]
        for stream in streams:
            chunks = aiter(stream)
            assert await _next(chunks) == b"retry: 2000\n\n"
            assert b'event: overview\ndata: {"waiting":1}' in await _next(chunks)
            await chunks.aclose()
        late = aiter(broadcaster.open("ops:2", _allowed))
        await _next(late)
        assert b'"waiting":1' in await _next(late)
        await late.aclose()
        assert reads == 1
        await broadcaster.stop()

    asyncio.run(scenario())


def test_a_slow_client_gets_only_the_newest_state() -> None:
    async def scenario() -> None:
        numbers = iter(range(1, 1_000))
        is_third = asyncio.Event()

        async def read() -> Snapshot:
            number = next(numbers)
            if number == 4:
                is_third.set()
                await asyncio.Event().wait()
            return _snapshot(number)

        broadcaster = OperationsBroadcaster(read)
        broadcaster.poll_seconds = 0
        chunks = aiter(broadcaster.open("ops:1", _allowed))
        await _next(chunks)
        await is_third.wait()
        assert b'"waiting":3' in await _next(chunks)
        await chunks.aclose()
        await broadcaster.stop()

    asyncio.run(scenario())


def test_a_stream_outlives_an_outage_of_the_database() -> None:
    async def scenario() -> None:
        outcomes: Iterator[Snapshot | None] = iter([None, _snapshot(7)])

        async def read() -> Snapshot:
            found = next(outcomes, _snapshot(8))
            if found is None:
                raise Unavailable
            return found

        async def unavailable() -> None:
            raise Unavailable

        broadcaster = OperationsBroadcaster(read)
        broadcaster.poll_seconds, broadcaster.recheck_seconds = 0.01, 0
        chunks = aiter(broadcaster.open("ops:1", unavailable))
        await _next(chunks)
        assert await _next(chunks) == b": the database is unavailable\n\n"
        assert b"overview" in await _next(chunks)
        await chunks.aclose()
        await broadcaster.stop()

    asyncio.run(scenario())


def test_a_caller_has_a_limited_number_of_streams_and_closing_ends_them() -> None:
    async def scenario() -> None:
        async def read() -> Snapshot:
            return _snapshot(1)

        async def lost() -> None:
            raise Unauthenticated

        broadcaster = OperationsBroadcaster(read)
        streams = [broadcaster.open("ops:1", lost) for _ in range(MAX_STREAMS_PER_CALLER)]
        with pytest.raises(TooManyRequests):
            broadcaster.open("ops:1", lost)
        streams[0].close()
        broadcaster.open("ops:1", lost)
        broadcaster.close_streams()
        with pytest.raises(Unavailable):
            broadcaster.open("ops:2", lost)
        await broadcaster.stop()

    asyncio.run(scenario())
