"""The caller's inbox in an organization."""

from __future__ import annotations

from typing import Any

from gateway.addresses import Address, Operation, Parameter
from gateway.answers import Answer, read_answer
from gateway.asking import ask
from gateway.paging import page_answer, page_of
from gateway.visit import Visit
from models.moments import iso, iso_or_none
from models.policy import INBOX, require_author
from models.vocabulary import JSON, ActivityType, IncidentStatus
from tasks.commands import ReadNotifications

PAGE = 100


async def list_notifications(visit: Visit) -> Answer:
    """What the caller was told, newest first."""
    require_author(visit.actor)
    page = page_of(visit.query, default=PAGE)
    unread = visit.query.get("unread", "") not in ("", "0", "false")
    rows = await visit.services.queries.inbox(visit.actor, visit.organization, page, unread=unread)
    return page_answer(page, rows, key=lambda row: (row.id,), shape=notification_json, url=visit.url, query=visit.query)


async def count_notifications(visit: Visit) -> Answer:
    """How much of it is unread."""
    require_author(visit.actor)
    count = await visit.services.queries.unread(visit.actor, visit.organization)
    return read_answer({"unread": count}, version=0, if_none_match=visit.if_none_match)


async def read_notifications(visit: Visit) -> Answer:
    """Ask for items to be marked as read; 200 with how many were."""
    return await ask(visit, ReadNotifications)


def notification_json(row: Any) -> dict[str, JSON]:
    """An item of the inbox, from its row."""
    return {
        "id": str(row.id),
        "reason": row.reason,
        "event": {"id": str(row.event_id), "type": row.event_type},
        "incident": {"identifier": str(row.identifier), "title": row.title},
        "activity": {"id": str(row.activity_id)},
        "text": "" if row.retracted else _text_of(row),
        "dateCreated": iso(row.date_created),
        "dateRead": iso_or_none(row.date_read),
        "retracted": row.retracted,
    }


def _text_of(row: Any) -> str:
    # The comment as it stands now is what people want to read, so an edit shows here too.
    if row.activity_type == ActivityType.STATUS_CHANGE and not row.comment:
        old, new = (IncidentStatus(int(value)).label for value in (row.previous_value, row.value))
        return f"changed status from {old} to {new}"
    return row.comment or ""


ADDRESSES = (
    Address(
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
    Address(
        "/api/0/organizations/{organization}/notifications/count/",
        {"GET": Operation(count_notifications, "Count unread notifications", {200: "UnreadCount"}, has_etag=True)},
        tag="notifications",
        permission=INBOX,
    ),
    Address(
        "/api/0/organizations/{organization}/notifications/read/",
        {
            "POST": Operation(
                read_notifications,
                "Mark notifications as read",
                {200: "ReadCount"},
                message=ReadNotifications,
                is_command=True,
            )
        },
        tag="notifications",
        permission=INBOX,
    ),
)
