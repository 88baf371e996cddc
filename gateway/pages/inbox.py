"""A person's inbox, over all their organizations."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import structlog
from starlette.datastructures import QueryParams

from gateway.http.pagination import parse_page
from gateway.http.responses import HttpResponse
from gateway.pages.commands import submit
from gateway.pages.request import NotLoggedIn, PageRequest
from gateway.reads.visitors import Visitor
from models.enums import NotificationReason
from models.notifications.tickets import ExpiredTicket, InvalidTicket
from models.permissions import INBOX
from models.policy import require_organization_access, require_token_scope
from models.refusals import Refusal
from models.serializers.notifications import notification_json

PATH: Final = "/inbox/"
ITEMS: Final = 50
"""How many unread items, and how many items in total, each organization contributes."""

_NOTICES: Final = {"read": "Everything is marked as read."}
_REASONS: Final = {
    NotificationReason.MENTION: "You were mentioned",
    NotificationReason.TEAM_MENTION: "Your team was mentioned",
    NotificationReason.SUBSCRIBED: "You are subscribed",
}

log = structlog.get_logger(__name__)


class _Item(NamedTuple):
    is_unread: bool
    at: datetime
    id: int
    organization: str
    number: str
    title: str
    reason: str
    who: str
    text: str
    link: str


async def show_inbox(request: PageRequest) -> HttpResponse:
    """Show the inbox, unread items first. A ticket in the query opens the page, and disappears from the address."""
    if "ticket" in request.query:
        return _open_with_ticket(request)
    visitors = await _visitors(request)
    items = [item for visitor in visitors for item in await _items(request, visitor)]
    # Latest first, then unread first.
    items.sort(key=lambda item: (item.at, item.id), reverse=True)
    items.sort(key=lambda item: not item.is_unread)
    notice = _NOTICES.get(request.query.get("done", ""))
    return request.site.page(
        "inbox.html", 200, None, **request.facts(await request.visitor()) | {"items": items, "notice": notice}
    )


async def read_all(request: PageRequest) -> HttpResponse:
    """Mark everything that the page showed as read."""
    visitors = await _visitors(request)
    request.require_own_form()
    shown: dict[str, int] = {}
    for value in request.form.get("shown", []):
        slug, _, id_ = value.rpartition(":")
        if id_.isdecimal():
            shown[slug] = max(shown.get(slug, 0), int(id_))
    for visitor in visitors:
        if visitor.organization is not None and (up_to := shown.get(visitor.organization.slug)):
            await submit(request, visitor, "notification.read", fields={"upTo": up_to})
    return request.site.redirect(f"{PATH}?done=read")


def _open_with_ticket(request: PageRequest) -> HttpResponse:
    try:
        claims = request.tickets.read_inbox_ticket(request.query["ticket"])
    except ExpiredTicket:
        raise NotLoggedIn("expired") from None
    except InvalidTicket:
        raise NotLoggedIn("ticket") from None
    log.info("ticket.used", ticket=claims.id, kind=claims.kind, user_id=claims.user_id)
    if request.session.user_id != claims.user_id or request.session.token_id is None:
        request.session = request.session.with_ticket(claims)
        request.cookie = request.site.set_cookie(request.sessions.write(request.session))
    return request.site.redirect(PATH)


async def _visitors(request: PageRequest) -> Sequence[Visitor]:
    """Return the person with their rights in each organization in which they may read their inbox."""
    session = request.session
    if session.user_id is None or not (session.opens_inbox or session.token_id is not None):
        raise NotLoggedIn
    # This also finds out whether the account and the token are still valid.
    await request.visitor()
    memberships = await request.container.visitors.memberships(session.user_id, session.token_id)
    return [visitor for visitor in memberships if _may_read_inbox(visitor)]


def _may_read_inbox(visitor: Visitor) -> bool:
    if visitor.organization is None:
        return False
    try:
        require_token_scope(visitor.actor, INBOX, "GET")
        require_organization_access(visitor.actor, visitor.organization, INBOX, "GET")
    except Refusal:
        return False
    return True


async def _items(request: PageRequest, visitor: Visitor) -> list[_Item]:
    organization = visitor.organization
    if organization is None:
        return []
    page = parse_page(QueryParams(""), default=ITEMS)
    queries = request.container.queries
    unread = await queries.inbox(visitor.actor, organization, page, unread=True)
    latest = await queries.inbox(visitor.actor, organization, page, unread=False)
    rows = {row.id: row for row in (*unread[:ITEMS], *latest[:ITEMS]) if not row.retracted}
    items = []
    for row in rows.values():
        shown = notification_json(row, f"{request.site.base_path}/organizations/{organization.slug}")
        link = shown["link"]
        if request.session.token_id is None:
            # The session itself opens no incident. What is in the inbox can be opened from there.
            user_id = visitor.actor.user_id or 0
            ticket = request.tickets.page_ticket(user_id, organization.id, row.incident_id, row.identifier)
            link += f"?ticket={ticket}"
        items.append(
            _Item(
                is_unread=row.date_read is None,
                at=row.date_created,
                id=row.id,
                organization=organization.slug,
                number=shown["incident"]["identifier"],
                title=row.title,
                reason=_REASONS.get(NotificationReason(row.reason), ""),
                who=row.author_name or "tocsin",
                text=shown["text"],
                link=link,
            )
        )
    return items
