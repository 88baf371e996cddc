"""Webhook endpoints that accept requests in the formats of other systems."""

from __future__ import annotations

from gateway.api.alertmanager import parse_alert_group, unknown_fields
from gateway.api.bulk import BulkItem, submit_items
from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation
from gateway.http.parsing import LARGE_BODY_LIMIT_BYTES, parse_idempotency_key, parse_if_match, require_object
from gateway.http.responses import HttpResponse
from models.permissions import INCIDENTS
from models.policy import require_may_submit
from tasks.commands.alertmanager import ReceiveAlerts
from tasks.commands.catalog import CATALOG


async def receive_alerts(context: RequestContext) -> HttpResponse:
    """Receive a group of alerts from Prometheus Alertmanager. Return 202 with the command, or 200 if it is finished."""
    entry = CATALOG[ReceiveAlerts.name]
    require_may_submit(context.actor, for_people=entry.for_people, for_services=entry.for_services)
    key, condition = parse_idempotency_key(context.headers), parse_if_match(context.headers)
    body = require_object(await context.json_body())
    item = BulkItem(entry, await context.offload(parse_alert_group, body))
    context.ignore_unknown(unknown_fields(body))
    return await submit_items(context, [item], condition=condition, header_key=key)


ENDPOINTS = (
    Endpoint(
        "/api/0/organizations/{organization}/integrations/alertmanager/",
        {
            "POST": Operation(
                receive_alerts,
                "Receive alerts from Prometheus Alertmanager",
                {202: "CommandList", 200: "CommandList"},
                body="AlertGroup",
                is_command=True,
            )
        },
        tag="integrations",
        permission=INCIDENTS,
        body_limit=LARGE_BODY_LIMIT_BYTES,
    ),
)
