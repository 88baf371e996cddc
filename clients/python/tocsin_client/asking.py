"""How to ask, without asking anybody: conversations that say what to send, and are told what was answered.

A conversation is a generator. It yields requests and pauses, is sent answers, and returns a result; how bytes
travel and how time passes is for the clients to arrange, once with threads and once with tasks.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, TypeVar
from urllib.parse import quote

from tocsin_client.errors import Failed, Refused, TimedOut, Unreachable
from tocsin_client.orders import Order
from tocsin_client.results import Command, Event, Outcome

LONGEST_WAIT_SECONDS: Final = 30
"""How long the server waits for an outcome at the most."""

FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 10.0
MARGIN_SECONDS: Final = 10.0
"""How much longer than the server waits we wait for its answer."""

SILENCE_SECONDS: Final = 45.0
"""A stream that says nothing for three heartbeats is dead."""

REMEMBERED_EVENTS: Final = 10_000

COME_BACK: Final = frozenset({429, 502, 503, 504})
"""Nobody took it; it is worth asking again."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """Something to send. ``timeout`` is in seconds; ``path`` begins at the server's root."""

    method: str
    path: str
    headers: Mapping[str, str]
    timeout: float
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; header names are in lower case, ``body`` is JSON, or text that is none."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class Silence:
    """Nobody answered, or not to the end."""

    reason: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Let this much time pass."""

    seconds: float


Conversation = Generator[Request | Pause, Answer | Silence | None, T]


@dataclass(frozen=True)
class Asking:
    """One caller's way of asking in one organization. ``patience_seconds`` is how long to look for an answer."""

    token: str = field(repr=False)
    organization: str
    act_as: int | None = None
    patience_seconds: float = 60.0
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    def post(self, order: Order, *, key: str | None, wait: float) -> Conversation[Outcome]:
        """Ask, and wait for the outcome."""
        until = self.clock() + wait
        answer = yield from self._send(order, key, wait=wait)
        id_ = answer.headers.get("command-id")
        if answer.status != 202:
            is_replay = "idempotent-replayed" in answer.headers
            return Outcome(id_ or "", answer.status, _final(answer), is_replay)
        command = _accepted(answer)
        return (yield from self.wait(command.id, seconds=until - self.clock()))

    def send(self, order: Order, *, key: str | None) -> Conversation[Command]:
        """Ask, and wait for nothing but acceptance."""
        answer = yield from self._send(order, key, wait=None)
        if answer.status == 202:
            return _accepted(answer)
        _final(answer)
        return (yield from self.command(answer.headers["command-id"]))

    def bulk(self, orders: Sequence[Order], *, key: str | None, wait: float | None) -> Conversation[list[Command]]:
        """Ask for many at once; all are accepted or none, and applied in order."""
        key = key or new_key()
        body = {"commands": [order.item() for order in orders]}
        until = self.clock() + (wait or 0)
        while True:
            left = None if wait is None else until - self.clock()
            # Repeated with its key it changes nothing, and tells of all of them how far they are.
            answer = yield from self._ask(self._request("POST", self.path("commands/"), body, key=key, wait=left))
            commands = [Command.read(each) for each in _final(answer)["commands"]]
            if wait is None or answer.status == 200:
                return commands
            if self.clock() >= until:
                raise TimedOut([command.id for command in commands])

    def command(self, id_: str) -> Conversation[Command]:
        """What became of a command."""
        answer = yield from self._ask(self._request("GET", f"/api/0/commands/{quote(id_, safe='')}/"))
        return Command.read(_final(answer))

    def wait(self, id_: str, *, seconds: float) -> Conversation[Outcome]:
        """Wait for a command's outcome."""
        until = self.clock() + seconds
        while True:
            left = max(until - self.clock(), 0.0)
            request = self._request("GET", f"/api/0/commands/{quote(id_, safe='')}/", wait=left)
            command = Command.read(_final((yield from self._ask(request))))
            if command.is_final:
                return outcome_of(command)
            if self.clock() >= until:
                raise TimedOut([id_])

    def read(self, path: str, query: Mapping[str, Any]) -> Conversation[Any]:
        """Read an address of the organization: its JSON."""
        asked = "&".join(f"{quote(name, safe='')}={quote(str(value), safe='')}" for name, value in query.items())
        answer = yield from self._ask(self._request("GET", self.path(path) + (f"?{asked}" if asked else "")))
        return _final(answer)

    def path(self, below: str) -> str:
        """An address of the organization."""
        return f"/api/0/organizations/{quote(self.organization, safe='')}/{below}"

    def headers(self) -> dict[str, str]:
        """Who asks."""
        named = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
        return named if self.act_as is None else named | {"Act-As": f"user:{self.act_as}"}

    def pause(self, attempt: int, *, at_least: float = 0.0) -> float:
        """How long to wait after so many attempts: longer each time, and never in step with others."""
        longest = min(FIRST_PAUSE_SECONDS * 2.0**attempt, LONGEST_PAUSE_SECONDS)
        return at_least + longest * (0.5 + self.jitter() / 2)

    def _send(self, order: Order, key: str | None, *, wait: float | None) -> Conversation[Answer]:
        key = key or new_key()
        said = order.fields()
        # A route names an incident by its number alone.
        if order.route is not None and str(said.get("incident", "0")).isdecimal():
            method, template = order.route
            body = {name: value for name, value in said.items() if f"{{{name}}}" not in template}
            address = template.format_map({name: quote(str(value), safe="") for name, value in said.items()})
            return (yield from self._ask(self._request(method, self.path(address), body, key=key, wait=wait)))
        body = {"commands": [order.item()]}
        answer = yield from self._ask(self._request("POST", self.path("commands/"), body, key=key, wait=wait))
        return _of_one(answer)

    def _request(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, wait: float | None = None
    ) -> Request:
        headers = self.headers()
        seconds = 0 if wait is None else max(0, min(round(wait), LONGEST_WAIT_SECONDS))
        if key is not None or wait is not None:
            headers["Prefer"] = f"wait={seconds}" if seconds else "respond-async"
        if key is not None:
            headers |= {"Idempotency-Key": key, "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        return Request(method, path, headers, seconds + MARGIN_SECONDS, content)

    def _ask(self, request: Request) -> Conversation[Answer]:
        give_up_at = self.clock() + self.patience_seconds
        for attempt in count():
            heard = yield request
            if isinstance(heard, Answer) and heard.status not in COME_BACK:
                return heard
            pause = self.pause(attempt, at_least=_retry_after(heard))
            if self.clock() + pause > give_up_at:
                raise Unreachable(_reason(heard), key=request.headers.get("Idempotency-Key"))
            yield Pause(pause)
        raise AssertionError("unreachable")  # pragma: no cover


class Trail:
    """How far somebody has followed the events: what to ask for next, and what was told already."""

    def __init__(self, asking: Asking, *, incident: int | str | None, last_id: str | None) -> None:
        self._asking = asking
        self._incident = incident
        self._last_id = last_id
        self._told: OrderedDict[str, None] = OrderedDict()
        self._attempt = 0

    def request(self) -> Request:
        """What to open the stream with."""
        headers = self._asking.headers() | {"Accept": "text/event-stream"}
        if self._last_id is not None:
            headers["Last-Event-ID"] = self._last_id
        narrowed = "" if self._incident is None else f"?incident={quote(str(self._incident), safe='')}"
        return Request("GET", self._asking.path("events/") + narrowed, headers, SILENCE_SECONDS)

    def opened(self, answer: Answer) -> bool:
        """Whether there is a stream to read; if not, it is worth trying again.

        :raises Refused: the caller may not follow.
        """
        if answer.status in COME_BACK or answer.status >= 500:
            return False
        _final(answer)
        self._attempt = 0
        return True

    def take(self, id_: str, data: str) -> Event | None:
        """What a message of the stream tells; none if it tells nothing, or nothing new."""
        self._last_id = id_ or self._last_id
        if not data or id_ in self._told:
            return None
        self._told[id_] = None
        if len(self._told) > REMEMBERED_EVENTS:
            self._told.popitem(last=False)
        return Event.read(json.loads(data))

    def pause(self) -> float:
        """How long to wait before the stream is opened again."""
        self._attempt += 1
        return self._asking.pause(self._attempt - 1)


def new_key() -> str:
    """A key that nobody has used."""
    return str(uuid.uuid4())


def outcome_of(command: Command) -> Outcome:
    """How a command that has ended was applied.

    :raises Refused: it was rejected.
    :raises Failed: it is dead, or operators discarded it.
    """
    if command.outcome is None:
        raise Failed(command.error or f"the command is {command.status}", command=command)
    if command.outcome.status >= 400:
        raise Refused(command.outcome.status, command.outcome.body, command_id=command.id)
    return command.outcome


def _final(answer: Answer) -> Any:
    id_ = answer.headers.get("command-id")
    if answer.status >= 500:
        raise Failed(f"{answer.status}: {answer.body}", command_id=id_)
    # Elsewhere (3xx) is a no as well: a token is not carried to an address that nobody named.
    if answer.status >= 300:
        raise Refused(answer.status, answer.body or answer.headers.get("location"), command_id=id_)
    return answer.body


def _accepted(answer: Answer) -> Command:
    return Command.read(_final(answer))


def _of_one(answer: Answer) -> Answer:
    """The answer to a list of one, as the command's own route would have given it."""
    if answer.status not in (200, 202):
        return answer
    resource = answer.body["commands"][0]
    if answer.status == 202:
        return Answer(202, answer.headers, resource)
    outcome = outcome_of(Command.read(resource))
    return Answer(outcome.status, answer.headers, outcome.body)


def _retry_after(heard: Answer | Silence | None) -> float:
    told = heard.headers.get("retry-after", "") if isinstance(heard, Answer) else ""
    return float(told) if told.isdecimal() else 0.0


def _reason(heard: Answer | Silence | None) -> str:
    if isinstance(heard, Answer):
        return f"{heard.status}: {heard.body}"
    return heard.reason if heard else "nobody was asked"
