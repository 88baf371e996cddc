"""Endpoints for an organization's chat destinations, and what is sent to them."""

from __future__ import annotations

from typing import Final

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation
from gateway.api.submit import submit_command
from gateway.http.pagination import cursor_uuid, page_response, parse_page
from gateway.http.responses import HttpResponse, conditional_response
from models.notifications.chat_destination import ChatDestination
from models.permissions import CHAT_DESTINATIONS
from models.serializers.chat_destinations import chat_destination_json
from models.serializers.webhooks import webhook_delivery_json
from tasks.commands.chat_destinations import (
    CreateChatDestination,
    DeleteChatDestination,
    SendTestMessage,
    UpdateChatDestination,
)

PAGE: Final = 100


async def list_destinations(context: RequestContext) -> HttpResponse:
    """List the organization's chat destinations, oldest first, without their URLs."""
    page = parse_page(context.query, default=PAGE)
    return page_response(
        page,
        await context.container.chat_destinations.destinations(context.organization.id, page),
        key_of=lambda destination: (destination.id,),
        serialize=chat_destination_json,
        url=context.url,
        query=context.query,
    )


async def create_destination(context: RequestContext) -> HttpResponse:
    """Register a chat destination and return 201. No response contains its URL."""
    return await submit_command(context, CreateChatDestination)


async def read_destination(context: RequestContext) -> HttpResponse:
    """Read a chat destination, without its URL."""
    destination = await _destination(context)
    return conditional_response(
        chat_destination_json(destination), version=destination.version, if_none_match=context.if_none_match
    )


async def update_destination(context: RequestContext) -> HttpResponse:
    """Change a chat destination, or enable it again. Omitted fields keep their values."""
    return await submit_command(context, UpdateChatDestination, path_fields=_path_fields(context))


async def delete_destination(context: RequestContext) -> HttpResponse:
    """Delete a chat destination and return 204. What has not been sent yet is not sent."""
    return await submit_command(context, DeleteChatDestination, path_fields=_path_fields(context), has_body=False)


async def send_test_message(context: RequestContext) -> HttpResponse:
    """Send a test message to a chat destination, even if it is disabled. Return 202 with the delivery."""
    return await submit_command(context, SendTestMessage, path_fields=_path_fields(context), has_body=False)


async def list_chat_deliveries(context: RequestContext) -> HttpResponse:
    """List the events and tests that are sent to a chat destination, newest first, with their attempts."""
    page = parse_page(context.query, default=PAGE, key_parsers=(cursor_uuid,))
    destination = await _destination(context)
    return page_response(
        page,
        await context.container.chat_destinations.deliveries(destination, page),
        key_of=lambda row: (row.id,),
        serialize=webhook_delivery_json,
        url=context.url,
        query=context.query,
    )


async def read_chat_delivery(context: RequestContext) -> HttpResponse:
    """Read a delivery to a chat destination, with its attempts."""
    destination = await _destination(context)
    row = await context.container.chat_destinations.delivery(destination, context.uuid("delivery"))
    return conditional_response(webhook_delivery_json(row), version=0, if_none_match=context.if_none_match)


async def _destination(context: RequestContext) -> ChatDestination:
    return await context.container.chat_destinations.destination(context.organization.id, context.row_id("destination"))


def _path_fields(context: RequestContext) -> dict[str, str]:
    return {"id": context.path_parameters["destination"]}


_DESTINATIONS: Final = "/api/0/organizations/{organization}/chat-destinations/"
_DELIVERIES: Final = _DESTINATIONS + "{destination}/deliveries/"

ENDPOINTS = (
    Endpoint(
        _DESTINATIONS,
        {
            "GET": Operation(list_destinations, "List chat destinations", {200: "ChatDestination"}, is_list=True),
            "POST": Operation(
                create_destination,
                "Register a chat destination",
                {201: "ChatDestination"},
                command_class=CreateChatDestination,
                is_command=True,
            ),
        },
        tag="chat destinations",
        permission=CHAT_DESTINATIONS,
    ),
    Endpoint(
        _DESTINATIONS + "{destination}/",
        {
            "GET": Operation(read_destination, "Read a chat destination", {200: "ChatDestination"}, has_etag=True),
            "PUT": Operation(
                update_destination,
                "Change a chat destination",
                {200: "ChatDestination"},
                command_class=UpdateChatDestination,
                path_fields=("id",),
                is_command=True,
            ),
            "DELETE": Operation(delete_destination, "Delete a chat destination", {204: None}, is_command=True),
        },
        tag="chat destinations",
        permission=CHAT_DESTINATIONS,
    ),
    Endpoint(
        _DESTINATIONS + "{destination}/test/",
        {"POST": Operation(send_test_message, "Test a chat destination", {202: "QueuedDelivery"}, is_command=True)},
        tag="chat destinations",
        permission=CHAT_DESTINATIONS,
    ),
    Endpoint(
        _DELIVERIES,
        {
            "GET": Operation(
                list_chat_deliveries,
                "List the deliveries to a chat destination",
                {200: "WebhookDelivery"},
                is_list=True,
            )
        },
        tag="chat destinations",
        permission=CHAT_DESTINATIONS,
    ),
    Endpoint(
        _DELIVERIES + "{delivery}/",
        {
            "GET": Operation(
                read_chat_delivery, "Read a delivery to a chat destination", {200: "WebhookDelivery"}, has_etag=True
            )
        },
        tag="chat destinations",
        permission=CHAT_DESTINATIONS,
    ),
)
