"""Hearing of an incident, or not."""

from __future__ import annotations

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation
from gateway.api.submit import ask
from gateway.http.responses import HttpResponse
from models.policy import INCIDENT
from tasks.commands.subscriptions import Subscribe, Unsubscribe


async def subscribe(visit: RequestContext) -> HttpResponse:
    """Ask to hear of an incident; 201, no matter whether the caller did already."""
    return await ask(visit, Subscribe, incident=visit.incident_number(), has_body=False)


async def unsubscribe(visit: RequestContext) -> HttpResponse:
    """Ask to hear no more of an incident; 200, no matter whether the caller did."""
    return await ask(visit, Unsubscribe, incident=visit.incident_number(), has_body=False)


ADDRESSES = (
    Endpoint(
        "/api/0/organizations/{organization}/incidents/{identifier}/subscriptions/",
        {
            "POST": Operation(subscribe, "Subscribe to an incident", {201: "Nothing"}, is_command=True),
            "DELETE": Operation(unsubscribe, "Unsubscribe from an incident", {200: "Nothing"}, is_command=True),
        },
        tag="incidents",
        permission=INCIDENT,
    ),
)
