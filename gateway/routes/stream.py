"""The endpoint for the stream of server-sent events."""

from __future__ import annotations

import re
from uuid import UUID

from gateway.api.access import require_incident
from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation, Parameter
from gateway.http.responses import HttpResponse, StreamedResponse
from models.permissions import INBOX, INCIDENT
from models.policy import require_organization_access, require_token_scope
from models.refusals import NotFound
from tasks.commands.fields import identifier

EVENT_STREAM = "text/event-stream"

HEADERS = {
    "Cache-Control": "no-store",
    # Tells nginx not to buffer the response.
    "X-Accel-Buffering": "no",
}


async def follow_events(context: RequestContext) -> HttpResponse:
    """Stream the caller's notifications and the events on incidents that the caller may read, in order."""
    last = context.headers.get(b"last-event-id")
    subscriber = await context.container.broadcaster.subscribe(
        context.credential,
        context.caller,
        incident=await _selected_incident(context),
        last_id=_id_of(last),
        is_resuming=bool(last),
        base_url=context.base_url,
    )
    return StreamedResponse(200, headers=dict(HEADERS), media_type=EVENT_STREAM, source=subscriber)


async def _selected_incident(context: RequestContext) -> int | None:
    selected = context.query.get("incident")
    if selected is None:
        return None
    # The same checks as for reading the incident itself.
    require_token_scope(context.actor, INCIDENT, "GET")
    require_organization_access(context.actor, context.organization, INCIDENT, "GET")
    number = identifier(selected)
    if number is None:
        raise NotFound
    await require_incident(context, number)
    return await context.container.queries.incident_id(context.organization.id, number)


def _id_of(text: str | None) -> UUID | None:
    match = re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text or "")
    return UUID(match[0]) if match else None


ENDPOINTS = (
    Endpoint(
        "/api/0/organizations/{organization}/events/",
        {
            "GET": Operation(
                follow_events,
                "Follow events",
                {200: "Events"},
                parameters=(Parameter("incident", "Number of an incident: only its events."),),
                is_stream=True,
            )
        },
        tag="events",
        permission=INBOX,
    ),
)
