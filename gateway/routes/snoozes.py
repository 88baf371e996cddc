"""Endpoints that snooze and unsnooze an alert rule, under the path of one of its projects."""

from __future__ import annotations

from typing import Any

from gateway.api.access import require_project
from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation
from gateway.api.submit import submit_command
from gateway.http.responses import HttpResponse
from models.permissions import PROJECT_ALERT_RULES
from tasks.commands.snoozes import SnoozeRule, UnsnoozeRule


async def snooze_rule(context: RequestContext) -> HttpResponse:
    """Snooze a rule for the caller or for everyone. Return 201 with the snooze, or 410 if one is already active."""
    return await submit_command(context, SnoozeRule, path_fields=_path_fields(context), check_access=require_project)


async def unsnooze_rule(context: RequestContext) -> HttpResponse:
    """End the caller's snooze and the snooze for everyone, or only the one that the body selects, and return 204."""
    return await submit_command(context, UnsnoozeRule, path_fields=_path_fields(context), check_access=require_project)


def _path_fields(context: RequestContext) -> dict[str, Any]:
    return {"alertRule": context.path_parameters["rule"], "inProject": context.project_slug()}


ENDPOINTS = (
    Endpoint(
        "/api/0/projects/{organization}/{project}/alert-rules/{rule}/snooze/",
        {
            "POST": Operation(
                snooze_rule,
                "Snooze an alert rule",
                {201: "Snooze"},
                command_class=SnoozeRule,
                path_fields=("alertRule",),
                refusals=(410,),
                is_command=True,
            ),
            "DELETE": Operation(
                unsnooze_rule,
                "Unsnooze an alert rule",
                {204: None},
                command_class=UnsnoozeRule,
                path_fields=("alertRule",),
                is_command=True,
            ),
        },
        tag="alert rules",
        permission=PROJECT_ALERT_RULES,
    ),
)
