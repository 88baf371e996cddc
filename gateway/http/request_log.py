"""Request ids and the request log: every response carries a request id, and every request logs one line."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import structlog
import uuid_utils
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.responses import error_response
from models.messaging.trace import Trace
from tasks.tracing import start_request_span

_REQUEST_ID: Final = re.compile(rb"[!-~]{1,128}")
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<rest>-[!-~]{0,72})?"
)
_SCOPE_KEY: Final = "tocsin.request"
_QUIET_ROUTES: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""Routes that health checks and scrapers call every few seconds, and that are therefore logged at debug level."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class RequestRecord:
    """The contents of a request's log line, apart from the method, status and duration.

    ``route`` is the endpoint's path template, and ``caller`` is the caller's key. Either is ``None`` if the request was
    refused before that value was known. ``command_ids`` lists the commands that the request submitted or replayed.
    """

    trace: Trace
    route: str | None = None
    caller: str | None = None
    command_ids: list[UUID] = field(default_factory=list)


class RequestLog:
    """ASGI middleware that gives each request an id, returns the id as ``X-Request-Id``, and logs a line per request.

    An id that the caller sends is used if it is sent only once and has at most 128 characters, all of them visible
    ASCII. Otherwise a new id is generated. While a request is handled, the log context holds its id as ``request_id``,
    and the trace id of its ``traceparent``, if it has one, as ``trace_id``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request and log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        trace = read_trace(scope["headers"])
        span = start_request_span(trace.traceparent)
        if span is not None:
            trace = trace._replace(traceparent=span.traceparent)
        record = scope[_SCOPE_KEY] = RequestRecord(trace)
        request_id = record.trace.request_id or ""
        structlog.contextvars.bind_contextvars(request_id=request_id, **_trace_id(record.trace))
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode("ascii"))]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            # Errors of endpoints are handled by their pipeline. This one comes from a route without one, or too late.
            log.exception("request.failed")
            if status is not None:
                raise
            await error_response(500, {"detail": "Internal Error"}, problem=False).send(scope, receive, send_with_id)
        finally:
            route = _route_of(scope, record, status)
            if span is not None and route not in _QUIET_ROUTES:
                span.end(scope["method"], route, status)
            _write_line(scope, record, route, status, seconds=time.perf_counter() - started)


def record_of(scope: Scope) -> RequestRecord:
    """Return the record of the request to which this ASGI scope belongs."""
    record = scope.get(_SCOPE_KEY)
    return record if isinstance(record, RequestRecord) else RequestRecord(read_trace(scope["headers"]))


def read_trace(headers: list[tuple[bytes, bytes]]) -> Trace:
    """Read the headers ``X-Request-Id`` and ``traceparent`` (W3C Trace Context).

    A malformed or repeated header counts as absent. If there is no valid request id, a new one is generated.
    """
    ids, parents = 0, 0
    request_id = traceparent = b""
    for name, value in headers:
        if name == b"x-request-id":
            ids, request_id = ids + 1, value
        elif name == b"traceparent":
            parents, traceparent = parents + 1, value
    is_given = ids == 1 and _REQUEST_ID.fullmatch(request_id) is not None
    return Trace(
        # Unlike `new_id`, this makes no UUID object, which would cost as much as the rest of this function.
        request_id=request_id.decode("ascii") if is_given else str(uuid_utils.uuid7()),
        traceparent=traceparent.decode("ascii") if parents == 1 and _is_traceparent(traceparent) else None,
    )


def _trace_id(trace: Trace) -> dict[str, str]:
    return {} if trace.traceparent is None else {"trace_id": trace.traceparent.split("-")[1]}


def _is_traceparent(value: bytes) -> bool:
    found = _TRACEPARENT.fullmatch(value)
    # Version 00 has exactly four fields. Later versions may append more.
    return found is not None and (found["rest"] is None or found["version"] != b"00")


def _route_of(scope: Scope, record: RequestRecord, status: int | None) -> str | None:
    # Routes outside the API have no path parameters, so their path is their route.
    # A redirect to a path with a slash has one, which may contain a ticket.
    return record.route or (scope["path"] if status not in (None, 307, 404) else None)


def _write_line(scope: Scope, record: RequestRecord, route: str | None, status: int | None, *, seconds: float) -> None:
    level = logging.DEBUG if route in _QUIET_ROUTES else logging.INFO
    if not log.is_enabled_for(level):
        return
    ids = record.command_ids
    log.log(
        level,
        "request",
        method=scope["method"],
        route=route,
        # There is no status if the client disconnected before the response started.
        status=status,
        ms=round(seconds * 1000, 1),
        caller=record.caller,
        command_id=str(ids[0]) if len(ids) == 1 else None,
        commands=len(ids),
    )
