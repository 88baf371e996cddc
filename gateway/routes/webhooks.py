"""Endpoints for an organization's webhooks, their secrets, and the deliveries to them."""

from __future__ import annotations

from typing import Final

import orjson

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation
from gateway.api.submit import submit_command
from gateway.http.pagination import cursor_uuid, page_response, parse_page
from gateway.http.responses import HttpResponse, conditional_response
from gateway.ledger.outcomes import Outcome
from models.notifications.webhook import Webhook
from models.permissions import WEBHOOKS
from models.serializers.webhooks import webhook_delivery_json, webhook_json
from tasks.commands.webhooks import (
    CreateWebhook,
    DeleteWebhook,
    Redeliver,
    RotateSecret,
    SendTestEvent,
    UpdateWebhook,
)

PAGE: Final = 100


async def list_webhooks(context: RequestContext) -> HttpResponse:
    """List the organization's webhooks, oldest first."""
    page = parse_page(context.query, default=PAGE)
    return page_response(
        page,
        await context.container.webhooks.webhooks(context.organization.id, page),
        key_of=lambda webhook: (webhook.id,),
        serialize=webhook_json,
        url=context.url,
        query=context.query,
    )


async def create_webhook(context: RequestContext) -> HttpResponse:
    """Create a webhook. Return 201 with the webhook and its secret, which no other response contains."""
    return await submit_command(context, CreateWebhook, complete=_add_secret)


async def read_webhook(context: RequestContext) -> HttpResponse:
    """Read a webhook."""
    webhook = await _webhook(context)
    return conditional_response(webhook_json(webhook), version=webhook.version, if_none_match=context.if_none_match)


async def update_webhook(context: RequestContext) -> HttpResponse:
    """Change a webhook, or enable it again. Omitted fields keep their values."""
    return await submit_command(context, UpdateWebhook, path_fields=_path_fields(context))


async def delete_webhook(context: RequestContext) -> HttpResponse:
    """Delete a webhook and return 204. What has not been delivered yet is not sent."""
    return await submit_command(context, DeleteWebhook, path_fields=_path_fields(context), has_body=False)


async def rotate_secret(context: RequestContext) -> HttpResponse:
    """Give a webhook a new secret, and return it. For 24 hours, the previous one signs, too."""
    return await submit_command(
        context, RotateSecret, path_fields=_path_fields(context), has_body=False, complete=_add_secret
    )


async def send_test_event(context: RequestContext) -> HttpResponse:
    """Send a test event to a webhook, even if it is disabled. Return 202 with the delivery."""
    return await submit_command(context, SendTestEvent, path_fields=_path_fields(context), has_body=False)


async def list_deliveries(context: RequestContext) -> HttpResponse:
    """List the deliveries to a webhook with their attempts, newest first."""
    page = parse_page(context.query, default=PAGE, key_parsers=(cursor_uuid,))
    webhook = await _webhook(context)
    return page_response(
        page,
        await context.container.webhooks.deliveries(webhook, page),
        key_of=lambda row: (row.id,),
        serialize=webhook_delivery_json,
        url=context.url,
        query=context.query,
    )


async def read_delivery(context: RequestContext) -> HttpResponse:
    """Read a delivery to a webhook, with its attempts."""
    row = await context.container.webhooks.delivery(await _webhook(context), context.uuid("delivery"))
    return conditional_response(webhook_delivery_json(row), version=0, if_none_match=context.if_none_match)


async def redeliver(context: RequestContext) -> HttpResponse:
    """Send a delivery again, with the same id and the same bytes. Return 202 with the delivery."""
    path_fields = _path_fields(context) | {"delivery": context.path_parameters["delivery"]}
    return await submit_command(context, Redeliver, path_fields=path_fields, has_body=False)


async def _webhook(context: RequestContext) -> Webhook:
    return await context.container.webhooks.webhook(context.organization.id, context.row_id("webhook"))


async def _add_secret(context: RequestContext, outcome: Outcome) -> Outcome:
    """Return the outcome with the secret that the command gave to its webhook."""
    if outcome.body is None or outcome.status not in (200, 201):
        return outcome
    sealed = await context.container.webhooks.sealed_secret(outcome.id)
    body = orjson.loads(outcome.body) | {"secret": context.container.secret_keeper.unseal(sealed)}
    return outcome._replace(body=orjson.dumps(body).decode())


def _path_fields(context: RequestContext) -> dict[str, str]:
    return {"id": context.path_parameters["webhook"]}


_WEBHOOKS: Final = "/api/0/organizations/{organization}/webhooks/"
_DELIVERIES: Final = _WEBHOOKS + "{webhook}/deliveries/"

ENDPOINTS = (
    Endpoint(
        _WEBHOOKS,
        {
            "GET": Operation(list_webhooks, "List webhooks", {200: "Webhook"}, is_list=True),
            "POST": Operation(
                create_webhook,
                "Create a webhook",
                {201: "WebhookWithSecret"},
                command_class=CreateWebhook,
                is_command=True,
            ),
        },
        tag="webhooks",
        permission=WEBHOOKS,
    ),
    Endpoint(
        _WEBHOOKS + "{webhook}/",
        {
            "GET": Operation(read_webhook, "Read a webhook", {200: "Webhook"}, has_etag=True),
            "PUT": Operation(
                update_webhook,
                "Change a webhook",
                {200: "Webhook"},
                command_class=UpdateWebhook,
                path_fields=("id",),
                is_command=True,
            ),
            "DELETE": Operation(delete_webhook, "Delete a webhook", {204: None}, is_command=True),
        },
        tag="webhooks",
        permission=WEBHOOKS,
    ),
    Endpoint(
        _WEBHOOKS + "{webhook}/rotate/",
        {"POST": Operation(rotate_secret, "Give a webhook a new secret", {200: "WebhookWithSecret"}, is_command=True)},
        tag="webhooks",
        permission=WEBHOOKS,
    ),
    Endpoint(
        _WEBHOOKS + "{webhook}/test/",
        {"POST": Operation(send_test_event, "Test a webhook", {202: "QueuedDelivery"}, is_command=True)},
        tag="webhooks",
        permission=WEBHOOKS,
    ),
    Endpoint(
        _DELIVERIES,
        {"GET": Operation(list_deliveries, "List the deliveries to a webhook", {200: "WebhookDelivery"}, is_list=True)},
        tag="webhooks",
        permission=WEBHOOKS,
    ),
    Endpoint(
        _DELIVERIES + "{delivery}/",
        {"GET": Operation(read_delivery, "Read a delivery to a webhook", {200: "WebhookDelivery"}, has_etag=True)},
        tag="webhooks",
        permission=WEBHOOKS,
    ),
    Endpoint(
        _DELIVERIES + "{delivery}/redeliver/",
        {"POST": Operation(redeliver, "Send a delivery again", {202: "QueuedDelivery"}, is_command=True)},
        tag="webhooks",
        permission=WEBHOOKS,
    ),
)
