"""Webhook endpoints that accept requests in the formats of other systems."""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from gateway.api.alertmanager import parse_alert_group, unknown_fields
from gateway.api.bulk import BulkItem, submit_items
from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation, Parameter
from gateway.http.parsing import LARGE_BODY_LIMIT_BYTES, parse_idempotency_key, parse_if_match, require_object
from gateway.http.responses import HttpResponse, json_response
from models.permissions import INCIDENTS
from models.policy import require_may_submit
from models.refusals import InvalidFields
from tasks.commands.alertmanager import MAX_STALE_SECONDS, MIN_STALE_SECONDS, ReceiveAlerts
from tasks.commands.catalog import CATALOG

STALE: Final = r"(?:(\d{1,7})w)?(?:(\d{1,7})d)?(?:(\d{1,7})h)?(?:(\d{1,7})m)?(?:(\d{1,7})s)?"
"""A duration as Prometheus writes it."""

_UNITS: Final = (7 * 24 * 60 * 60, 24 * 60 * 60, 60 * 60, 60, 1)

SOURCE: Final = "[A-Za-z0-9._-]{1,64}"


async def receive_alerts(context: RequestContext) -> HttpResponse:
    """Receive a group of alerts from Prometheus Alertmanager or Grafana.

    Return 202 with the command, or 200 if it is finished.
    """
    entry = CATALOG[ReceiveAlerts.name]
    require_may_submit(context.actor, for_people=entry.for_people, for_services=entry.for_services)
    key, condition = parse_idempotency_key(context.headers), parse_if_match(context.headers)
    body = require_object(await context.json_body())
    parse = partial(
        parse_alert_group,
        source=_source(context),
        default_project=_default_project(context),
        stale_seconds=_stale_seconds(context),
    )
    command = await context.offload(parse, body)
    context.ignore_unknown(unknown_fields(body))
    if command is None:
        # Alertmanager would repeat what is refused, and there is nothing to do.
        return json_response(202, {"commands": []})
    return await submit_items(context, [BulkItem(entry, command)], condition=condition, header_key=key)


def _source(context: RequestContext) -> str | None:
    source = context.query.get("source")
    if source is not None and not re.fullmatch(SOURCE, source):
        raise InvalidFields({"source": ["Send 1 to 64 letters, digits, dots, hyphens or underscores."]})
    return source


def _default_project(context: RequestContext) -> str | None:
    project = context.query.get("project", "").strip()
    if "\0" in project:
        raise InvalidFields({"project": ["Invalid project"]})
    return project or None


def _stale_seconds(context: RequestContext) -> int | None:
    stale = context.query.get("stale", "").strip()
    if not stale:
        return None
    match = re.fullmatch(STALE, stale, re.ASCII)
    seconds = 0 if match is None else sum(int(n or 0) * unit for n, unit in zip(match.groups(), _UNITS, strict=True))
    if not MIN_STALE_SECONDS <= seconds <= MAX_STALE_SECONDS:
        raise InvalidFields({"stale": ["Send a duration from 1m to 30d, such as 13h or 1h30m."]})
    return seconds


ENDPOINTS = (
    Endpoint(
        "/api/0/organizations/{organization}/integrations/alertmanager/",
        {
            "POST": Operation(
                receive_alerts,
                "Receive alerts from Prometheus Alertmanager",
                {202: "CommandList", 200: "CommandList"},
                body="AlertGroup",
                parameters=(
                    Parameter(
                        "source",
                        "Name that keeps several Alertmanagers apart; the key becomes NAME:groupKey.",
                        {"type": "string", "pattern": f"^{SOURCE}$"},
                    ),
                    Parameter("project", "Slug of the project for alerts that name none, or an unknown one."),
                    Parameter(
                        "stale",
                        "Duration, such as 13h, after which an incident is closed if its group is not mentioned.",
                        {"type": "string", "pattern": f"^{STALE}$"},
                    ),
                ),
                is_command=True,
            )
        },
        tag="integrations",
        permission=INCIDENTS,
        body_limit=LARGE_BODY_LIMIT_BYTES,
        # Alertmanager gives up after any 4xx.
        throttles_with_503=True,
    ),
)
