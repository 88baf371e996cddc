"""The two clients: :class:`Tocsin` blocks the calling thread, :class:`AsyncTocsin` is for asyncio.

They share everything except the I/O.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from datetime import datetime
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, cast, overload

import httpx2

from tocsin_client._protocol import EventCursor, Flow, FlowRun, HttpProtocol, NoResponse, Pause, Request, Response, Step
from tocsin_client.commands import Command, MuteIncident, UnmuteIncident
from tocsin_client.results import CommandRecord, Decision, Event, Outcome, Preferences

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Http = TypeVar("Http", httpx2.Client, httpx2.AsyncClient)


class _Method(Protocol[P, T_co]):
    """A method of both clients. It returns a result in :class:`Tocsin`, and a coroutine in :class:`AsyncTocsin`."""

    @overload
    def __get__(self, client: Tocsin, owner: type) -> Callable[P, T_co]: ...
    @overload
    def __get__(self, client: AsyncTocsin, owner: type) -> Callable[P, Coroutine[Any, Any, T_co]]: ...


def _run_flow(make_flow: Callable[Concatenate[Any, P], Flow[T]]) -> _Method[P, T]:
    """Turn a function that returns a flow into a method that runs the flow with its client's I/O."""

    @wraps(make_flow)
    def method(client: Tocsin | AsyncTocsin, *args: P.args, **kwargs: P.kwargs) -> T | Coroutine[Any, Any, T]:
        return client._run(make_flow(client, *args, **kwargs))

    return cast("_Method[P, T]", method)


class _Client(Generic[Http]):
    _make_http: Callable[[], Http]

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        organization: str,
        act_as: int | None = None,
        patience_seconds: float = 60.0,
        strict: bool = True,
        http: Http | None = None,
    ) -> None:
        """Set up a client for one organization, given by its slug.

        ``act_as`` is the id of the member for whom a service acts. A request that no server accepts is retried for
        ``patience_seconds``. If ``strict`` is false, fields of commands that the server does not know are ignored
        instead of refused. ``http`` is the HTTP client to use, for example one with TLS settings; :meth:`close`
        closes it.
        """
        self._protocol = HttpProtocol(token, organization, act_as, patience_seconds, strict)
        self._base_url = base_url.rstrip("/")
        self._http: Http = http or self._make_http()

    @_run_flow
    def post(self, command: Command, *, key: str | None = None, wait: float = 30.0) -> Flow[Outcome]:
        """Submit a command and wait up to ``wait`` seconds for its outcome.

        The request carries an idempotency key, which is ``key`` or a new one, and is retried with that key until a
        server accepts it, so the command takes effect only once.

        :raises Refused: if the request is refused, or if the command is refused when it is applied.
        :raises Failed: if the server fails, for example because every attempt to apply the command failed.
        :raises TimedOut: if the command has been accepted, but has no outcome yet.
        :raises Unreachable: if no server accepted the request.
        """
        return self._protocol.post(command, key=key, wait=wait)

    @_run_flow
    def submit(self, command: Command, *, key: str | None = None) -> Flow[CommandRecord]:
        """Submit a command and return its record once it is accepted. ``key`` and the errors are as in :meth:`post`."""
        return self._protocol.submit(command, key=key)

    @_run_flow
    def bulk(
        self, commands: Sequence[Command], *, key: str | None = None, wait: float | None = None
    ) -> Flow[list[CommandRecord]]:
        """Submit up to 1,000 commands and return their records in the same order.

        Either all commands are accepted or none, and commands with the same subject are applied in order.

        If ``wait`` is set, wait up to that many seconds until every command has an outcome. A command that was rejected
        or failed does not raise an error here, but is shown by the ``status`` and ``outcome`` of its record.

        :raises Refused: if the request is refused. No command has been accepted then.
        :raises TimedOut: if some commands have no outcome after ``wait`` seconds.
        :raises Unreachable: if no server accepted the request.
        """
        return self._protocol.bulk(commands, key=key, wait=wait)

    @_run_flow
    def wait(self, command: CommandRecord | str, *, seconds: float = 30.0) -> Flow[Outcome]:
        """Wait for the outcome of an accepted command, given by its record or id. The errors are as in :meth:`post`."""
        return self._protocol.wait(_id_of(command), seconds=seconds)

    @_run_flow
    def record(self, command: CommandRecord | str) -> Flow[CommandRecord]:
        """Return the current record of a command, given by its id or an earlier record."""
        return self._protocol.record(_id_of(command))

    @_run_flow
    def read(self, path: str, /, **query: str | int) -> Flow[Any]:
        """Return the JSON of a resource; ``path`` is relative to the organization, for example ``incidents/1/``.

        :raises Refused: if the resource does not exist, or the caller may not read it.
        :raises Unreachable: if no server responded.
        """
        return self._protocol.read(path, query)

    @_run_flow
    def explain(self, notification: int | str) -> Flow[list[Decision]]:
        """Return why the caller has this notification in their inbox: the decisions on its activity, newest first.

        ``notification`` is an id in the caller's inbox.

        :raises Refused: if the inbox has no such notification that the caller may read.
        :raises Unreachable: if no server responded.
        """
        return self._protocol.explain(str(notification))

    @_run_flow
    def preferences(self) -> Flow[Preferences]:
        """Return the caller's preferences for messages, with their version.

        :raises Refused: if the caller is not a person and does not act for one.
        :raises Unreachable: if no server responded.
        """
        return self._protocol.preferences()

    @_run_flow
    def replace_preferences(
        self,
        document: Mapping[str, Any],
        *,
        version: str | None = None,
        key: str | None = None,
        wait: float = 30.0,
    ) -> Flow[Outcome]:
        """Replace the caller's preferences for messages; the outcome's body is the new document.

        What the document omits gets its default, except the muted incidents. If ``version`` is set, to that of
        :meth:`preferences`, preferences that have changed since are not replaced. ``key``, ``wait`` and the errors are
        as in :meth:`post`.
        """
        return self._protocol.replace_preferences(document, version=version, key=key, wait=wait)

    @_run_flow
    def mute(self, incident: int | str, *, until: datetime | None = None, wait: float = 30.0) -> Flow[Outcome]:
        """Mute an incident for the caller, until a time or without end; ``wait`` and errors are as in :meth:`post`."""
        return self._protocol.post(MuteIncident(incident, until), key=None, wait=wait)

    @_run_flow
    def unmute(self, incident: int | str, *, wait: float = 30.0) -> Flow[Outcome]:
        """Unmute an incident for the caller. ``wait`` and the errors are as in :meth:`post`."""
        return self._protocol.post(UnmuteIncident(incident), key=None, wait=wait)

    @_run_flow
    def explain_incident(self, incident: int | str, *, user: int | None = None) -> Flow[list[Decision]]:
        """Return why a person was, or was not, notified of an incident's comments and status changes, newest first.

        ``incident`` is the incident's number. ``user`` is a person's id; only managers and owners may ask for others.
        Without it, the decisions are those about the caller.

        :raises Refused: if there is no such incident or person, or if the caller may not ask.
        :raises Unreachable: if no server responded.
        """
        return self._protocol.explain_incident(str(incident), user=user)

    def _arguments(self, request: Request) -> dict[str, Any]:
        """Return the request's arguments for ``httpx2.Client.request`` and ``stream``."""
        return {
            "method": request.method,
            "url": self._base_url + request.path,
            "headers": dict(request.headers),
            "content": request.body,
            "timeout": httpx2.Timeout(request.timeout, connect=5.0),
        }


