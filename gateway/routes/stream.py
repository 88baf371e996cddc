"""What happens, as it happens: server-sent events."""

from __future__ import annotations

import re
from uuid import UUID

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation, Parameter
from gateway.api.submit import require_incident
from gateway.http.responses import HttpResponse, StreamedResponse
from models.policy import INBOX, INCIDENT, require_organization_access, require_token_scope
from models.refusals import NotFound
from tasks.commands.fields import identifier

EVENT_STREAM = "text/event-stream"

HEADERS = {
    "Cache-Control": "no-store",
    # Proxies that collect an answer before they pass it on (nginx) are asked not to.
    "X-Accel-Buffering": "no",
}


async def follow_events(visit: RequestContext) -> HttpResponse:
    """The caller's notifications and the events of incidents that they may read, in order, for as long as they stay."""
    last = visit.headers.get(b"last-event-id")
    reader = await visit.services.broadcaster.subscribe(
        visit.question,
        visit.caller,
        incident=await _narrowed(visit),
        last_id=_id_of(last),
        is_resuming=bool(last),
    )
    return StreamedResponse(200, headers=dict(HEADERS), media_type=EVENT_STREAM, source=reader)


async def _narrowed(visit: RequestContext) -> int | None:
    asked = visit.query.get("incident")
    if asked is None:
        return None
    # Like reading the incident itself.
    require_token_scope(visit.actor, INCIDENT, "GET")
    require_organization_access(visit.actor, visit.organization, INCIDENT, "GET")
    number = identifier(asked)
    if number is None:
        raise NotFound
    await require_incident(visit, number)
    return await visit.services.queries.incident_id(visit.organization.id, number)


def _id_of(text: str | None) -> UUID | None:
    known = re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text or "")
    return UUID(known[0]) if known else None


ADDRESSES = (
    Endpoint(
        "/api/0/organizations/{organization}/events/",
        {
            "GET": Operation(
                follow_events,
                "Follow what happens",
                {200: "Events"},
                parameters=(Parameter("incident", "Number of the only incident to follow"),),
                is_stream=True,
            )
        },
        tag="events",
        permission=INBOX,
    ),
)
