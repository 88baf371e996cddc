"""Fixtures: the organization that the HTTP tests use, and both clients behind one blocking interface."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tocsin_client import AsyncTocsin, Tocsin

from tests.http.conftest import acme, busy_worker, gateway, ledger, settings, worker
from tests.http.gateway_server import Gateway

__all__ = ["acme", "busy_worker", "gateway", "ledger", "settings", "worker"]


class BlockingAdapter:
    """An :class:`AsyncTocsin` in its own event loop, behind the interface of :class:`Tocsin`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._connect(*args, **kwargs))
        self._streams: list[AsyncGenerator[Any, None]] = []

    async def _connect(self, *args: Any, **kwargs: Any) -> AsyncTocsin:
        return AsyncTocsin(*args, **kwargs)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            return self._iterate(result) if isinstance(result, AsyncGenerator) else self._runner.run(result)

        return call

    def _iterate(self, stream: AsyncGenerator[Any, None]) -> Iterator[Any]:
        self._streams.append(stream)
        with contextlib.suppress(StopAsyncIteration):
            while True:
                yield self._runner.run(_next(stream))

    def __enter__(self) -> BlockingAdapter:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            self._runner.run(stream.aclose())
        self._runner.run(self._client.close())
        self._runner.close()


async def _next(stream: AsyncGenerator[Any, None]) -> Any:
    return await anext(stream)


Connect = Callable[..., Any]


@pytest.fixture(params=[Tocsin, BlockingAdapter], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """A function that creates clients, synchronous or asynchronous by parameter, which are closed after the test."""
    with ExitStack() as clients:

        def make_client(url: str, token: str = "dev-mem", **kwargs: Any) -> Any:
            return clients.enter_context(request.param(url, token, **{"organization": "acme", **kwargs}))

        yield make_client


@pytest.fixture
def mem(connect: Connect, gateway: Gateway) -> Any:
    """A client with Mem's token."""
    return connect(gateway.url)
