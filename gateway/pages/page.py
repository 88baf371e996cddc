"""A page as an ASGI application: its methods, its session, and what it says when something is wrong."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

import structlog
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from gateway.container import Container
from gateway.http.parsing import BODY_LIMIT_BYTES, Headers, read_body
from gateway.http.request_log import record_of
from gateway.http.responses import HttpResponse
from gateway.pages.request import FormRefused, NotLoggedIn, PageHandler, PageRequest
from gateway.pages.sessions import COOKIE, Sessions, new_session
from gateway.pages.site import Site
from models.notifications.tickets import Tickets
from models.refusals import Forbidden, NotFound, Refusal, Unavailable

log = structlog.get_logger(__name__)


class Page:
    """A page, with the function that answers each method."""

    def __init__(self, path: str, handlers: Mapping[str, PageHandler], container: Container, site: Site) -> None:
        self._path = path
        self._handlers = handlers
        self._container = container
        self._site = site
        secrets = container.settings.secrets
        self._sessions = Sessions(secrets) if secrets else None
        self._tickets = Tickets(secrets) if secrets else None
        self._methods = (*handlers, *(["HEAD"] if "GET" in handlers else []), "OPTIONS")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request. Every error becomes a page."""
        started = time.perf_counter()
        record_of(scope).route = self._path
        method: str = scope["method"]
        response = await self._respond(scope, receive)
        label = method if method in self._methods else "other"
        seconds = time.perf_counter() - started
        self._container.metrics.count_response(self._path, label, response.status, seconds=seconds)
        await response.send(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive) -> HttpResponse:
        allowed = ", ".join(self._methods)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if method == "OPTIONS":
            return HttpResponse(204, headers={"Allow": allowed})
        if method not in self._handlers:
            return self._site.not_allowed(allowed)
        if self._sessions is None or self._tickets is None:
            return self._site.message(
                503,
                "This page is not set up",
                "Pages need a secret to sign with. Ask whoever runs this tocsin to set TOCSIN_SECRET for the gateway.",
            )
        site = self._site
        try:
            request = await self._request(scope, receive, method, self._sessions, self._tickets)
        except Refusal as refusal:
            return site.message(refusal.status, "This did not work", refusal_text(refusal.body))
        try:
            response = await self._handlers[method](request)
        except NotLoggedIn as error:
            response = site.redirect(request.login_path(error.reason))
        except FormRefused:
            response = site.message(
                403, "Please try again", "This form is too old or was not sent from our page. Nothing was changed."
            )
        except (NotFound, Forbidden):
            response = site.page("not_found.html", 404, None, **request.facts())
        except Unavailable as refusal:
            response = site.message(503, "Please try again", "tocsin is busy or restarting.", refusal.headers)
        except Refusal as refusal:
            response = site.message(refusal.status, "This did not work", refusal_text(refusal.body), refusal.headers)
        except Exception:
            error_id = uuid.uuid4().hex
            log.exception("request.failed", error_id=error_id)
            response = site.message(500, "Something went wrong", f"Our logs know more about error {error_id}.")
        response.headers.update(request.cookie)
        return response

    async def _request(
        self, scope: Scope, receive: Receive, method: str, sessions: Sessions, tickets: Tickets
    ) -> PageRequest:
        headers = Headers(scope["headers"])
        body = await read_body(headers, receive, limit=BODY_LIMIT_BYTES) if method == "POST" else b""
        return PageRequest(
            container=self._container,
            site=self._site,
            sessions=sessions,
            tickets=tickets,
            method=method,
            path=scope["path"],
            parameters=scope["path_params"],
            query=QueryParams(scope["query_string"]),
            headers=headers,
            body=body,
            session=sessions.read(_cookie(headers)) or new_session(),
            record=record_of(scope),
            address=self._container.public_url.address_of(scope, headers),
        )


def refusal_text(body: object) -> str:
    """Return the first sentence in the JSON body of a refusal."""
    match body:
        case str():
            return body
        case dict():
            return next(map(refusal_text, body.values()), "")
        case list():
            return next(map(refusal_text, body), "")
        case _:
            return ""


def _cookie(headers: Headers) -> str | None:
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(headers.get(b"cookie") or "")
    except CookieError:
        return None
    return cookies[COOKIE].value if COOKIE in cookies else None
