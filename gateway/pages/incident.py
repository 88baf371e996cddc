"""The page about an incident, to which mails link."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote, urlencode

import orjson
import structlog
from markupsafe import Markup
from starlette.datastructures import QueryParams

from gateway.http.pagination import Cursor, cursor_int, cursor_time, parse_page
from gateway.http.responses import HttpResponse
from gateway.pages.commands import submit
from gateway.pages.page import refusal_text
from gateway.pages.request import NotLoggedIn, PageRequest
from gateway.reads.queries import IncidentDetails
from gateway.reads.visitors import Visitor
from models.enums import ActivityType, IncidentStatus
from models.notifications.tickets import ExpiredTicket, InvalidTicket
from models.permissions import INCIDENT
from models.policy import (
    OrganizationFacts,
    require_organization_access,
    require_project_access,
    require_token_scope,
)
from models.refusals import Forbidden, NotFound, Refusal
from models.timestamps import iso
from models.types import JSON

PATH: Final = "/organizations/{organization}/alerts/{identifier}/"
TIMELINE_ENTRIES: Final = 50

MUTE_HOURS: Final[Mapping[str, int | None]] = {"1": 1, "8": 8, "24": 24, "168": 168, "": None}
"""The choices of the form that mutes, in hours; ``None`` stands for no end."""

NOTICES: Final = {
    "comment": "Your comment was posted.",
    "close": "The incident is resolved.",
    "subscribe": "You are subscribed. You will hear of every comment and status change.",
    "unsubscribe": "You are unsubscribed. You will hear of this incident only if somebody mentions you.",
    "mute": "The incident is muted for you.",
    "unmute": "The incident is no longer muted for you.",
    "pending": "That was accepted and will be done in a moment. Reload the page to see the result.",
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of the timeline. ``comment`` is empty if there is none."""

    at: datetime
    who: str
    what: str
    comment: Markup
    status: str
    is_edited: bool


@dataclass(frozen=True, slots=True)
class _View:
    """What a person may see of an incident."""

    visitor: Visitor
    organization: OrganizationFacts
    number: int
    details: IncidentDetails


async def show_incident(request: PageRequest) -> HttpResponse:
    """Show an incident. A ticket in the query opens the page, and disappears from the address."""
    if "ticket" in request.query:
        return _open_with_ticket(request)
    view = await _view(request)
    return await _page(request, view, notice=NOTICES.get(request.query.get("done", "")))


async def change_incident(request: PageRequest) -> HttpResponse:
    """Submit the command that a form of the page stands for, and show its outcome."""
    view = await _view(request)
    request.require_own_form()
    action = request.field("action")
    if action not in _ACTIONS:
        raise NotFound
    chosen = _ACTIONS[action]
    try:
        response = await submit(
            request, view.visitor, chosen.command, incident=view.number, fields=chosen.fields(request)
        )
    except (NotFound, Forbidden):
        raise
    except Refusal as refusal:
        return await _failed(request, refusal.status, refusal.body)
    if response.status >= 400:
        return await _failed(request, response.status, orjson.loads(response.body))
    done = "pending" if response.status == 202 else action
    return request.site.redirect(f"{quote(request.path)}?done={done}")


def _open_with_ticket(request: PageRequest) -> HttpResponse:
    try:
        claims = request.tickets.read_page_ticket(request.query["ticket"])
    except ExpiredTicket:
        raise NotLoggedIn("expired") from None
    except InvalidTicket:
        raise NotLoggedIn("ticket") from None
    if claims.identifier != request.number():
        raise NotLoggedIn("ticket")
    log.info("ticket.used", ticket=claims.id, kind=claims.kind, user_id=claims.user_id)
    if request.session.user_id != claims.user_id or request.session.token_id is None:
        request.session = request.session.with_ticket(claims)
        request.cookie = request.site.set_cookie(request.sessions.write(request.session))
    rest = [(name, value) for name, value in request.query.multi_items() if name != "ticket"]
    return request.site.redirect(quote(request.path) + (f"?{urlencode(rest)}" if rest else ""))


async def _view(request: PageRequest) -> _View:
    """Return what the session's person may see now.

    :raises NotLoggedIn: if the session does not open this page.
    :raises NotFound: if there is no such incident.
    :raises Forbidden: if the person may not read it. The response is the same.
    """
    number = request.number()
    visitor = await request.visitor(request.parameters["organization"])
    organization = visitor.organization
    if not request.session.opens_incident(None if organization is None else organization.id, number):
        raise NotLoggedIn
    if organization is None or not number:
        raise NotFound
    require_token_scope(visitor.actor, INCIDENT, "GET")
    require_organization_access(visitor.actor, organization, INCIDENT, "GET")
    details, projects = await request.container.queries.incident(organization.id, number, visitor.actor.user_id)
    require_project_access(visitor.actor, organization, projects)
    return _View(visitor, organization, number, details)


