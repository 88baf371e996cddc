"""The door of each address: the order of checks that every request passes, up to step 9.

OPTIONS, origin, authentication, size and type of the body, the token's scopes, the method, the organization, the
scopes in it, the feature of its plan. What comes after is the address's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from typing import Final

import structlog
from starlette.types import Receive, Scope, Send

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint
from gateway.auth import Caller, Credential
from gateway.container import Container
from gateway.http.parsing import Headers, read_body, require_json_type
from gateway.http.request_log import record_of
from gateway.http.responses import HttpResponse, error_answer, refusal_answer, wants_problem
from models.enums import CallerKind, OpsRole
from models.policy import require_organization_access, require_token_scope
from models.refusals import Forbidden, MethodNotAllowed, Refusal, StringRefusal, Unauthenticated
from tasks.commands.fields import identifier

_OPS_ROLES: Final = list(OpsRole)
_EXPOSED: Final = (
    "Command-Id, ETag, Idempotent-Replayed, Link, Location, Preference-Applied, Retry-After, WWW-Authenticate,"
    " X-Request-Id, X-Sentry-Alert-Rule-Hits, X-Sentry-Alert-Rule-Limit"
)
_ALLOWED_HEADERS: Final = (
    "Accept, Act-As, Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, Prefer,"
    " Traceparent, X-Request-Id"
)

log = structlog.get_logger(__name__)


class EndpointPipeline:
    """An address as an ASGI application: whoever passes its checks is handed to the operation."""

    def __init__(self, address: Endpoint, services: Container) -> None:
        self._address = address
        self._services = services
        methods = [*address.operations, *(["HEAD"] if "GET" in address.operations else []), "OPTIONS"]
        self._methods = ", ".join(methods)
        self._allowed = tuple(methods)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        started = time.perf_counter()
        record_of(scope).route = self._address.path
        headers = Headers(scope["headers"])
        is_problem = False
        origin = headers.get(b"origin")
        is_welcome = origin is None or self._welcomes(origin, headers)
        try:
            is_problem = wants_problem(headers.joined(b"accept"))
            if scope["method"] == "OPTIONS":
                answered = self._options()
            elif not is_welcome:
                answered = refusal_answer(StringRefusal(f"Invalid origin: {origin}"), problem=is_problem)
            else:
                answered = await self._pass(scope, receive, headers)
        except Refusal as refusal:
            answered = refusal_answer(refusal, problem=is_problem)
        except Exception:
            answered = _fault(problem=is_problem)
        self._share(answered, origin, is_welcome=is_welcome)
        seconds = time.perf_counter() - started
        self._services.metrics.count_response(self._address.path, self._label(scope), answered.status, seconds=seconds)
        await answered.send(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, headers: Headers) -> HttpResponse:
        # Step 3, then the body's size and type.
        record = record_of(scope)
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._services.patience.acceptance_seconds
        organization = scope["path_params"].get("organization")
        act_as = _act_as(headers)
        question = Credential(_token(headers), _storable(organization), act_as)
        caller = await self._services.authenticator.authenticate(question, deadline=deadline)
        record.caller = caller.caller_key
        known_at = clock()
        body = await read_body(headers, receive, limit=self._address.body_limit)
        # Time that the caller takes to send is not ours.
        deadline += clock() - known_at
        if body:
            require_json_type(headers)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        self._check(caller, method)
        visit = RequestContext(
            services=self._services,
            method=method,
            path=scope["path"],
            base_url=_base_url(scope, headers),
            parameters=scope["path_params"],
            query_string=scope["query_string"],
            headers=headers,
            body=body,
            caller=caller,
            act_as=act_as,
            question=question,
            deadline=deadline,
            record=record,
        )
        if self._address.permission is not None:
            # Steps 7 to 9.
            require_organization_access(caller.actor, visit.organization, self._address.permission, method)
        return await self._address.operations[method].handle(visit)

    def _check(self, caller: Caller, method: str) -> None:
        # Steps 4 to 6.
        if self._address.permission is not None:
            require_token_scope(caller.actor, self._address.permission, method)
        if self._address.ops_role is not None:
            _require_ops(caller, self._address.ops_role)
        if method not in self._address.operations:
            raise MethodNotAllowed(method, self._allowed)
        if self._address.precondition is not None:
            self._address.precondition(caller.actor)

    def _options(self) -> HttpResponse:
        return HttpResponse(
            200,
            headers={
                "Allow": self._methods,
                "Access-Control-Allow-Methods": self._methods,
                "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
                "Access-Control-Max-Age": "600",
            },
        )

    def _welcomes(self, origin: str, headers: Headers) -> bool:
        origin = origin.lower()
        settings = self._services.settings
        own = {f"{scheme}://{(headers.get(b'host') or '').lower()}" for scheme in ("http", "https")}
        return (
            origin in own or origin == settings.public_origin or not settings.allowed_origins.isdisjoint({origin, "*"})
        )

    def _share(self, answered: HttpResponse, origin: str | None, *, is_welcome: bool) -> None:
        if origin is None and "Access-Control-Allow-Methods" not in answered.headers:
            return
        answered.headers["Vary"] = "Origin"
        if is_welcome:
            answered.headers["Access-Control-Allow-Origin"] = origin or "*"
            answered.headers["Access-Control-Expose-Headers"] = _EXPOSED

    def _label(self, scope: Scope) -> str:
        # A method that nobody knows is no label of its own: callers could make up any number of them.
        method: str = scope["method"]
        return method if method in self._allowed else "other"


def _token(headers: Headers) -> bytes:
    if headers.is_repeated(b"authorization"):
        raise Unauthenticated("Invalid token")
    scheme, _, token = (headers.get(b"authorization") or "").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated
    return hashlib.sha256(token.strip(" \t").encode("latin-1")).digest()


def _act_as(headers: Headers) -> int | None:
    value = headers.get(b"act-as")
    if value is None:
        return None
    kind, _, number = value.partition(":")
    # 0 is nobody's id: whoever cannot be named is refused as somebody who is no member.
    return (identifier(number) if kind == "user" and not headers.is_repeated(b"act-as") else None) or 0


def _storable(organization: str | None) -> str | None:
    return None if organization is None or "\0" in organization else organization


def _require_ops(caller: Caller, least: OpsRole) -> None:
    is_ops = caller.actor.kind is CallerKind.OPS and caller.ops_role is not None
    if not is_ops or _OPS_ROLES.index(caller.ops_role or least) < _OPS_ROLES.index(least):
        raise Forbidden


def _base_url(scope: Scope, headers: Headers) -> str:
    host = headers.get(b"host")
    if not host:
        name, port = scope.get("server") or ("localhost", None)
        host = f"{name}:{port}" if port else str(name)
    return f"{scope['scheme']}://{host}"


def _fault(*, problem: bool) -> HttpResponse:
    error_id = uuid.uuid4().hex
    log.exception("request.failed", error_id=error_id)
    return error_answer(500, {"detail": "Internal Error", "errorId": error_id}, problem=problem)


def unknown_address(headers: Headers, refusal: Refusal) -> HttpResponse:
    """The answer of a path that is none of ours."""
    return refusal_answer(refusal, problem=wants_problem(headers.joined(b"accept")))
