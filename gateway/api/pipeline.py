"""The checks that every request must pass, in a fixed order, before it is handled by its operation.

1. OPTIONS is answered. 2. The origin is allowed. 3. The credential is valid, and the body's size and media type are
accepted. 4. The token has a scope for the permission, or the operator has the required role. 5. The method is
supported. 6. The endpoint's precondition holds. 7. The organization exists and is accessible. 8. The caller's scopes
suffice in the organization. 9. The organization's plan includes the required feature.

The first check that fails decides the response. Checks 10 and 11 depend on the path (:mod:`gateway.api.access`).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

import structlog
from starlette.types import Receive, Scope, Send

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, parameter_names
from gateway.auth import Caller, Credential, MayNotActFor
from gateway.caller_slots import REQUEST_SECONDS, Slot
from gateway.container import Container
from gateway.http.parsing import (
    BODY_LIMIT_BYTES,
    Headers,
    parse_act_as,
    parse_bearer_token,
    read_body,
    require_identity_coding,
    require_json_type,
)
from gateway.http.prefer import STRICT_APPLIED
from gateway.http.public_url import origin_of
from gateway.http.request_log import record_of
from gateway.http.responses import (
    HttpResponse,
    StreamedResponse,
    accepts_problem_json,
    error_response,
    list_of_names,
    refusal_response,
)
from gateway.rate_limit import READ_BYTES
from models.enums import CallerKind, OpsRole
from models.policy import require_organization_access, require_token_scope
from models.refusals import (
    Forbidden,
    InvalidFields,
    MethodNotAllowed,
    Refusal,
    StringRefusal,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)

_OPS_RANKS: Final[Mapping[OpsRole, int]] = {role: rank for rank, role in enumerate(OpsRole)}
_READS: Final = frozenset({"GET", "HEAD"})
_FREE: Final = frozenset({429, 500, 503})
"""The statuses of responses that cost nothing: nothing was done, or it is not the caller's fault."""

_EXPOSED_HEADERS: Final = (
    "Command-Id, ETag, Idempotent-Replayed, Link, Location, Preference-Applied, Retry-After, Tocsin-Ignored,"
    " WWW-Authenticate, X-Request-Id, X-Sentry-Alert-Rule-Hits, X-Sentry-Alert-Rule-Limit"
)
_ALLOWED_HEADERS: Final = (
    "Accept, Act-As, Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, Prefer,"
    " Traceparent, X-Request-Id"
)

log = structlog.get_logger(__name__)


class SessionCredential(NamedTuple):
    """The credential of a session in a browser, and the token that its next write must carry."""

    credential: Credential
    csrf_token: str


class BrowserSessions(Protocol):
    """Finds the credential of a request that has a session's cookie in place of a bearer token."""

    async def credential(self, headers: Headers, method: str) -> SessionCredential | None:
        """Return the session's credential, or ``None`` if the request has no session.

        :raises Forbidden: if the request may change something and may come from another site.
        """


