"""HTTP responses, built from JSON values, streams and refusals.

Errors have the format of Sentry's incident API or, for callers who accept ``application/problem+json``, the format of
RFC 9457. The status and the information are the same in both.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, Protocol
from urllib.parse import quote

import orjson
from starlette.types import Receive, Scope, Send

from models.refusals import Refusal, reason_code
from models.types import JSON
from tasks.commands.field_errors import cut_errors, cut_problem_errors

JSON_TYPE: Final = "application/json"
PROBLEM_TYPE: Final = "application/problem+json"

STREAM_WRITE_TIMEOUT_SECONDS: Final = 60
"""How long a client may take to read a chunk of a stream."""


# --- responses -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class HttpResponse:
    """A response: its status, its encoded body, and its headers other than ``Content-Type`` and ``Content-Length``."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = JSON_TYPE

    async def send(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the response."""
        headers = _encode_headers(self.headers)
        # 204 and 304 have no body, so they have no headers that describe one.
        if self.status not in (204, 304):
            headers.append((b"content-type", self.media_type.encode("latin-1")))
            headers.append((b"content-length", str(len(self.body)).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


class StreamSource(Protocol):
    """The source of a streamed response's chunks. :meth:`close` is called once, even if not all chunks were read."""

    def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """Iterate over the chunks."""

    def close(self) -> None:
        """Release the stream's resources."""


@dataclass(slots=True)
class StreamedResponse(HttpResponse):
    """A response whose body is sent chunk by chunk."""

    source: StreamSource = field(kw_only=True)

    async def send(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send chunks until the source ends, the client disconnects, or a write times out."""
        try:
            headers = [*_encode_headers(self.headers), (b"content-type", self.media_type.encode("latin-1"))]
            await send({"type": "http.response.start", "status": self.status, "headers": headers})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body"})
                return
            tasks = [asyncio.create_task(self._send_chunks(send)), asyncio.create_task(_wait_for_disconnect(receive))]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self.source.close()

    async def _send_chunks(self, send: Send) -> None:
        async with aclosing(aiter(self.source)) as chunks:
            async for chunk in chunks:
                async with asyncio.timeout(STREAM_WRITE_TIMEOUT_SECONDS):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _encode_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


# --- JSON ------------------------------------------------------------------------------------------------------


def encode_json(value: JSON) -> bytes:
    """Encode a value as JSON. Results of :func:`raw_json` inside the value are copied unchanged."""
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)


def raw_json(text: str | None) -> JSON:
    """Wrap JSON text from the database in a value that :func:`encode_json` copies without parsing it."""
    return None if text is None else orjson.Fragment(text)


def json_response(status: int, value: JSON, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """Return a response with a JSON body."""
    return HttpResponse(status, encode_json(value), dict(headers or {}))


def conditional_response(value: JSON, *, version: int, if_none_match: str | None) -> HttpResponse:
    """Return a response with a resource and its ETag, or 304 if the caller already has this version of it.

    The ETag is ``"<version>-<digest of the body>"``. Callers can send it, or only the version, in ``If-Match``.
    """
    body = encode_json(value)
    tag = f'"{version}-{hashlib.blake2b(body, digest_size=8).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if if_none_match is not None and _matches(if_none_match, tag):
        return HttpResponse(304, headers=headers)
    return HttpResponse(200, body, headers)


def _matches(if_none_match: str, tag: str) -> bool:
    # Weak comparison, RFC 9110 §8.8.3.2.
    return any(each.strip().removeprefix("W/") in ("*", tag) for each in if_none_match.split(","))


MAX_NAMES_LENGTH: Final = 1000
MAX_NAME_LENGTH: Final = 100


def list_of_names(names: Sequence[str]) -> str:
    """Return names as a header's value, separated by commas, without repetitions.

    Whatever could end a name or the header is percent-encoded. ``...`` stands for the end of a name that is longer than
    :data:`MAX_NAME_LENGTH`, and for the names for which :data:`MAX_NAMES_LENGTH` characters do not suffice.
    """
    listed: list[str] = []
    length = 0
    for name in map(_quoted, dict.fromkeys(names)):
        length += len(name) + 2
        if length > MAX_NAMES_LENGTH:
            listed.append("...")
            break
        listed.append(name)
    return ", ".join(listed)


def _quoted(name: str) -> str:
    shown = name if len(name) <= MAX_NAME_LENGTH else name[:MAX_NAME_LENGTH] + "..."
    return quote(shown, safe="/$@[]:", errors="replace")


# --- errors ----------------------------------------------------------------------------------------------------


def refusal_response(refusal: Refusal, *, problem: bool) -> HttpResponse:
    """Return a refusal as a response, in the format of RFC 9457 if ``problem`` is true."""
    body, members = cut_errors(refusal.body), cut_problem_errors(refusal.problem_members)
    return error_response(refusal.status, body, refusal.headers, problem=problem, problem_members=members)


def error_response(
    status: int,
    body: JSON,
    headers: Mapping[str, str] | None = None,
    *,
    problem: bool,
    problem_members: Mapping[str, JSON] = MappingProxyType({}),
) -> HttpResponse:
    """Return an error as a response, in the format of RFC 9457 if ``problem`` is true.

    ``problem_members`` replace members of the latter, or are added to them.
    """
    if not problem:
        return json_response(status, body, headers)
    details = problem_details(status, body) | dict(problem_members)
    return HttpResponse(status, encode_json(details), dict(headers or {}), PROBLEM_TYPE)


def accepts_problem_json(accept: str | None) -> bool:
    """Return whether an ``Accept`` header lists ``application/problem+json`` with a weight other than 0."""
    for each in (accept or "").split(","):
        name, _, parameters = each.partition(";")
        if name.strip().lower() == PROBLEM_TYPE:
            return parameters.replace(" ", "").rstrip("0.") not in ("q=", "q")
    return False


def problem_details(status: int, body: JSON) -> dict[str, JSON]:
    """Convert an error body to RFC 9457 problem details."""
    phrase = HTTPStatus(status).phrase
    problem: dict[str, JSON] = {
        "type": "about:blank",
        "title": phrase,
        "status": status,
        "detail": _detail_of(body) or phrase,
        "code": reason_code(status),
        "errors": [],
    }
    if isinstance(body, dict) and "detail" in body:
        # The body's other members (an error id or a document's errors) become extension members.
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
        return "The request has invalid fields; errors lists them."
    return ""


def _pointers(value: JSON, pointer: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            # Errors about an object as a whole point to the object.
            is_whole = name in ("non_field_errors", "nonFieldErrors")
            yield from _pointers(inner, pointer if is_whole else f"{pointer}/{_escape(str(name))}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from _pointers(inner, pointer)
    else:
        yield pointer, str(value)


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
