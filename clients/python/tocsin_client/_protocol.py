"""The client side of tocsin's HTTP API without I/O: what to send, when to retry, and how to read the responses.

A flow is a generator. It yields a :class:`Request` or a :class:`Pause`, receives the :class:`Response` to a request or
:class:`NoResponse`, and returns its result. The two clients differ only in how they perform these steps.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

from tocsin_client.commands import Command
from tocsin_client.errors import Failed, Refused, TimedOut, Unreachable
from tocsin_client.results import CommandRecord, Decision, Event, Outcome, Preferences

MAX_WAIT_SECONDS: Final = 30
"""The longest time that the server lets one request wait for an outcome."""

RESPONSE_MARGIN_SECONDS: Final = 10.0
"""The time that a response may take in addition to the requested wait."""

STREAM_TIMEOUT_SECONDS: Final = 45.0
"""Three heartbeat intervals. An event stream that sends no data for this long is considered broken."""

FIRST_BACKOFF_SECONDS: Final = 0.2
MAX_BACKOFF_SECONDS: Final = 10.0

MAX_REMEMBERED_EVENTS: Final = 10_000

RETRYABLE_STATUSES: Final = frozenset({429, 502, 503, 504})
"""The response statuses after which a request is retried, because the gateway has not accepted it."""

PREFERENCES_PATH: Final = "/api/0/users/me/preferences/"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request. ``path`` starts at the server's root; ``timeout`` is in seconds."""

    method: str
    path: str
    headers: Mapping[str, str]
    timeout: float
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response. Header names are in lower case; ``body`` is parsed JSON, or text if it is not JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class NoResponse:
    """A connection failure before the response was complete."""

    reason: str


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait before the next request."""

    seconds: float


Step = Request | Pause
Reply = Response | NoResponse | None
Flow = Generator[Step, Reply, T]


class FlowRun(Generic[T]):
    """The execution of a flow.

    Perform ``step`` and resume with its reply until ``step`` is ``None``. Then ``result`` is set.
    """

    step: Step | None
    result: T

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self.resume(None)

    def resume(self, reply: Reply) -> None:
        """Send the flow the reply to its last step, and run it up to the next step or the end."""
        try:
            self.step = self._flow.send(reply)
        except StopIteration as end:
            self.step = None
            self.result = end.value


@dataclass(frozen=True)
class HttpProtocol:
    """The flows for one caller in one organization.

    ``act_as`` is the id of the member for whom a service acts. ``patience_seconds`` is the time limit for retrying one
    request. ``is_strict`` lets the server refuse commands with fields that it does not know.
    """

    token: str = field(repr=False)
    organization: str
    act_as: int | None = None
    patience_seconds: float = 60.0
    is_strict: bool = True
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    """Returns a random number from 0 to 1."""

    def post(self, command: Command, *, key: str | None, wait: float) -> Flow[Outcome]:
        """Submit a command and wait up to ``wait`` seconds for its outcome."""
        deadline = self.clock() + wait
        response = yield from self._submit(command, key, wait=wait)
        return (yield from self._outcome(response, deadline))

    def submit(self, command: Command, *, key: str | None) -> Flow[CommandRecord]:
        """Submit a command and return its record as soon as it is accepted."""
        response = yield from self._submit(command, key, wait=None)
        body = _checked_body(response)
        if response.status == 202:
            return CommandRecord.from_json(body)
        return (yield from self.record(response.headers["command-id"]))

    def bulk(self, commands: Sequence[Command], *, key: str | None, wait: float | None) -> Flow[list[CommandRecord]]:
        """Submit many commands in one request, so that either all or none are accepted, and return their records.

        If ``wait`` is set, wait up to that many seconds until every command has an outcome.
        """
        key = key or new_key()
        body = {"commands": [command.bulk_item() for command in commands]}
        deadline = self.clock() + (wait or 0)
        while True:
            remaining = None if wait is None else deadline - self.clock()
            # Repeating the request with its key changes nothing and returns the current records.
            request = self._request("POST", self.path("commands/"), body, key=key, wait=remaining)
            response = yield from self._send(request)
            records = [CommandRecord.from_json(each) for each in _checked_body(response)["commands"]]
            if wait is None or response.status == 200:
                return records
            if self.clock() >= deadline:
                raise TimedOut([record.id for record in records])

    def record(self, id_: str, *, wait: float | None = None) -> Flow[CommandRecord]:
        """Read a command's record, waiting up to ``wait`` seconds if the command has no outcome yet."""
        request = self._request("GET", f"/api/0/commands/{quote(id_, safe='')}/", wait=wait)
        response = yield from self._send(request)
        return CommandRecord.from_json(_checked_body(response))

    def wait(self, id_: str, *, seconds: float) -> Flow[Outcome]:
        """Wait for the outcome of a command."""
        deadline = self.clock() + seconds
        while True:
            record = yield from self.record(id_, wait=max(deadline - self.clock(), 0.0))
            if record.is_final:
                return outcome_of(record)
            if self.clock() >= deadline:
                raise TimedOut([id_])

    def read(self, path: str, query: Mapping[str, Any]) -> Flow[Any]:
        """Read one of the organization's resources and return its JSON."""
        parameters = "&".join(f"{quote(name, safe='')}={quote(str(value), safe='')}" for name, value in query.items())
        request = self._request("GET", self.path(path) + (f"?{parameters}" if parameters else ""))
        return _checked_body((yield from self._send(request)))

    def explain(self, notification: str) -> Flow[list[Decision]]:
        """Read the decisions behind a notification."""
        body = yield from self.read(f"notifications/{quote(notification, safe='')}/explain/", {})
        return [Decision.from_json(each) for each in body["decisions"]]

    def preferences(self) -> Flow[Preferences]:
        """Read the caller's preferences for messages."""
        response = yield from self._send(self._request("GET", PREFERENCES_PATH))
        return Preferences(_checked_body(response), response.headers["etag"])

    def replace_preferences(
        self, document: Mapping[str, Any], *, version: str | None, key: str | None, wait: float
    ) -> Flow[Outcome]:
        """Replace the caller's preferences and wait up to ``wait`` seconds for the outcome."""
        deadline = self.clock() + wait
        request = self._request("PUT", PREFERENCES_PATH, dict(document), key=key or new_key(), wait=wait)
        if version is not None:
            request = replace(request, headers={**request.headers, "If-Match": version})
        response = yield from self._send(request)
        return (yield from self._outcome(response, deadline))

    def explain_incident(self, incident: str, *, user: int | None) -> Flow[list[Decision]]:
        """Read the decisions about a person and an incident."""
        query = {} if user is None else {"user": user}
        body = yield from self.read(f"incidents/{quote(incident, safe='')}/explain/", query)
        return [Decision.from_json(each) for each in body["decisions"]]

    def path(self, suffix: str) -> str:
        """Return the path of one of the organization's resources."""
        return f"/api/0/organizations/{quote(self.organization, safe='')}/{suffix}"

    def headers(self) -> dict[str, str]:
        """Return the headers that every request carries: the credentials and the accepted media type."""
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
        return headers if self.act_as is None else headers | {"Act-As": f"user:{self.act_as}"}

    def backoff(self, attempt: int, *, at_least: float = 0.0) -> float:
        """Return the delay in seconds after an attempt (counted from 0). It grows exponentially and has jitter."""
        longest = min(FIRST_BACKOFF_SECONDS * 2.0**attempt, MAX_BACKOFF_SECONDS)
        return at_least + longest * (0.5 + self.jitter() / 2)

    def _outcome(self, response: Response, deadline: float) -> Flow[Outcome]:
        """Return the outcome in the response to a command or, if it has none yet, wait for it until ``deadline``."""
        if response.status == 202:
            record = CommandRecord.from_json(response.body)
            return (yield from self.wait(record.id, seconds=deadline - self.clock()))
        id_ = response.headers.get("command-id", "")
        return Outcome(id_, response.status, _checked_body(response), "idempotent-replayed" in response.headers)

    def _submit(self, command: Command, key: str | None, *, wait: float | None) -> Flow[Response]:
        key = key or new_key()
        payload = command.payload()
        # A command's own endpoint accepts incident numbers only, not deduplication keys.
        if command.route is not None and str(payload.get("incident", "0")).isdecimal():
            method, template = command.route
            body = {name: value for name, value in payload.items() if f"{{{name}}}" not in template}
            path = template.format_map({name: quote(str(value), safe="") for name, value in payload.items()})
            return (yield from self._send(self._request(method, self.path(path), body, key=key, wait=wait)))
        body = {"commands": [command.bulk_item()]}
        response = yield from self._send(self._request("POST", self.path("commands/"), body, key=key, wait=wait))
        return _single_response(response)

    def _request(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, wait: float | None = None
    ) -> Request:
        headers = self.headers()
        seconds = 0 if wait is None else max(0, min(round(wait), MAX_WAIT_SECONDS))
        if key is not None or wait is not None:
            headers["Prefer"] = f"wait={seconds}" if seconds else "respond-async"
        if key is not None and self.is_strict:
            headers["Prefer"] += ", handling=strict"
        if key is not None:
            headers |= {"Idempotency-Key": key, "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        return Request(method, path, headers, seconds + RESPONSE_MARGIN_SECONDS, content)

    def _send(self, request: Request) -> Flow[Response]:
        """Send a request, and retry it for up to ``patience_seconds`` until a server accepts or refuses it."""
        deadline = self.clock() + self.patience_seconds
        for attempt in count():
            reply = yield request
            if isinstance(reply, Response) and reply.status not in RETRYABLE_STATUSES:
                return reply
            pause = self.backoff(attempt, at_least=_retry_after(reply))
            if self.clock() + pause > deadline:
                raise Unreachable(_reason(reply), key=request.headers.get("Idempotency-Key"))
            yield Pause(pause)
        raise AssertionError("unreachable")  # pragma: no cover


class EventCursor:
    """A client's position in the event stream: where to resume, and which events have been received."""

    def __init__(self, protocol: HttpProtocol, *, incident: int | str | None, last_id: str | None) -> None:
        self._protocol = protocol
        self._incident = incident
        self._last_id = last_id
        self._seen_ids: OrderedDict[str, None] = OrderedDict()
        self._attempt = 0

    def request(self) -> Request:
        """Return the request that opens the stream after the last event."""
        headers = self._protocol.headers() | {"Accept": "text/event-stream"}
        if self._last_id is not None:
            headers["Last-Event-ID"] = self._last_id
        query = "" if self._incident is None else f"?incident={quote(str(self._incident), safe='')}"
        return Request("GET", self._protocol.path("events/") + query, headers, STREAM_TIMEOUT_SECONDS)

    def opens(self, response: Response) -> bool:
        """Return whether the response is an event stream. If not, the request should be retried.

        :raises Refused: if the caller may not follow these events.
        """
        if response.status in RETRYABLE_STATUSES or response.status >= 500:
            return False
        _checked_body(response)
        self._attempt = 0
        return True

    def advance(self, id_: str, data: str) -> Event | None:
        """Move past a message in the stream and return its event.

        Return ``None`` if the message has no event, or one that was received before.
        """
        self._last_id = id_ or self._last_id
        if not data or id_ in self._seen_ids:
            return None
        self._seen_ids[id_] = None
        if len(self._seen_ids) > MAX_REMEMBERED_EVENTS:
            self._seen_ids.popitem(last=False)
        return Event.from_json(json.loads(data))

    def backoff(self) -> float:
        """Return the delay in seconds before the stream is opened again."""
        self._attempt += 1
        return self._protocol.backoff(self._attempt - 1)


def new_key() -> str:
    """Return a new idempotency key."""
    return str(uuid.uuid4())


def outcome_of(record: CommandRecord) -> Outcome:
    """Return the outcome of a finished command.

    :raises Refused: if the command was rejected.
    :raises Failed: if the command is dead or was discarded.
    """
    if record.outcome is None:
        raise Failed(record.error or f"the command is {record.status}", command=record)
    if record.outcome.status >= 400:
        raise Refused(record.outcome.status, record.outcome.body, command_id=record.id)
    return record.outcome


def _checked_body(response: Response) -> Any:
    id_ = response.headers.get("command-id")
    if response.status >= 500:
        raise Failed(f"{response.status}: {response.body}", command_id=id_)
    # A redirect is a refusal, too: the token must not be sent to a server that the caller did not choose.
    if response.status >= 300:
        raise Refused(response.status, response.body or response.headers.get("location"), command_id=id_)
    return response.body


def _single_response(response: Response) -> Response:
    """Convert the response to a bulk request with one command into the response of the command's own endpoint."""
    if response.status not in (200, 202):
        return response
    resource = response.body["commands"][0]
    if response.status == 202:
        return Response(202, response.headers, resource)
    outcome = outcome_of(CommandRecord.from_json(resource))
    return Response(outcome.status, response.headers, outcome.body)


def _retry_after(reply: Reply) -> float:
    value = reply.headers.get("retry-after", "") if isinstance(reply, Response) else ""
    return float(value) if value.isdecimal() else 0.0


def _reason(reply: Reply) -> str:
    if isinstance(reply, Response):
        return f"{reply.status}: {reply.body}"
    return reply.reason if reply else "no request was sent"
