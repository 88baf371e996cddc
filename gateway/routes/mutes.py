"""Endpoints that mute an incident for the caller, and that end that."""

from __future__ import annotations

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation
from gateway.api.submit import submit_command
from gateway.http.responses import HttpResponse
from models.permissions import INCIDENT
from tasks.commands.mutes import MuteIncident, UnmuteIncident


async def mute_incident(context: RequestContext) -> HttpResponse:
    """Mute an incident for the caller and return 201, or 200 if it was muted already and may have got another end."""
    return await submit_command(context, MuteIncident, incident=context.incident_number())


async def unmute_incident(context: RequestContext) -> HttpResponse:
    """Unmute an incident for the caller and return 204, even if it was not muted."""
    return await submit_command(context, UnmuteIncident, incident=context.incident_number(), has_body=False)


ENDPOINTS = (
    Endpoint(
        "/api/0/organizations/{organization}/incidents/{identifier}/mute/",
        {
            "POST": Operation(
                mute_incident,
                "Mute an incident",
                {201: "Mute", 200: "Mute"},
                command_class=MuteIncident,
                path_fields=("incident",),
                is_command=True,
            ),
            "DELETE": Operation(unmute_incident, "Unmute an incident", {204: None}, is_command=True),
        },
        tag="incidents",
        permission=INCIDENT,
    ),
)
