"""The check of a request's target: its ``Host`` header and its path, before any route is chosen."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.http.parsing import Headers
from gateway.http.responses import accepts_problem_json, refusal_response
from models.refusals import MalformedRequest, NotFound, Refusal, UriTooLong

QUERY_LIMIT_BYTES: Final = 8 * 1024


class RequestTarget:
    """ASGI middleware that refuses requests whose target is ambiguous.

    A request must have exactly one ``Host`` header (RFC 9112 §3.2); only an HTTP/1.0 request may omit it. Otherwise the
    response is 400. A path that contains an encoded slash, which some servers decode and others do not, gets 404. A
    query of more than :data:`QUERY_LIMIT_BYTES` gets 414.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        refusal = _refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        problem = accepts_problem_json(Headers(scope["headers"]).joined(b"accept"))
        await refusal_response(refusal, problem=problem).send(scope, receive, send)


def _refusal(scope: Scope) -> Refusal | None:
    hosts = sum(name == b"host" for name, _ in scope["headers"])
    if hosts > 1 or (hosts == 0 and scope["http_version"] != "1.0"):
        return MalformedRequest("Send exactly one Host header.")
    if b"%2f" in scope["raw_path"].partition(b"?")[0].lower():
        return NotFound()
    if len(scope["query_string"]) > QUERY_LIMIT_BYTES:
        return UriTooLong(QUERY_LIMIT_BYTES)
    return None
