"""Outcome or refusal → status, headers and body, in one place.

A refusal has the same status and the same facts in both spellings of an error: the plain body of the incident API
that tocsin gives back, or RFC 9457 for callers who ask for ``application/problem+json``.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Protocol

import orjson
from starlette.types import Receive, Scope, Send

from models.enums import JSON
from models.refusals import Refusal

JSON_TYPE: Final = "application/json"
PROBLEM_TYPE: Final = "application/problem+json"

STREAM_WRITE_TIMEOUT_SECONDS: Final = 60
"""How long a reader of a stream may take nothing of it."""


@dataclass(slots=True)
class HttpResponse:
    """What goes back: a status, a body already written, and headers beside its type and length."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = JSON_TYPE

    async def send(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send it."""
        headers = _encoded(self.headers)
        # 204 and 304 have no body, hence no type and no length of one.
        if self.status not in (204, 304):
            headers.append((b"content-type", self.media_type.encode("latin-1")))
            headers.append((b"content-length", str(len(self.body)).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


class StreamSource(Protocol):
    """What a streamed answer is made of, part by part; closed once, read to its end or not."""

    def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """The parts."""

    def close(self) -> None:
        """Nobody reads any more."""


@dataclass(slots=True)
class StreamedResponse(HttpResponse):
    """An answer whose body comes bit by bit, for as long as there is any and somebody takes it."""

    source: StreamSource = field(kw_only=True)

    async def send(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, until it ends, the reader goes, or takes nothing for ``STREAM_WRITE_TIMEOUT_SECONDS``."""
        try:
            headers = [*_encoded(self.headers), (b"content-type", self.media_type.encode("latin-1"))]
            await send({"type": "http.response.start", "status": self.status, "headers": headers})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body"})
                return
            tasks = [asyncio.create_task(self._pour(send)), asyncio.create_task(_hung_up(receive))]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self.source.close()

    async def _pour(self, send: Send) -> None:
        async with aclosing(aiter(self.source)) as parts:
            async for part in parts:
                async with asyncio.timeout(STREAM_WRITE_TIMEOUT_SECONDS):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def encode_json(value: JSON) -> bytes:
    """A value as JSON; text that is JSON already goes in as it is (:func:`raw_json`)."""
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)


def raw_json(text: str | None) -> JSON:
    """JSON from the database, to be passed on without being read."""
    return None if text is None else orjson.Fragment(text)


def json_response(status: int, value: JSON, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """An answer with a JSON body."""
    return HttpResponse(status, encode_json(value), dict(headers or {}))


def read_answer(value: JSON, *, version: int, if_none_match: str | None) -> HttpResponse:
    """A single read with its ETag, or 304 if the caller has it already."""
    body = encode_json(value)
    tag = f'"{version}-{hashlib.blake2b(body, digest_size=8).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if if_none_match is not None and _names(if_none_match, tag):
        return HttpResponse(304, headers=headers)
    return HttpResponse(200, body, headers)


def refusal_answer(refusal: Refusal, *, problem: bool) -> HttpResponse:
    """A refusal in the spelling that the caller asked for."""
    return error_answer(refusal.status, refusal.body, refusal.headers, problem=problem)


def error_answer(status: int, body: JSON, headers: Mapping[str, str] | None = None, *, problem: bool) -> HttpResponse:
    """An error in the spelling that the caller asked for."""
    if not problem:
        return json_response(status, body, headers)
    return HttpResponse(status, encode_json(problem_of(status, body)), dict(headers or {}), PROBLEM_TYPE)


def wants_problem(accept: str | None) -> bool:
    """Whether ``Accept`` names problem+json, with any weight but 0."""
    for each in (accept or "").split(","):
        name, _, parameters = each.partition(";")
        if name.strip().lower() == PROBLEM_TYPE:
            return parameters.replace(" ", "").rstrip("0.") not in ("q=", "q")
    return False


def problem_of(status: int, body: JSON) -> dict[str, JSON]:
    """An error body as RFC 9457."""
    phrase = HTTPStatus(status).phrase
    problem: dict[str, JSON] = {
        "type": "about:blank",
        "title": phrase,
        "status": status,
        "detail": _detail_of(body) or phrase,
        "code": phrase.lower().replace(" ", "_").replace("-", "_"),
        "errors": [],
    }
    if isinstance(body, dict) and "detail" in body:
        # What a body says beside its detail (an error id, places) are extension members.
        return problem | {name: value for name, value in body.items() if name != "detail"}
    if not isinstance(body, str):
        problem["errors"] = [{"pointer": pointer, "detail": text} for pointer, text in _pointers(body, "#")]
    return problem


def _detail_of(body: JSON) -> str:
    if isinstance(body, str):
        return body
    if isinstance(body, dict) and isinstance(body.get("detail"), str):
        return str(body["detail"])
    if isinstance(body, (dict, list)) and body:
        return "The request has fields that do not fit; errors names each."
    return ""


def _pointers(value: JSON, pointer: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            # Errors of the whole object point at the object.
            whole = name in ("non_field_errors", "nonFieldErrors")
            yield from _pointers(inner, pointer if whole else f"{pointer}/{_escaped(str(name))}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from _pointers(inner, pointer)
    else:
        yield pointer, str(value)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _names(if_none_match: str, tag: str) -> bool:
    # Weak comparison, RFC 9110 §8.8.3.2.
    return any(each.strip().removeprefix("W/") in ("*", tag) for each in if_none_match.split(","))
