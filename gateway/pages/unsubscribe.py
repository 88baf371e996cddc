"""Unsubscribing from an incident by the link in a mail, also with one click (RFC 8058)."""

from __future__ import annotations

from typing import Final

import structlog

from gateway.http.responses import HttpResponse
from gateway.ledger.submission import Submission
from gateway.pages.commands import submit
from gateway.pages.request import PageRequest
from gateway.reads.visitors import Visitor
from models.base import new_id
from models.enums import CallerKind
from models.messaging.command_ledger import NewCommand
from models.messaging.subject import Subject
from models.notifications.tickets import ExpiredTicket, InvalidTicket, TicketClaims
from models.permissions import INCIDENT
from models.policy import require_organization_access, require_project_access
from models.refusals import Forbidden, NotFound
from tasks.commands.catalog import CATALOG
from tasks.commands.subscriptions import Unsubscribe

PATH: Final = "/unsubscribe/{ticket}/"

log = structlog.get_logger(__name__)


async def ask_to_unsubscribe(request: PageRequest) -> HttpResponse:
    """Show a button. Programs open the links in mails, so opening this one changes nothing."""
    claims = _claims(request)
    if isinstance(claims, HttpResponse):
        return claims
    used_at = await request.container.used_tickets.used_at(claims)
    return request.site.page("unsubscribe.html", used_at=used_at, number=claims.identifier, is_done=False)


async def unsubscribe(request: PageRequest) -> HttpResponse:
    """Unsubscribe the person whom the ticket names. It needs no login, and works once; repeating it is answered alike.

    :raises Unavailable: if the command cannot be accepted now.
    """
    claims = _claims(request)
    if isinstance(claims, HttpResponse):
        return claims
    # Mail services send this as a form in either encoding.
    if not (b"List-Unsubscribe" in request.body and b"One-Click" in request.body):
        return request.site.message(400, "This did not work", "Use the button on the page.")
    used = request.container.used_tickets
    used_at = await used.used_at(claims)
    if used_at is None:
        await _submit(request, claims)
        await used.record(claims)
        log.info("ticket.used", ticket=claims.id, kind=claims.kind, user_id=claims.user_id)
    return request.site.page("unsubscribe.html", used_at=used_at, number=claims.identifier, is_done=True)


def _claims(request: PageRequest) -> TicketClaims | HttpResponse:
    try:
        return request.tickets.read_unsubscribe_ticket(request.parameters["ticket"])
    except (ExpiredTicket, InvalidTicket) as error:
        is_old = isinstance(error, ExpiredTicket)
        text = "This link is too old." if is_old else "This link is not valid. Check that it is complete."
        return request.site.message(410 if is_old else 404, "You cannot unsubscribe here", text)


async def _submit(request: PageRequest, claims: TicketClaims) -> None:
    visitor = await request.container.visitors.visitor(claims.user_id, None, claims.organization_id)
    if visitor is not None and await _may_read(request, visitor, claims):
        await submit(request, visitor, Unsubscribe.name, incident=claims.identifier, waits=False)
    else:
        # Nobody unsubscribes who may not read the incident, but tocsin unsubscribes those who may not.
        await _submit_as_system(request, claims)


async def _may_read(request: PageRequest, visitor: Visitor, claims: TicketClaims) -> bool:
    try:
        if visitor.organization is None:
            return False
        require_organization_access(visitor.actor, visitor.organization, INCIDENT, "DELETE")
        projects = await request.container.queries.incident_projects(claims.organization_id, claims.identifier)
        require_project_access(visitor.actor, visitor.organization, projects)
    except (Forbidden, NotFound):
        return False
    return True


async def _submit_as_system(request: PageRequest, claims: TicketClaims) -> None:
    command = Unsubscribe(incident=str(claims.identifier))
    entry = CATALOG[command.name]
    subject = Subject.incident(claims.organization_id, claims.identifier)
    row = NewCommand(
        id=new_id(),
        type=command.name,
        subject=str(subject),
        lane=entry.lane,
        organization_id=claims.organization_id,
        token_id=None,
        user_id=claims.user_id,
        caller=CallerKind.SYSTEM,
        payload=command.to_payload(),
        request_id=request.record.trace.request_id,
        traceparent=request.record.trace.traceparent,
        incident=claims.identifier,
        payload_version=command.payload_version,
    )
    await request.container.acceptor.accept(Submission((row,)), deadline=request.deadline())
    request.record.command_ids.append(row.id)
