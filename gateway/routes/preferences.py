"""Endpoints that read and replace the caller's own preferences for messages."""

from __future__ import annotations

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation
from gateway.api.submit import submit_command
from gateway.http.responses import HttpResponse, conditional_response
from models.permissions import PREFERENCES
from models.policy import require_person
from models.refusals import InvalidFields
from models.serializers.notifications import preferences_json
from tasks.commands.preferences import ReplacePreferences


async def read_preferences(context: RequestContext) -> HttpResponse:
    """Return the caller's preferences for messages, with the defaults of what the caller has not set."""
    stored = await context.container.preferences.preferences(context.actor)
    body = preferences_json(stored.preferences, stored.muted_incidents)
    return conditional_response(body, version=stored.version, if_none_match=context.if_none_match)


async def replace_preferences(context: RequestContext) -> HttpResponse:
    """Replace the caller's preferences for messages and return 200 with them."""
    body = await context.json_body()
    known = ReplacePreferences.wire_fields()
    if isinstance(body, dict) and (unknown := [name for name in body if name not in known]):
        raise InvalidFields({name: ["Unknown field."] for name in unknown})
    return await submit_command(context, ReplacePreferences)


ENDPOINTS = (
    Endpoint(
        "/api/0/users/me/preferences/",
        {
            "GET": Operation(read_preferences, "Read one's preferences", {200: "Preferences"}, has_etag=True),
            "PUT": Operation(
                replace_preferences,
                "Replace one's preferences",
                {200: "Preferences"},
                command_class=ReplacePreferences,
                is_command=True,
            ),
        },
        tag="notifications",
        permission=PREFERENCES,
        precondition=require_person,
        is_personal=True,
    ),
)