class Tocsin(_Client[httpx2.Client]):
    """A blocking client. Use it as a context manager, or close it when done. Several threads may share it."""

    _make_http = httpx2.Client

    def follow(self, *, incident: int | str | None = None, last_id: str | None = None) -> Generator[Event, None, None]:
        """Yield every event once, as it happens, and reconnect after an interruption.

        ``incident`` selects the events of one incident, given by its number. ``last_id`` is the id of the last event
        already handled. If it is not set, the stream starts with the next event. Close the generator
        (``contextlib.closing``) to release its connection.

        :raises Refused: if the caller may not follow these events, or loses access.
        """
        cursor = EventCursor(self._protocol, incident=incident, last_id=last_id)
        while True:
            try:
                with self._http.stream(**self._arguments(cursor.request())) as response:
                    if response.status_code != 200:
                        response.read()
                    if cursor.opens(_parse(response)):
                        for message in httpx2.EventSource(response):
                            if event := cursor.advance(message.id, message.data):
                                yield event
            except httpx2.TransportError:
                pass
            time.sleep(cursor.backoff())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        run = FlowRun(flow)
        while run.step:
            run.resume(self._perform(run.step))
        return run.result

    def _perform(self, step: Step) -> Response | NoResponse | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            return _parse(self._http.request(**self._arguments(step)))
        except httpx2.TransportError as error:
            return _no_response(error)


class AsyncTocsin(_Client[httpx2.AsyncClient]):
    """A client for asyncio, with the methods of :class:`Tocsin` as coroutines.

    Use it as a context manager, or close it when done.
    """

    _make_http = httpx2.AsyncClient

    async def follow(
        self, *, incident: int | str | None = None, last_id: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """Yield every event once, as :meth:`Tocsin.follow` does. Close the generator with ``contextlib.aclosing``."""
        cursor = EventCursor(self._protocol, incident=incident, last_id=last_id)
        while True:
            try:
                async with self._http.stream(**self._arguments(cursor.request())) as response:
                    if response.status_code != 200:
                        await response.aread()
                    if cursor.opens(_parse(response)):
                        async for message in httpx2.EventSource(response):
                            if event := cursor.advance(message.id, message.data):
                                yield event
            except httpx2.TransportError:
                pass
            await asyncio.sleep(cursor.backoff())

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        run = FlowRun(flow)
        while run.step:
            run.resume(await self._perform(run.step))
        return run.result

    async def _perform(self, step: Step) -> Response | NoResponse | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return _parse(await self._http.request(**self._arguments(step)))
        except httpx2.TransportError as error:
            return _no_response(error)


def _parse(response: httpx2.Response) -> Response:
    headers = {name.lower(): value for name, value in response.headers.items()}
    body: Any = None
    if response.is_closed and response.content:
        try:
            body = response.json()
        except ValueError:
            body = response.text
    return Response(response.status_code, headers, body)


def _no_response(error: httpx2.TransportError) -> NoResponse:
    return NoResponse(f"{type(error).__name__}: {error}".rstrip(": "))


def _id_of(command: CommandRecord | str) -> str:
    return command.id if isinstance(command, CommandRecord) else command
