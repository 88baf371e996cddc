"""The small organization of the HTTP tests, and both clients behind one face."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tocsin_client import AsyncTocsin, Tocsin

from tests.http.conftest import acme, busy_worker, gateway, ledger, settings, worker
from tests.http.gateway_server import Gateway

__all__ = ["acme", "busy_worker", "gateway", "ledger", "settings", "worker"]


class Awaited:
    """An :class:`AsyncTocsin` whose methods are awaited for the test, in an event loop of its own."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._make(*given, **named))
        self._followed: list[AsyncGenerator[Any, None]] = []

    async def _make(self, *given: Any, **named: Any) -> AsyncTocsin:
        return AsyncTocsin(*given, **named)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *given, **named: self._runner.run(method(*given, **named))

    def follow(self, **named: Any) -> Iterator[Any]:
        events = self._client.follow(**named)
        self._followed.append(events)
        while True:
            yield self._runner.run(_next(events))

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *_: object) -> None:
        for events in self._followed:
            self._runner.run(events.aclose())
        self._runner.run(self._client.close())
        self._runner.close()


async def _next(events: AsyncGenerator[Any, None]) -> Any:
    return await anext(events)


Connect = Callable[..., Any]


@pytest.fixture(params=[Tocsin, Awaited], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Make a client of either kind; it is closed after the test."""
    with ExitStack() as clients:

        def make(url: str, token: str = "dev-mem", **named: Any) -> Any:
            return clients.enter_context(request.param(url, token, **{"organization": "acme", **named}))

        yield make


@pytest.fixture
def mem(connect: Connect, gateway: Gateway) -> Any:
    """Mem's client."""
    return connect(gateway.url)