async def _failed(request: PageRequest, status: int, body: JSON) -> HttpResponse:
    # The outcome may be that the person has lost access by now.
    view = await _view(request)
    error = refusal_text(body) if status < 500 else "This did not work. Nothing was changed. Please try again later."
    return await _page(request, view, status=status, error=error, draft=request.field("comment"))


async def _page(
    request: PageRequest,
    view: _View,
    *,
    status: int = 200,
    notice: str | None = None,
    error: str | None = None,
    draft: str = "",
) -> HttpResponse:
    cursor = request.query.get("cursor", "")
    page = parse_page(QueryParams({"cursor": cursor}), default=TIMELINE_ENTRIES, key_parsers=(cursor_time, cursor_int))
    rows = await request.container.queries.activities(view.organization.id, view.number, page, descending=True)
    shown = rows[:TIMELINE_ENTRIES]
    comments = await request.site.comments.render([row.comment or "" for row in shown])
    incident = view.details.incident
    mute = await request.container.queries.mute(incident.id, view.visitor.actor.user_id)
    path = request.site.base_path + quote(request.path)
    return request.site.page(
        "incident.html",
        status,
        None,
        **request.facts(view.visitor)
        | {
            "notice": notice,
            "error": error,
            "draft": draft,
            "path": path,
            "organization": view.visitor.organization_name,
            "incident": incident,
            "badge": _status(incident.status),
            "projects": view.details.projects,
            "is_subscribed": view.details.is_subscribed,
            "may_change": _may(view, "POST"),
            "may_close": incident.status is not IncidentStatus.CLOSED and _may(view, "PUT"),
            "mute": mute,
            "entries": [_entry(row, comment) for row, comment in zip(shown, comments, strict=True)],
            "older": f"{path}?cursor={_after(shown[-1])}" if len(rows) > TIMELINE_ENTRIES else None,
            "latest": path if cursor else None,
        },
    )


def _may(view: _View, method: str) -> bool:
    try:
        require_token_scope(view.visitor.actor, INCIDENT, method)
        require_organization_access(view.visitor.actor, view.organization, INCIDENT, method)
    except Refusal:
        return False
    return True


# --- the timeline ----------------------------------------------------------------------------------------------------


def _after(row: Any) -> str:
    return Cursor((row.date_added, row.id)).encode()


def _entry(row: Any, comment: Markup) -> _Entry:
    kind = ActivityType(row.type)
    status = ""
    if kind is ActivityType.COMMENT:
        what = "commented"
    elif kind is ActivityType.STATUS_CHANGE:
        old, new = (IncidentStatus(int(value)) for value in (row.previous_value, row.value))
        what, status = f"changed the status from {old.label} to {new.label}", _status(new)["name"]
    else:
        what = "opened the incident" if kind is ActivityType.CREATED else "detected the incident"
    return _Entry(
        at=row.date_added,
        who="tocsin" if row.author_id is None else row.name,
        what=what,
        comment=comment,
        status=status,
        is_edited=kind is ActivityType.COMMENT and row.version > 1,
    )


def _status(status: IncidentStatus) -> dict[str, str]:
    return {"name": status.label.lower(), "label": status.label}


# --- the forms -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Action:
    """A form of the page: the command that it stands for, and the command's fields."""

    command: str
    fields: Callable[[PageRequest], dict[str, JSON]] = lambda _: {}


def _mute_fields(request: PageRequest) -> dict[str, JSON]:
    hours = MUTE_HOURS.get(request.field("hours"))
    return {} if hours is None else {"until": iso(datetime.now(UTC) + timedelta(hours=hours))}


_ACTIONS: Final[Mapping[str, _Action]] = {
    "comment": _Action("comment.post", lambda request: {"comment": request.field("comment")}),
    "close": _Action("incident.set_status", lambda _: {"status": IncidentStatus.CLOSED.value}),
    "subscribe": _Action("incident.subscribe"),
    "unsubscribe": _Action("incident.unsubscribe"),
    "mute": _Action("incident.mute", _mute_fields),
    "unmute": _Action("incident.unmute"),
}
