"""Endpoints that list, count and explain the notifications in the caller's inbox, and mark them as read."""

from __future__ import annotations

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation, Parameter
from gateway.api.submit import submit_command
from gateway.http.pagination import page_response, parse_page
from gateway.http.responses import HttpResponse, conditional_response, json_response
from models.permissions import INBOX
from models.policy import require_person
from models.serializers.notifications import decisions_json, notification_json
from tasks.commands.notifications import ReadNotifications

PAGE = 100


async def list_notifications(context: RequestContext) -> HttpResponse:
    """List the caller's notifications, newest first."""
    require_person(context.actor)
    page = parse_page(context.query, default=PAGE)
    unread = context.query.get("unread", "") not in ("", "0", "false")
    rows = await context.container.queries.inbox(context.actor, context.organization, page, unread=unread)
    return page_response(
        page, rows, key_of=lambda row: (row.id,), serialize=notification_json, url=context.url, query=context.query
    )


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
                parameters=(Parameter("unread", "1 lists only unread notifications."),),
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
