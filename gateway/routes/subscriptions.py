"""Endpoints that subscribe the caller to an incident and unsubscribe the caller from it."""

from __future__ import annotations

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation
from gateway.api.submit import submit_command
from gateway.http.responses import HttpResponse
from models.permissions import INCIDENT
from tasks.commands.subscriptions import Subscribe, Unsubscribe


async def subscribe(context: RequestContext) -> HttpResponse:
    """Subscribe the caller to an incident and return 201, even if the caller was already subscribed."""
    return await submit_command(context, Subscribe, incident=context.incident_number(), has_body=False)


async def unsubscribe(context: RequestContext) -> HttpResponse:
    """Unsubscribe the caller from an incident and return 200, even if the caller was not subscribed."""
    return await submit_command(context, Unsubscribe, incident=context.incident_number(), has_body=False)


ENDPOINTS = (
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
