"""The operator behind a request for a page, and what every page of the console has in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from gateway.http.responses import HttpResponse
from gateway.ops.login import LOGIN_PATH, operator_of
from gateway.ops.sessions import OpsSessions
from gateway.pages.request import FormRefused, PageHandler, PageRequest
from gateway.pages.site import HEADERS
from models.enums import OpsRole
from models.refusals import Unauthenticated

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
        operator = await _operator(request)
        if operator is None:
            return request.site.redirect(LOGIN_PATH)
        if request.method == "POST" and not operator.may_change:
            return request.site.message(403, "Viewers cannot change anything", "Log in with an operator's token.")
        return await handle(request, operator)

    return answer


def console_page(
    request: PageRequest, operator: Operator, template: str, status: int = 200, **facts: Any
) -> HttpResponse:
    """Return a page of the console. ``template`` is the name of a file in the folder ``templates/ops``.

    Templates know ``operator``, ``path`` and ``here``, the address of this page with its filters.
    """
    query = f"?{request.query}" if request.query else ""
    return request.site.page(
        f"ops/{template}",
        status,
        CONSOLE_HEADERS,
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
