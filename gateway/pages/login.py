"""Logging in with an API token, and logging out."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import Final

import structlog

from gateway.auth import Caller, Credential
from gateway.http.responses import HttpResponse
from gateway.pages.request import PageRequest
from gateway.pages.sessions import new_session
from models.enums import CallerKind
from models.refusals import Unauthenticated

LOGIN_PATH: Final = "/login/"
LOGOUT_PATH: Final = "/logout/"
START: Final = "/inbox/"

_LOCAL_PATH: Final = re.compile(r"/(?![/\\])[!-\[\]-~]{0,2000}")
_REASONS: Final = {
    "expired": "This link is too old. Log in with a token to see the page.",
    "ticket": "This link is not valid for this page. Check that it is complete, or log in with a token.",
    "logout": "You are logged out.",
}

log = structlog.get_logger(__name__)


async def show_login(request: PageRequest) -> HttpResponse:
    """Show the form that takes a token."""
    return _form(request, 200, next_path=request.query.get("next", ""), notice=_REASONS.get(_reason(request)))


async def log_in(request: PageRequest) -> HttpResponse:
    """Open a session with a person's token, and lead on to the page that required it."""
    request.require_own_form()
    next_path = request.field("next")
    caller = await _caller(request)
    if caller is None:
        return _form(request, 403, next_path=next_path, error="This token is not valid.")
    if caller.actor.kind is not CallerKind.USER:
        text = "This token belongs to a program. Use a token of your own."
        return _form(request, 403, next_path=next_path, error=text)
    session = replace(new_session(), user_id=caller.actor.user_id, token_id=caller.token_id)
    log.info("session.opened", user_id=session.user_id, token_id=session.token_id)
    request.cookie = request.site.set_cookie(request.sessions.write(session))
    return request.site.redirect(_local(next_path))


async def log_out(request: PageRequest) -> HttpResponse:
    """End the session in this browser."""
    request.require_own_form()
    request.cookie = request.site.set_cookie("")
    return request.site.redirect(f"{LOGIN_PATH}?reason=logout")


async def _caller(request: PageRequest) -> Caller | None:
    digest = hashlib.sha256(request.field("token").strip().encode("utf-8", "replace")).digest()
    credential = Credential(digest, None, None)
    try:
        return await request.container.authenticator.authenticate(credential, deadline=request.deadline())
    except Unauthenticated:
        return None


def _form(
    request: PageRequest, status: int, *, next_path: str, notice: str | None = None, error: str | None = None
) -> HttpResponse:
    # The form's token belongs to a session, so the browser needs one before anybody is logged in.
    request.cookie = request.site.set_cookie(request.sessions.write(request.session))
    facts = request.facts() | {"notice": notice, "error": error, "next": _local(next_path)}
    return request.site.page("login.html", status, None, **facts)


def _reason(request: PageRequest) -> str:
    return request.query.get("reason", "")


def _local(path: str) -> str:
    """Return the path if it leads to a page of this site, and otherwise the inbox's."""
    return path if _LOCAL_PATH.fullmatch(path) else START
