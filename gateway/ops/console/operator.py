"""The operator behind a request for a page, and what every page of the console has in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from gateway.http.responses import HttpResponse
from gateway.ops.login import login_path, operator_of
from gateway.ops.sessions import OpsSessions
from gateway.pages.page import refusal_text
from gateway.pages.request import FormRefused, PageHandler, PageRequest
from gateway.pages.site import HEADERS
from models.enums import OpsRole
from models.refusals import NotFound, Refusal, Unauthenticated, Unavailable

FORM_TOKEN: Final = "form_token"  # noqa: S105
"""The field of every form that holds the CSRF token of the session."""

CONSOLE_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": HEADERS["Content-Security-Policy"] + "; script-src 'self'; connect-src 'self'"
}
"""The console's pages run scripts of their own, which are files. Nothing inline runs."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Who is logged in. ``name`` is who the audit log names, ``form_token`` the CSRF token that forms must send."""

    name: str
    role: OpsRole
    form_token: str

    @property
    def may_change(self) -> bool:
        """Whether the operator may change anything. Viewers may not, and see nothing that users wrote."""
        return self.role is not OpsRole.VIEWER


ConsoleHandler = Callable[[PageRequest, Operator], Awaitable[HttpResponse]]
"""A function that answers an operator's request for a page."""


def for_operators(handle: ConsoleHandler) -> PageHandler:
    """Return a page handler that calls ``handle`` with the operator, and sends anyone else to the login.

    A POST must come from a form of the same session, and viewers may not send one.
    """

    async def answer(request: PageRequest) -> HttpResponse:
        try:
            operator = await _operator(request)
            if operator is None:
                return request.site.redirect(login_path(request))
            return await _answered(request, operator, handle)
        except Unavailable as refusal:
            return console_page(request, None, "unavailable.html", 503, refusal.headers)

    return answer


async def _answered(request: PageRequest, operator: Operator, handle: ConsoleHandler) -> HttpResponse:
    if request.method == "POST" and not operator.may_change:
        return _message(request, operator, 403, "Viewers cannot change anything", "Log in with an operator's token.")
    try:
        return await handle(request, operator)
    except Unavailable:
        raise
    except NotFound:
        text = "There is nothing here: it never existed, has ended, or is no longer kept."
        return _message(request, operator, 404, "Not found", text)
    except Refusal as refusal:
        return _message(request, operator, refusal.status, "This did not work", refusal_text(refusal.body))


def _message(request: PageRequest, operator: Operator, status: int, title: str, text: str) -> HttpResponse:
    return console_page(request, operator, "message.html", status, title=title, text=text)


def console_page(
    request: PageRequest,
    operator: Operator | None,
    template: str,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **facts: Any,
) -> HttpResponse:
    """Return a page of the console. ``template`` is the name of a file in the folder ``templates/ops``.

    Templates know ``operator``, ``path`` and ``here``, the address of this page with its filters.
    """
    query = f"?{request.query}" if request.query else ""
    return request.site.page(
        f"ops/{template}",
        status,
        {**CONSOLE_HEADERS, **(headers or {})},
        operator=operator,
        path=request.path,
        here=f"{request.site.base_path}{quote(request.path)}{query}",
        **facts,
    )


async def _operator(request: PageRequest) -> Operator | None:
    sessions = OpsSessions(request.container)
    session = sessions.read(request.headers)
    if session is None:
        return None
    form_token = sessions.csrf_token(session)
    if request.method == "POST":
        request.require_own_origin()
        if not sessions.is_csrf_token(session, request.field(FORM_TOKEN)):
            raise FormRefused
    try:
        caller = await operator_of(request, await sessions.token_credential(session.token_id))
    except Unauthenticated:
        return None
    if caller is None or caller.ops_role is None:
        return None
    return Operator(caller.audit_name, caller.ops_role, form_token)