class EndpointPipeline:
    """An endpoint as an ASGI application. With ``sessions``, it also serves browsers that have a session."""

    def __init__(self, endpoint: Endpoint, container: Container, sessions: BrowserSessions | None = None) -> None:
        self._endpoint = endpoint
        self._container = container
        self._sessions = sessions
        self._parameters = {method: parameter_names(each) for method, each in endpoint.operations.items()}
        self._methods = (*endpoint.operations, *(["HEAD"] if "GET" in endpoint.operations else []), "OPTIONS")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request. Every error becomes a response."""
        started = time.perf_counter()
        record_of(scope).route = self._endpoint.path
        headers = Headers(scope["headers"])
        problem = False
        origin = headers.get(b"origin")
        is_allowed = origin is None or self._origin_allowed(origin, scope, headers)
        try:
            problem = accepts_problem_json(headers.joined(b"accept"))
            if scope["method"] == "OPTIONS":
                response = self._options()
            elif not is_allowed:
                response = refusal_response(StringRefusal(f"Invalid origin: {origin}"), problem=problem)
            else:
                response = await self._handle(scope, receive, headers)
        except Refusal as refusal:
            response = refusal_response(refusal, problem=problem)
        except Exception:
            response = _internal_error(problem=problem)
        _add_cors_headers(response, origin, is_allowed=is_allowed)
        seconds = time.perf_counter() - started
        self._container.metrics.count_response(
            self._endpoint.path, self._method_label(scope), response.status, seconds=seconds
        )
        await response.send(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, headers: Headers) -> HttpResponse:
        deadline = asyncio.get_running_loop().time() + self._container.timeouts.acceptance_seconds
        act_as = parse_act_as(headers)
        session = await self._session(headers, scope["method"])
        credential = (
            Credential(parse_bearer_token(headers), _possible_name(scope), act_as)
            if session is None
            else session.credential
        )
        address = None if session else self._container.public_url.address_of(scope, headers)
        caller = await self._authenticate(credential, address, deadline=deadline)
        record_of(scope).caller = caller.caller_key
        try:
            self._require_credit(caller, scope["method"])
            with self._container.requests.taken(caller.spender, seconds=REQUEST_SECONDS) as slot:
                context = self._context(scope, headers, caller, credential, slot, deadline=deadline)
                response = await self._respond(context, receive)
        except TooManyRequests as refusal:
            response = self._refused(refusal, headers)
        if session is not None:
            response.headers["X-CSRF-Token"] = session.csrf_token
        return response

    async def _authenticate(self, credential: Credential, address: str | None, *, deadline: float) -> Caller:
        """Return the caller. Wrong tokens count for the address, if one is given, wrong ``Act-As`` for the program."""
        try:
            return await self._container.authenticator.authenticate(credential, deadline=deadline)
        except Unauthenticated:
            if address is not None:
                self._container.wrong_tokens.require_allowed(address)
                self._container.wrong_tokens.record(address)
            raise
        except MayNotActFor as refusal:
            self._container.rate_limiter.acquire(refusal.spender)
            raise

    def _require_credit(self, caller: Caller, method: str) -> None:
        """Require that the caller may spend something, before anything is done for it.

        A read costs what its response turns out to be, so the caller needs no more than to owe nothing. How many
        commands a bulk request contains is not known before its body is parsed.
        """
        limiter = self._container.rate_limiter
        is_large = self._endpoint.body_limit > BODY_LIMIT_BYTES
        limiter.require(caller.spender, 0 if method in _READS else 1, at_most=limiter.capacity if is_large else None)

    def _context(
        self, scope: Scope, headers: Headers, caller: Caller, credential: Credential, slot: Slot, *, deadline: float
    ) -> RequestContext:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        return RequestContext(
            container=self._container,
            method=method,
            path=scope["path"],
            base_url=self._container.public_url.of_request(scope, headers),
            path_parameters=scope["path_params"],
            query_string=scope["query_string"],
            headers=headers,
            body=b"",
            caller=caller,
            act_as=credential.act_as,
            credential=credential,
            slot=slot,
            deadline=deadline,
            record=record_of(scope),
            known_parameters=self._parameters.get(method, frozenset()),
        )

    async def _respond(self, context: RequestContext, receive: Receive) -> HttpResponse:
        """Read the body and return the response. Charge the caller for it."""
        try:
            await self._read_body(context, receive)
            self._require_method_and_scope(context.caller, context.method)
            response = await self._operate(context)
        except Refusal as refusal:
            response = self._refused(refusal, context.headers)
        _add_handling_headers(response, context)
        if not context.has_paid and response.status not in _FREE:
            cost = len(response.body) / READ_BYTES if context.method == "GET" else 1
            self._container.rate_limiter.charge(context.caller.spender, cost)
        return response

    async def _read_body(self, context: RequestContext, receive: Receive) -> None:
        clock = asyncio.get_running_loop().time
        started = clock()
        context.body = await read_body(
            context.headers,
            receive,
            limit=self._endpoint.body_limit,
            part_seconds=self._container.timeouts.body_part_seconds,
        )
        # The deadline limits the gateway's own work, but not the time that the caller takes to send the body.
        context.deadline += clock() - started
        if context.body:
            require_identity_coding(context.headers)
            require_json_type(context.headers)

    def _refused(self, refusal: Refusal, headers: Headers) -> HttpResponse:
        if self._endpoint.throttles_with_503 and isinstance(refusal, TooManyRequests):
            refusal = Unavailable(refusal.body["detail"], retry_after=refusal.retry_after)
        return refusal_response(refusal, problem=accepts_problem_json(headers.joined(b"accept")))

    async def _session(self, headers: Headers, method: str) -> SessionCredential | None:
        # A bearer token counts before a cookie, which a browser may send without being asked.
        if self._sessions is None or headers.get(b"authorization") is not None:
            return None
        return await self._sessions.credential(headers, method)

    async def _operate(self, context: RequestContext) -> HttpResponse:
        method = context.method
        if self._endpoint.permission is not None and not self._endpoint.is_personal:
            # Checks 7 to 9.
            require_organization_access(context.actor, context.organization, self._endpoint.permission, method)
        context.require_few_values()
        response = await self._handle_in_turn(context)
        if method == "GET" and context.unknown_parameters and response.status < 400:
            # Only now, because only a caller who may read the resource may learn what is wrong with the request. Other
            # methods change something, so they call `ignore_unknown` themselves, before they do so.
            try:
                context.ignore_unknown(())
            except InvalidFields:
                _close(response)
                raise
        return response

    async def _handle_in_turn(self, context: RequestContext) -> HttpResponse:
        """Return the operation's response. The caller's reads do not take all connections from those of others."""
        operation = self._endpoint.operations[context.method]
        if context.method != "GET" or operation.can_wait or operation.is_stream:
            return await operation.handle(context)
        async with self._container.reads_in_turn.turn(context.caller.spender):
            return await operation.handle(context)

    def _require_method_and_scope(self, caller: Caller, method: str) -> None:
        # Checks 4 to 6.
        if self._endpoint.permission is not None:
            require_token_scope(caller.actor, self._endpoint.permission, method)
        operation = self._endpoint.operations.get(method)
        ops_role = (operation and operation.ops_role) or self._endpoint.ops_role
        if ops_role is not None:
            _require_ops_role(caller, ops_role)
        if method not in self._endpoint.operations:
            raise MethodNotAllowed(method, self._methods)
        if self._endpoint.precondition is not None:
            self._endpoint.precondition(caller.actor)

    def _options(self) -> HttpResponse:
        methods = ", ".join(self._methods)
        return HttpResponse(
            200,
            headers={
                "Allow": methods,
                "Access-Control-Allow-Methods": methods,
                "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
                "Access-Control-Max-Age": "600",
            },
        )

    def _origin_allowed(self, origin: str, scope: Scope, headers: Headers) -> bool:
        origin = origin.lower()
        settings = self._container.settings
        if settings.public_origin is not None:
            own = {settings.public_origin}
        else:
            own = {f"{scheme}://{(headers.get(b'host') or '').lower()}" for scheme in ("http", "https")}
            own.add(origin_of(self._container.public_url.of_request(scope, headers)))
        return origin in own or not settings.allowed_origins.isdisjoint({origin, "*"})

    def _method_label(self, scope: Scope) -> str:
        # Callers may send any word as a method. Unknown methods share a label, so that the number of labels is limited.
        method: str = scope["method"]
        return method if method in self._methods else "other"


def _add_handling_headers(response: HttpResponse, context: RequestContext) -> None:
    if context.preference.is_strict:
        applied = response.headers.get("Preference-Applied")
        response.headers["Preference-Applied"] = f"{applied}, {STRICT_APPLIED}" if applied else STRICT_APPLIED
    if context.ignored:
        response.headers["Tocsin-Ignored"] = list_of_names(context.ignored)


def _add_cors_headers(response: HttpResponse, origin: str | None, *, is_allowed: bool) -> None:
    if origin is None and "Access-Control-Allow-Methods" not in response.headers:
        return
    response.headers["Vary"] = "Origin"
    if is_allowed:
        response.headers["Access-Control-Allow-Origin"] = origin or "*"
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS


def _close(response: HttpResponse) -> None:
    if isinstance(response, StreamedResponse):
        response.source.close()


def _possible_name(scope: Scope) -> str | None:
    # PostgreSQL cannot store NUL characters, so a name that contains one belongs to no organization.
    organization: str | None = scope["path_params"].get("organization")
    return None if organization is None or "\0" in organization else organization


def _require_ops_role(caller: Caller, least: OpsRole) -> None:
    if caller.actor.kind is not CallerKind.OPS or caller.ops_role is None:
        raise Forbidden
    if _OPS_RANKS[caller.ops_role] < _OPS_RANKS[least]:
        raise Forbidden


def _internal_error(*, problem: bool) -> HttpResponse:
    error_id = uuid.uuid4().hex
    log.exception("request.failed", error_id=error_id)
    return error_response(500, {"detail": "Internal Error", "errorId": error_id}, problem=problem)
