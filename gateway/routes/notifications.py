"""Endpoints that list, count and explain the notifications in the caller's inbox, and mark them as read."""

from __future__ import annotations

from functools import partial
from typing import Final

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation, Parameter
from gateway.api.submit import submit_command
from gateway.http.pagination import page_response, parse_page
from gateway.http.responses import HttpResponse, conditional_response, json_response
from models.permissions import INBOX
from models.policy import require_person
from models.refusals import InvalidFields
from models.serializers.notifications import decisions_json, notification_json
from tasks.commands.notifications import ReadNotifications

PAGE = 100
_FLAGS: Final = {"1": True, "true": True, "0": False, "false": False}

_UNREAD: Final = Parameter(
    "unread",
    "1 or true lists only unread notifications, without retracted ones.",
    {"type": "string", "enum": list(_FLAGS)},
)


async def list_notifications(context: RequestContext) -> HttpResponse:
    """List the caller's notifications, newest first."""
    require_person(context.actor)
    page = parse_page(context.query, default=PAGE)
    rows = await context.container.queries.inbox(context.actor, context.organization, page, unread=_unread(context))
    organization_url = f"{context.base_url}/organizations/{context.organization.slug}"
    return page_response(
        page,
        rows,
        key_of=lambda row: (row.id,),
        serialize=partial(notification_json, organization_url=organization_url),
        url=context.url,
        query=context.query,
    )


def _unread(context: RequestContext) -> bool:
    value = context.query.get("unread", "0")
    if value not in _FLAGS:
        raise InvalidFields({"unread": [f"Valid values: {', '.join(_FLAGS)}."]})
    return _FLAGS[value]


async def count_notifications(context: RequestContext) -> HttpResponse:
    """Return the number of the caller's unread notifications."""
    require_person(context.actor)
    count = await context.container.queries.unread_count(context.actor, context.organization)
    return conditional_response({"unread": count}, version=0, if_none_match=context.if_none_match)


async def read_notifications(context: RequestContext) -> HttpResponse:
    """Mark notifications as read and return 200 with the number of those that were unread."""
    return await submit_command(context, ReadNotifications)


async def explain_notification(context: RequestContext) -> HttpResponse:
    """Return the decisions on whether to notify the caller of a notification's activity, newest first."""
    require_person(context.actor)
    notification = context.row_id("notification")
    found = await context.container.decisions.of_inbox_item(context.actor, context.organization, notification)
    return json_response(200, decisions_json(found))


ENDPOINTS = (
    Endpoint(
        "/api/0/organizations/{organization}/notifications/",
        {
            "GET": Operation(
                list_notifications,
                "List the caller's notifications",
                {200: "Notification"},
                parameters=(_UNREAD,),
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
    Endpoint(
        "/api/0/organizations/{organization}/notifications/{notification}/explain/",
        {
            "GET": Operation(
                explain_notification, "Explain why the caller was, or was not, notified", {200: "DecisionList"}
            )
        },
        tag="notifications",
        permission=INBOX,
    ),
)
