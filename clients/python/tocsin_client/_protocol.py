"""The client side of tocsin's HTTP API without I/O: what to send, when to retry, and how to read the responses.

A flow is a generator. It yields a :class:`Request` or a :class:`Pause`, receives the :class:`Response` to a request or
:class:`NoResponse`, and returns its result. The two clients differ only in how they perform these steps.
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

from tocsin_client.commands import Command
from tocsin_client.errors import Failed, Refused, TimedOut, Unreachable
from tocsin_client.results import CommandRecord, CommandRecords, Outcome, outcome_of

MAX_WAIT_SECONDS: Final = 30
"""The longest time that the server lets one request wait for an outcome."""

RESPONSE_MARGIN_SECONDS: Final = 10.0
"""The time that a response may take in addition to the requested wait."""

FIRST_BACKOFF_SECONDS: Final = 0.2
MAX_BACKOFF_SECONDS: Final = 10.0

RETRYABLE_STATUSES: Final = frozenset({429, 502, 503, 504})
"""The response statuses after which a request is retried, because the gateway has not accepted it."""

T = TypeVar("T")

log = logging.getLogger("tocsin_client")


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
    request. ``is_strict`` lets the server refuse fields and query parameters that it does not know.
    """

    token: str = field(repr=False)
    organization: str
    act_as: int | None = None
    patience_seconds: float = 60.0
    is_strict: bool = True
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    """Returns a random number from 0 to 1."""

    # --- commands ----------------------------------------------------------------------------------------------

    def post(self, command: Command, *, key: str | None, wait: float) -> Flow[Outcome]:
        """Submit a command and wait up to ``wait`` seconds for its outcome."""
        return (yield from self.post_request(self.command_request(command, key), wait=wait))

    def post_request(self, request: Request, *, wait: float) -> Flow[Outcome]:
        """Send the request that submits a command, and wait up to ``wait`` seconds for the command's outcome."""
        until = self.clock() + wait
        response = _single_response((yield from self.send(request, until=until)))
        if response.status == 202:
            return (yield from self.wait(CommandRecord.from_json(response.body).id, until=until))
        id_ = response.headers.get("command-id", "")
        return Outcome(id_, response.status, checked_body(response), "idempotent-replayed" in response.headers)

    def submit(self, command: Command, *, key: str | None) -> Flow[CommandRecord]:
        """Submit a command and return its record as soon as it is accepted."""
        response = _single_response((yield from self.send(self.command_request(command, key))))
        body = checked_body(response)
        if response.status == 202:
            return CommandRecord.from_json(body)
        return (yield from self.record(response.headers["command-id"]))

    def bulk(self, commands: Sequence[Command], *, key: str | None, wait: float | None) -> Flow[CommandRecords]:
        """Submit many commands in one request, so that either all or none are accepted, and return their records.

        If ``wait`` is set, wait up to that many seconds until every command has an outcome.
        """
        body = {"commands": [command.bulk_item() for command in commands]}
        request = self.request("POST", self.path("commands/"), body, key=key or new_key())
        until = None if wait is None else self.clock() + wait
        accepted: list[str] = []
        for attempt in count():
            try:
                # Repeating the request with its key changes nothing and returns the current records.
                response = yield from self.send(request, until=until)
            except Unreachable as error:
                if accepted:
                    raise TimedOut(accepted) from error
                raise
            records = CommandRecords(map(CommandRecord.from_json, checked_body(response)["commands"]))
            if until is None or response.status == 200:
                return records
            accepted = [record.id for record in records]
            yield self._pause_before_poll(accepted, attempt, until)
        raise AssertionError("unreachable")  # pragma: no cover

    def record(self, id_: str) -> Flow[CommandRecord]:
        """Read a command's record."""
        response = yield from self.send(self.request("GET", _command_path(id_)))
        return CommandRecord.from_json(checked_body(response))

    def wait(self, id_: str, *, until: float) -> Flow[Outcome]:
        """Wait for the outcome of an accepted command until a time of the clock."""
        for attempt in count():
            try:
                response = yield from self.send(self.request("GET", _command_path(id_)), until=until, is_patient=True)
            except Unreachable as error:
                raise TimedOut([id_]) from error
            record = CommandRecord.from_json(checked_body(response))
            if record.is_final:
                return outcome_of(record)
            yield self._pause_before_poll([id_], attempt, until)
        raise AssertionError("unreachable")  # pragma: no cover

    def cancel(self, id_: str) -> Flow[CommandRecord]:
        """Cancel a command that no worker has begun to apply, and return its record."""
        response = yield from self.send(self.request("POST", _command_path(id_) + "cancel/"))
        if response.status == 409:
            # An earlier attempt, whose response was lost, may have cancelled it.
            record = yield from self.record(id_)
            if record.status == "discarded":
                return record
        return CommandRecord.from_json(checked_body(response))

    def _pause_before_poll(self, ids: list[str], attempt: int, until: float) -> Pause:
        """Return the pause before unfinished commands are read again. If one is held, the server does not wait itself.

        :raises TimedOut: if the wait is over.
        """
        remaining = until - self.clock()
        if remaining <= 0:
            raise TimedOut(ids)
        return Pause(min(self.backoff(attempt), remaining))

    # --- requests ----------------------------------------------------------------------------------------------

    def path(self, suffix: str) -> str:
        """Return the path of one of the organization's resources."""
        return f"/api/0/organizations/{quote(self.organization, safe='')}/{suffix}"

    def headers(self) -> dict[str, str]:
        """Return the headers that every request carries: the credentials and the accepted media type."""
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
        return headers if self.act_as is None else headers | {"Act-As": f"user:{self.act_as}"}

    def request(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> Request:
        """Return a request, which submits a command if it has an idempotency key."""
        headers = self.headers()
        if key is not None:
            headers |= {"Idempotency-Key": key, "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        return Request(method, path, headers, RESPONSE_MARGIN_SECONDS, content)

    def command_request(self, command: Command, key: str | None) -> Request:
        """Return the request that submits a command, to its own endpoint if it has one."""
        key = key or new_key()
        payload = command.payload()
        # A command's own endpoint accepts incident numbers only, not deduplication keys.
        if command.route is None or not str(payload.get("incident", "0")).isdecimal():
            return self.request("POST", self.path("commands/"), {"commands": [command.bulk_item()]}, key=key)
        method, template = command.route
        body = {name: value for name, value in payload.items() if f"{{{name}}}" not in template}
        path = template.format_map({name: quote(str(value), safe="") for name, value in payload.items()})
        return self.request(method, self.path(path), body, key=key)

    def send(self, request: Request, *, until: float | None = None, is_patient: bool = False) -> Flow[Response]:
        """Send a request, and retry it until a server accepts or refuses it.

        Without ``until``, the server responds at once. If it is set, a time of the clock, the server waits for outcomes
        until then, and no attempt begins later. Attempts end after ``patience_seconds``, unless ``is_patient`` is true.

        :raises Unreachable: if no server accepted or refused the request in time.
        """
        give_up = math.inf if is_patient else self.clock() + self.patience_seconds
        if until is not None:
            give_up = min(give_up, until)
        for attempt in count():
            reply = yield self._with_preferences(request, until)
            if isinstance(reply, Response) and reply.status not in RETRYABLE_STATUSES:
                return reply
            pause = self.backoff(attempt, at_least=_retry_after(reply))
            if self.clock() + pause > give_up:
                raise Unreachable(_reason(reply), key=request.headers.get("Idempotency-Key"))
            log.info("%s %s failed, retrying in %.1f s: %s", request.method, request.path, pause, _reason(reply))
            yield Pause(pause)
        raise AssertionError("unreachable")  # pragma: no cover

    def backoff(self, attempt: int, *, at_least: float = 0.0) -> float:
        """Return the delay in seconds after an attempt (counted from 0). It grows exponentially and has jitter."""
        longest = min(FIRST_BACKOFF_SECONDS * 2.0**attempt, MAX_BACKOFF_SECONDS)
        return at_least + longest * (0.5 + self.jitter() / 2)

    def _with_preferences(self, request: Request, until: float | None) -> Request:
        """Return the request with its ``Prefer`` header, and with a timeout that allows the server to wait."""
        seconds = 0 if until is None else max(0, min(round(until - self.clock()), MAX_WAIT_SECONDS))
        preferences = []
        if seconds:
            preferences.append(f"wait={seconds}")
        elif "Idempotency-Key" in request.headers:
            preferences.append("respond-async")
        if self.is_strict:
            preferences.append("handling=strict")
        headers = {**request.headers, "Prefer": ", ".join(preferences)} if preferences else request.headers
        return replace(request, headers=headers, timeout=seconds + RESPONSE_MARGIN_SECONDS)


def new_key() -> str:
    """Return a new idempotency key."""
    return str(uuid.uuid4())


def checked_body(response: Response) -> Any:
    """Return the body of a response.

    :raises Refused: if the response is a refusal.
    :raises Failed: if the server failed.
    """
    id_ = response.headers.get("command-id")
    if response.status >= 500:
        raise Failed(f"{response.status}: {response.body}", command_id=id_)
    # A redirect is a refusal, too: the token must not be sent to a server that the caller did not choose.
    if response.status >= 300:
        raise Refused(response.status, response.body or response.headers.get("location"), command_id=id_)
    return response.body


def _command_path(id_: str) -> str:
    return f"/api/0/commands/{quote(id_, safe='')}/"


def _single_response(response: Response) -> Response:
    """Convert the response to a bulk request with one command into the response of the command's own endpoint.

    Return any other response unchanged.
    """
    commands = response.body.get("commands") if isinstance(response.body, dict) else None
    if response.status == 400 and isinstance(commands, dict) and commands.keys() == {"0"}:
        return replace(response, body=commands["0"])
    if response.status not in (200, 202) or not isinstance(commands, list):
        return response
    [resource] = commands
    if response.status == 202:
        return replace(response, body=resource)
    outcome = outcome_of(CommandRecord.from_json(resource))
    return Response(outcome.status, response.headers, outcome.body)


def _retry_after(reply: Reply) -> float:
    value = reply.headers.get("retry-after", "") if isinstance(reply, Response) else ""
    return float(value) if value.isdecimal() else 0.0


def _reason(reply: Reply) -> str:
    if isinstance(reply, Response):
        return f"{reply.status}: {reply.body}"
    return reply.reason if reply else "no request was sent"
