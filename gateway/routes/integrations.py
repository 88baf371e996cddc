"""What other systems send in words of their own."""

from __future__ import annotations

from gateway.api.alertmanager import parse_alert_group
from gateway.api.bulk import Item, ask_for_each
from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation
from gateway.api.submit import require_right_to_author
from gateway.http.parsing import LARGE_BODY_LIMIT, idempotency_key, if_match, object_of
from gateway.http.responses import HttpResponse
from models.policy import INCIDENTS
from tasks.commands.alertmanager import ReceiveAlerts
from tasks.commands.catalog import CATALOG


async def receive_alerts(visit: RequestContext) -> HttpResponse:
    """Take what Prometheus Alertmanager says of a group of alerts; 202 with the command that follows from it."""
    entry = CATALOG[ReceiveAlerts.name]
    require_right_to_author(visit, entry)
    key, condition = idempotency_key(visit.headers), if_match(visit.headers)
    body = object_of(await visit.json())
    item = Item(entry, await visit.beside(parse_alert_group, body), key=None, source=body)
    return await ask_for_each(visit, [item], condition=condition, header_key=key, body=body)


ADDRESSES = (
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
        body_limit=LARGE_BODY_LIMIT,
    ),
)
