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
from typing import Any, Concatenate, Final, Generic, ParamSpec, Protocol, Self, TypeVar, cast, overload
from urllib.parse import quote

import httpx2

from tocsin_client import _reads
from tocsin_client._event_cursor import EventCursor
from tocsin_client._protocol import Flow, FlowRun, HttpProtocol, NoResponse, Pause, Request, Response, Step
from tocsin_client._reads import PagedRead
from tocsin_client.commands import Command, MuteIncident, UnmuteIncident
from tocsin_client.resources import Activity, Incident, Notification
from tocsin_client.results import CommandRecord, CommandRecords, Decision, Event, Outcome, Preferences

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Http = TypeVar("Http", httpx2.Client, httpx2.AsyncClient)

ENDED: Final = "the server ended it"


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


class _Iteration(Protocol[P, T_co]):
    """A method of both clients. It returns an iterator in :class:`Tocsin`, an asynchronous one in the other client."""

    @overload
    def __get__(self, client: Tocsin, owner: type) -> Callable[P, Generator[T_co, None, None]]: ...
    @overload
    def __get__(self, client: AsyncTocsin, owner: type) -> Callable[P, AsyncGenerator[T_co, None]]: ...


def _iterate(make_read: Callable[Concatenate[Any, P], PagedRead[T]]) -> _Iteration[P, T]:
    """Turn a function that returns a paged read into a method that iterates over the items of all pages."""

    @wraps(make_read)
    def method(client: Tocsin | AsyncTocsin, *args: P.args, **kwargs: P.kwargs) -> Any:
        return client._iterate(make_read(client, *args, **kwargs))

    return cast("_Iteration[P, T]", method)


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
        ``patience_seconds``, and at most as long as the call may wait. If ``strict`` is false, fields of commands and
        query parameters that the server does not know are ignored instead of refused. ``http`` is the HTTP client to
        use, for example one with TLS settings; :meth:`close` closes it.
        """
        self._protocol = HttpProtocol(token, organization, act_as, patience_seconds, strict)
        self._base_url = base_url.rstrip("/")
        self._http: Http = http or self._make_http()

    @_run_flow
    def post(self, command: Command, *, key: str | None = None, wait: float = 30.0) -> Flow[Outcome]:
        """Submit a command and wait up to ``wait`` seconds for its outcome.

        The request carries an idempotency key, which is ``key`` or a new one, and is retried with that key until a
        server accepts it, so the command takes effect only once. ``wait`` limits the whole call, retries included: no
        request begins later, and a server that does not respond ends the call 10 s later.

        :raises Refused: if the request is refused, or if the command is refused when it is applied.
        :raises Failed: if the server fails, for example because every attempt to apply the command failed.
        :raises TimedOut: if the command has been accepted, but has no outcome yet.
        :raises Unreachable: if no server accepted the request in time.
        """
        return self._protocol.post(command, key=key, wait=wait)

    @_run_flow
    def submit(self, command: Command, *, key: str | None = None) -> Flow[CommandRecord]:
        """Submit a command and return its record once it is accepted. ``key`` and the errors are as in :meth:`post`."""
        return self._protocol.submit(command, key=key)

    @_run_flow
    def bulk(
        self, commands: Sequence[Command], *, key: str | None = None, wait: float | None = None
    ) -> Flow[CommandRecords]:
        """Submit up to 1,000 commands and return their records in the same order.

        Either all commands are accepted or none, and commands with the same subject are applied in order. Each can
        still be rejected when it is applied.

        If ``wait`` is set, wait up to that many seconds, as in :meth:`post`, until every command has an outcome. A
        command that was rejected or failed does not raise an error here: call ``raise_for_refused()`` on the result, or
        read the ``status`` and ``outcome`` of each record.

        :raises Refused: if the request is refused. No command has been accepted then.
        :raises TimedOut: if some commands have no outcome after ``wait`` seconds.
        :raises Unreachable: if no server accepted the request in time.
        """
        return self._protocol.bulk(commands, key=key, wait=wait)

    @_run_flow
    def wait(self, command: CommandRecord | str, *, seconds: float = 30.0) -> Flow[Outcome]:
        """Wait for the outcome of an accepted command, given by its record or id.

        ``seconds`` limits the whole call, as ``wait`` does in :meth:`post`. Until then, requests are retried even if
        no server responds.

        :raises Refused: if the command was refused when it was applied, or if the caller may not read it.
        :raises Failed: if the server fails, for example because every attempt to apply the command failed.
        :raises TimedOut: if the command has no outcome yet. If no server responded, the error's cause says why.
        """
        return self._protocol.wait(_id_of(command), until=self._protocol.clock() + seconds)

    @_run_flow
    def record(self, command: CommandRecord | str) -> Flow[CommandRecord]:
        """Return the current record of a command, given by its id or an earlier record."""
        return self._protocol.record(_id_of(command))

    @_iterate
    def commands(
        self, *, states: Sequence[str] | None = None, types: Sequence[str] | None = None
    ) -> PagedRead[CommandRecord]:
        """Iterate over the commands that the caller has submitted in this organization, newest first.

        ``states`` selects among accepted, applied, rejected, dead and discarded, ``types`` among the names of commands,
        such as ``comment.post``. The list is read page by page, as far as it is iterated over.

        :raises Refused: if the caller may not read it, or a filter has an unknown value.
        :raises Unreachable: if no server responded.
        """
        return PagedRead("commands/", {"state": states, "type": types}, CommandRecord.from_json)

    @_run_flow
    def cancel(self, command: CommandRecord | str) -> Flow[CommandRecord]:
        """Cancel one of the caller's commands, given by its record or id, and return its record: it is discarded.

        :raises Refused: with the status 409, if a worker has begun to apply the command, or it is already finished.
        :raises Unreachable: if no server responded. The command may be cancelled nevertheless.
        """
        return self._protocol.cancel(_id_of(command))

    @_run_flow
    def read(self, path: str, /, **query: str | int | Sequence[str | int] | None) -> Flow[Any]:
        """Return the JSON of a resource; ``path`` is relative to the organization, for example ``teams/``.

        A query parameter with several values is repeated; one that is ``None`` is left out.

        :raises Refused: if the resource does not exist, or the caller may not read it.
        :raises Unreachable: if no server responded.
        """
        return _reads.read(self._protocol, path, query)

    @_run_flow
    def incident(self, number: int | str) -> Flow[Incident]:
        """Return an incident, given by its number. The errors are as in :meth:`read`."""
        return _reads.incident(self._protocol, str(number))

    @_iterate
    def incidents(
        self,
        *,
        status: str | None = None,
        projects: Sequence[str] | None = None,
        title: str | None = None,
        dedup_key: str | None = None,
    ) -> PagedRead[Incident]:
        """Iterate over incidents, those that started last first.

        The list is read page by page, as far as it is iterated over. ``status`` is ``open`` (every status but closed),
        ``warning``, ``critical`` or ``closed``. ``projects`` holds slugs, or ``["$all"]``; by default, the list has the
        projects of the caller's teams, or all projects for a service. ``title`` is a part of the title in any case.
        ``dedup_key`` finds one incident: the open one with that key, or else the latest. The errors are as in
        :meth:`read`.
        """
        query = {"status": status, "projectSlug": projects, "title": title, "dedupKey": dedup_key}
        return PagedRead("incidents/", query, Incident.from_json)

    @_iterate
    def activities(self, incident: int | str, *, oldest_first: bool = False) -> PagedRead[Activity]:
        """Iterate over the activities on an incident, given by its number, newest first unless ``oldest_first`` is set.

        The list is read page by page, as far as it is iterated over. The errors are as in :meth:`read`.
        """
        query = {"desc": "0" if oldest_first else "1"}
        return PagedRead(f"incidents/{quote(str(incident), safe='')}/activity/", query, Activity.from_json)

    @_iterate
    def inbox(self, *, unread: bool = False) -> PagedRead[Notification]:
        """Iterate over the caller's notifications in this organization, newest first.

        ``unread`` leaves out those that have been read or retracted. The list is read page by page, as far as it is
        iterated over.

        :raises Refused: if the caller is not a person and does not act for one.
        :raises Unreachable: if no server responded.
        """
        return PagedRead("notifications/", {"unread": "1" if unread else None}, Notification.from_json)

    @_run_flow
    def explain(self, notification: int | str) -> Flow[list[Decision]]:
        """Return why the caller has this notification in their inbox: the decisions on its activity, newest first.

        ``notification`` is an id in the caller's inbox.

        :raises Refused: if the inbox has no such notification that the caller may read.
        :raises Unreachable: if no server responded.
        """
        return _reads.explain(self._protocol, str(notification))

    @_run_flow
    def preferences(self) -> Flow[Preferences]:
        """Return the caller's preferences for messages, with their version.

        :raises Refused: if the caller is not a person and does not act for one.
        :raises Unreachable: if no server responded.
        """
        return _reads.preferences(self._protocol)

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
        return _reads.replace_preferences(self._protocol, document, version=version, key=key, wait=wait)

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
        return _reads.explain_incident(self._protocol, str(incident), user=user)

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

    def follow(
        self, *, incident: int | str | None = None, last_id: str | None = None, from_start: bool = False
    ) -> Generator[Event, None, None]:
        """Yield every event once, as it happens, and reconnect after an interruption.

        ``incident`` selects the events of one incident, given by its number. ``last_id`` is the id of the last event
        already handled. Without it, the stream starts with the next event or, if ``from_start`` is true, with the
        events of the last 24 hours, which is as long as the server keeps them for streams. Close the generator
        (``contextlib.closing``) to release its connection.

        Interruptions and reconnections are logged by the logger ``tocsin_client``.

        :raises Refused: if the caller may not follow these events, or loses access.
        :raises ValueError: if both ``last_id`` and ``from_start`` are given.
        """
        cursor = EventCursor(self._protocol, incident=incident, last_id=last_id, from_start=from_start)
        while True:
            reason = ENDED
            try:
                with self._http.stream(**self._arguments(cursor.request())) as response:
                    if response.status_code != 200:
                        response.read()
                    if cursor.opens(_parse(response)):
                        for message in httpx2.EventSource(response):
                            if event := cursor.advance(message.id, message.data):
                                yield event
                    else:
                        reason = f"{response.status_code}"
            except httpx2.TransportError as error:
                reason = _no_response(error).reason
            time.sleep(cursor.backoff(reason))

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

    def _iterate(self, paged: PagedRead[T]) -> Generator[T, None, None]:
        cursor = None
        while True:
            page = self._run(_reads.read_page(self._protocol, paged, cursor))
            yield from page.items
            if (cursor := page.next_cursor) is None:
                return

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
        self, *, incident: int | str | None = None, last_id: str | None = None, from_start: bool = False
    ) -> AsyncGenerator[Event, None]:
        """Yield every event once, as :meth:`Tocsin.follow` does. Close the generator with ``contextlib.aclosing``."""
        cursor = EventCursor(self._protocol, incident=incident, last_id=last_id, from_start=from_start)
        while True:
            reason = ENDED
            try:
                async with self._http.stream(**self._arguments(cursor.request())) as response:
                    if response.status_code != 200:
                        await response.aread()
                    if cursor.opens(_parse(response)):
                        async for message in httpx2.EventSource(response):
                            if event := cursor.advance(message.id, message.data):
                                yield event
                    else:
                        reason = f"{response.status_code}"
            except httpx2.TransportError as error:
                reason = _no_response(error).reason
            await asyncio.sleep(cursor.backoff(reason))

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

    async def _iterate(self, paged: PagedRead[T]) -> AsyncGenerator[T, None]:
        cursor = None
        while True:
            page = await self._run(_reads.read_page(self._protocol, paged, cursor))
            for item in page.items:
                yield item
            if (cursor := page.next_cursor) is None:
                return

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
