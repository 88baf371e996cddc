"""Keeping an alert rule silent, through the project that it watches."""

from __future__ import annotations

from typing import Any

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation
from gateway.api.submit import ask, require_project
from gateway.http.responses import HttpResponse
from models.policy import PROJECT_ALERT_RULES
from tasks.commands.snoozes import SnoozeRule, UnsnoozeRule


async def snooze_rule(visit: RequestContext) -> HttpResponse:
    """Ask for silence, for oneself or for everyone; 201 with it, 410 while it holds already."""
    return await ask(visit, SnoozeRule, in_address=_rule(visit), reach=require_project)


async def unsnooze_rule(visit: RequestContext) -> HttpResponse:
    """Ask for the rule to speak again, to the caller and to everyone unless the body says to whom; 204."""
    return await ask(visit, UnsnoozeRule, in_address=_rule(visit), reach=require_project)


def _rule(visit: RequestContext) -> dict[str, Any]:
    return {"alertRule": visit.parameters["rule"], "inProject": visit.project_slug()}


ADDRESSES = (
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
                "Let an alert rule speak again",
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
