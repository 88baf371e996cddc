"""The two clients: the same conversations, carried by threads or by tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from tocsin_client.asking import Answer, Asking, Conversation, Pause, Request, Silence, Trail
from tocsin_client.orders import Order
from tocsin_client.results import Command, Event, Outcome

T = TypeVar("T")


class Tocsin:
    """A caller of tocsin, for threads. Use it as a context, or close it; it may be shared between threads."""

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        organization: str,
        act_as: int | None = None,
        patience_seconds: float = 60.0,
        http: httpx2.Client | None = None,
    ) -> None:
        """``act_as`` is the user a service speaks for; ``patience_seconds`` how long to look for an answer."""
        self._asking = Asking(token, organization, act_as, patience_seconds)
        self._base_url = base_url.rstrip("/")
        self._http = http or httpx2.Client()

    def post(self, order: Order, *, key: str | None = None, wait: float = 30.0) -> Outcome:
        """Ask for something and wait ``wait`` seconds for its outcome.

        It goes out with an Idempotency-Key (``key``, or one made for it) and is repeated with that key while nobody
        takes it, so it has one effect.

        :raises Refused: it was refused, at the door or when it was applied.
        :raises Failed: it is dead: a fault outlived its retries.
        :raises TimedOut: it is accepted, and has not ended yet.
        :raises Unreachable: nobody took it.
        """
        return self._run(self._asking.post(order, key=key, wait=wait))

    def send(self, order: Order, *, key: str | None = None) -> Command:
        """Ask for something and return as soon as it is accepted; see :meth:`post` for keys and errors."""
        return self._run(self._asking.send(order, key=key))

    def bulk(self, orders: Sequence[Order], *, key: str | None = None, wait: float | None = None) -> list[Command]:
        """Ask for up to 1,000 things at once: all are accepted or none. Commands come back in the order of the orders.

        With ``wait`` they have all ended, each in its own way: look at ``status`` and ``outcome``.
        """
        return self._run(self._asking.bulk(orders, key=key, wait=wait))

    def wait(self, command: Command | str, *, seconds: float = 30.0) -> Outcome:
        """Wait for the outcome of a command; see :meth:`post` for errors."""
        return self._run(self._asking.wait(_id_of(command), seconds=seconds))

    def command(self, command: Command | str) -> Command:
        """What became of a command, as of now."""
        return self._run(self._asking.command(_id_of(command)))

    def read(self, path: str, **query: str | int) -> Any:
        """Read an address of the organization, like ``incidents/1/``: its JSON."""
        return self._run(self._asking.read(path, query))

    def follow(self, *, incident: int | str | None = None, last_id: str | None = None) -> Generator[Event, None, None]:
        """Events as they happen, each once, for as long as you iterate; broken connections are taken up again.

        Its connection is given back when the generator is closed (``contextlib.closing``, ``aclosing``).

        :raises Refused: the caller may not follow, or not any more.
        """
        trail = Trail(self._asking, incident=incident, last_id=last_id)
        while True:
            try:
                with self._http.stream(**self._call(trail.request())) as response:
                    if response.status_code != 200:
                        response.read()
                    if trail.opened(_answer(response)):
                        for message in httpx2.EventSource(response):
                            if event := trail.take(message.id, message.data):
                                yield event
            except httpx2.TransportError:
                pass
            time.sleep(trail.pause())

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, conversation: Conversation[T]) -> T:
        heard: Answer | Silence | None = None
        while True:
            try:
                step = conversation.send(heard)
            except StopIteration as end:
                result: T = end.value
                return result
            heard = self._take(step)

    def _take(self, step: Request | Pause) -> Answer | Silence | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            return _answer(self._http.request(**self._call(step)))
        except httpx2.TransportError as error:
            return _silence(error)

    def _call(self, request: Request) -> dict[str, Any]:
        return _call(self._base_url, request)


class AsyncTocsin:
    """A caller of tocsin, for tasks: the methods of :class:`Tocsin`, to be awaited."""

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        organization: str,
        act_as: int | None = None,
        patience_seconds: float = 60.0,
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        """See :class:`Tocsin`."""
        self._asking = Asking(token, organization, act_as, patience_seconds)
        self._base_url = base_url.rstrip("/")
        self._http = http or httpx2.AsyncClient()

    async def post(self, order: Order, *, key: str | None = None, wait: float = 30.0) -> Outcome:
        """See :meth:`Tocsin.post`."""
        return await self._run(self._asking.post(order, key=key, wait=wait))

    async def send(self, order: Order, *, key: str | None = None) -> Command:
        """See :meth:`Tocsin.send`."""
        return await self._run(self._asking.send(order, key=key))

    async def bulk(
        self, orders: Sequence[Order], *, key: str | None = None, wait: float | None = None
    ) -> list[Command]:
        """See :meth:`Tocsin.bulk`."""
        return await self._run(self._asking.bulk(orders, key=key, wait=wait))

    async def wait(self, command: Command | str, *, seconds: float = 30.0) -> Outcome:
        """See :meth:`Tocsin.wait`."""
        return await self._run(self._asking.wait(_id_of(command), seconds=seconds))

    async def command(self, command: Command | str) -> Command:
        """See :meth:`Tocsin.command`."""
        return await self._run(self._asking.command(_id_of(command)))

    async def read(self, path: str, **query: str | int) -> Any:
        """See :meth:`Tocsin.read`."""
        return await self._run(self._asking.read(path, query))

    async def follow(
        self, *, incident: int | str | None = None, last_id: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """See :meth:`Tocsin.follow`."""
        trail = Trail(self._asking, incident=incident, last_id=last_id)
        while True:
            try:
                async with self._http.stream(**self._call(trail.request())) as response:
                    if response.status_code != 200:
                        await response.aread()
                    if trail.opened(_answer(response)):
                        async for message in httpx2.EventSource(response):
                            if event := trail.take(message.id, message.data):
                                yield event
            except httpx2.TransportError:
                pass
            await asyncio.sleep(trail.pause())

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, conversation: Conversation[T]) -> T:
        heard: Answer | Silence | None = None
        while True:
            try:
                step = conversation.send(heard)
            except StopIteration as end:
                result: T = end.value
                return result
            heard = await self._take(step)

    async def _take(self, step: Request | Pause) -> Answer | Silence | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return _answer(await self._http.request(**self._call(step)))
        except httpx2.TransportError as error:
            return _silence(error)

    def _call(self, request: Request) -> dict[str, Any]:
        return _call(self._base_url, request)


def _call(base_url: str, request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": base_url + request.path,
        "headers": dict(request.headers),
        "content": request.body,
        "timeout": httpx2.Timeout(request.timeout, connect=5.0),
    }


def _answer(response: httpx2.Response) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    body: Any = None
    if response.is_closed and response.content:
        try:
            body = response.json()
        except ValueError:
            body = response.text
    return Answer(response.status_code, headers, body)


def _silence(error: httpx2.TransportError) -> Silence:
    return Silence(f"{type(error).__name__}: {error}".rstrip(": "))


def _id_of(command: Command | str) -> str:
    return command.id if isinstance(command, Command) else command
