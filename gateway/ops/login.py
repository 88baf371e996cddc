"""Logging operators in: with an operators' token, or with a ticket that works once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

import structlog
from starlette.routing import Route

from gateway.auth import Caller, Credential
from gateway.container import Container
from gateway.http.responses import HttpResponse
from gateway.ops.sessions import COOKIE, COOKIE_PATH, MAX_AGE_SECONDS, OpsSessions
from gateway.pages.page import Page
from gateway.pages.request import PageHandler, PageRequest
from gateway.pages.site import Site
from models.enums import CallerKind
from models.notifications.tickets import ExpiredTicket, InvalidTicket
from models.operations.login_tickets import LoginTickets, use_login_ticket
from models.refusals import Forbidden, TooManyRequests, Unauthenticated

LOGIN_PATH: Final = "/ops/login/"
LOGOUT_PATH: Final = "/ops/logout/"
START: Final = "/ops/"

_PAGE: Final = re.compile(r"/ops/(?!api/|login/|logout/)(?:[\w-]+/)*(\?[\w.~%=&+:-]*)?", re.ASCII)
"""What a login may lead to: the pages of the console."""

NOT_VALID: Final = "This is not a valid operations token."
WRONG_TICKET: Final = "This link is too old, or was used before. Log in with a token."

log = structlog.get_logger(__name__)


def login_path(request: PageRequest) -> str:
    """Return the path of the login that leads back to a requested page."""
    if request.path == START and not request.query:
        return LOGIN_PATH
    target = quote(request.path) + (f"?{request.query}" if request.query else "")
    return f"{LOGIN_PATH}?{urlencode({'next': target})}"


async def show_login(request: PageRequest) -> HttpResponse:
    """Show the form that takes a token, or log in with the ticket in the link."""
    ticket = request.query.get("ticket")
    return _form(request, 200) if ticket is None else await _with_ticket(request, ticket)


async def log_in(request: PageRequest) -> HttpResponse:
    """Open a session with an operators' token."""
    # A form token would need a session before there is one. Browsers say where a form was sent from.
    request.require_own_origin()
    if (locked := _locked(request)) is not None:
        return locked
    digest = hashlib.sha256(_token(request).strip().encode("utf-8", "replace")).digest()
    token_id = await _token_id_of(request, Credential(digest, None, None))
    return _failed(request, NOT_VALID) if token_id is None else _opened(request, token_id)


async def log_out(request: PageRequest) -> HttpResponse:
    """End the session in this browser."""
    request.require_own_origin()
    request.cookie = request.site.set_cookie("", name=COOKIE, path=COOKIE_PATH)
    return request.site.redirect(LOGIN_PATH)


PAGES: Final[Mapping[str, Mapping[str, PageHandler]]] = {
    LOGIN_PATH: {"GET": show_login, "POST": log_in},
    LOGOUT_PATH: {"POST": log_out},
}


def routes(container: Container, site: Site) -> list[Route]:
    """Return the routes for logging in and out."""
    return [Route(path, Page(path, handlers, container, site)) for path, handlers in PAGES.items()]


async def _with_ticket(request: PageRequest, ticket: str) -> HttpResponse:
    if (locked := _locked(request)) is not None:
        return locked
    try:
        claims = LoginTickets(request.container.settings.secrets).read(ticket)
        credential = await OpsSessions(request.container).token_credential(claims.token_id)
    except (ExpiredTicket, InvalidTicket, Unauthenticated):
        return _failed(request, WRONG_TICKET)
    token_id = await _token_id_of(request, credential)
    is_first = await request.container.operations.write(lambda connection: use_login_ticket(connection, claims))
    if token_id is None or not is_first:
        return _failed(request, WRONG_TICKET)
    log.info("ticket.used", ticket=claims.id, kind="ops", token_id=token_id)
    return _opened(request, token_id)


async def operator_of(request: PageRequest, credential: Credential) -> Caller | None:
    """Return the operator to whom a credential belongs, or ``None`` if it is anything but an operators' token."""
    try:
        caller = await request.container.authenticator.authenticate(credential, deadline=request.deadline())
    except (Unauthenticated, Forbidden):
        return None
    return caller if caller.actor.kind is CallerKind.OPS and caller.ops_role is not None else None


async def _token_id_of(request: PageRequest, credential: Credential) -> int | None:
    operator = await operator_of(request, credential)
    return None if operator is None else operator.token_id


def _token(request: PageRequest) -> str:
    if (request.headers.get(b"content-type") or "").startswith("application/json"):
        try:
            body = json.loads(request.body)
        except ValueError:
            return ""
        return str(body.get("token", "")) if isinstance(body, dict) else ""
    return request.field("token")


def _opened(request: PageRequest, token_id: int) -> HttpResponse:
    log.info("session.opened", kind="ops", token_id=token_id)
    value = OpsSessions(request.container).open(token_id)
    request.cookie = request.site.set_cookie(value, name=COOKIE, max_age=MAX_AGE_SECONDS, path=COOKIE_PATH)
    return request.site.redirect(_next(request) or START)


def _next(request: PageRequest) -> str:
    """Return the page that the login leads to, or an empty text if that is the first one.

    Only pages of the console are accepted, so that a link cannot lead elsewhere.
    """
    is_form = (request.headers.get(b"content-type") or "").startswith("application/x-www-form-urlencoded")
    target = request.field("next") if is_form else request.query.get("next", "")
    return target if _PAGE.fullmatch(target) else ""


def _locked(request: PageRequest) -> HttpResponse | None:
    try:
        request.container.failed_logins.require_allowed(request.address)
    except TooManyRequests as refusal:
        text = f"There were too many wrong tries. Try again in {refusal.retry_after} seconds."
        return _form(request, 429, error=text, headers=refusal.headers)
    return None


def _failed(request: PageRequest, error: str) -> HttpResponse:
    request.container.failed_logins.record(request.address)
    log.warning("session.refused", kind="ops", address=request.address)
    return _form(request, 403, error=error)


def _form(
    request: PageRequest, status: int, *, error: str | None = None, headers: Mapping[str, str] | None = None
) -> HttpResponse:
    return request.site.page("ops/login.html", status, headers, error=error, next=_next(request))
