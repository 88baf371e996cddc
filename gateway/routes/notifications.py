"""The caller's inbox in an organization."""

from __future__ import annotations

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation, Parameter
from gateway.api.submit import ask
from gateway.http.pagination import page_response, parse_page
from gateway.http.responses import HttpResponse, read_answer
from models.policy import INBOX, require_person
from models.serializers import notification_json
from tasks.commands.notifications import ReadNotifications

PAGE = 100


async def list_notifications(visit: RequestContext) -> HttpResponse:
    """What the caller was told, newest first."""
    require_person(visit.actor)
    page = parse_page(visit.query, default=PAGE)
    unread = visit.query.get("unread", "") not in ("", "0", "false")
    rows = await visit.services.queries.inbox(visit.actor, visit.organization, page, unread=unread)
    return page_response(
        page, rows, key=lambda row: (row.id,), shape=notification_json, url=visit.url, query=visit.query
    )


async def count_notifications(visit: RequestContext) -> HttpResponse:
    """How much of it is unread."""
    require_person(visit.actor)
    count = await visit.services.queries.unread_count(visit.actor, visit.organization)
    return read_answer({"unread": count}, version=0, if_none_match=visit.if_none_match)


async def read_notifications(visit: RequestContext) -> HttpResponse:
    """Ask for items to be marked as read; 200 with how many were."""
    return await ask(visit, ReadNotifications)


ADDRESSES = (
    Endpoint(
        "/api/0/organizations/{organization}/notifications/",
        {
            "GET": Operation(
                list_notifications,
                "List the caller's notifications",
                {200: "Notification"},
                parameters=(Parameter("unread", "1 lists only what is unread"),),
                is_list=True,
            )
        },
        tag="notifications",
        permission=INBOX,
    ),
    Endpoint(
        "/api/0/organizations/{organization}/notifications/count/",
        {"GET": Operation(count_notifications, "Count unread notifications", {200: "UnreadCount"}, has_etag=True)},
        tag="notifications",
        permission=INBOX,
    ),
    Endpoint(
        "/api/0/organizations/{organization}/notifications/read/",
        {
            "POST": Operation(
                read_notifications,
                "Mark notifications as read",
                {200: "ReadCount"},
                command_class=ReadNotifications,
                is_command=True,
            )
        },
        tag="notifications",
        permission=INBOX,
    ),
)
