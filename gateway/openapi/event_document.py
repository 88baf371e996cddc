"""The builder of the AsyncAPI document, which describes the events that tocsin publishes, from their classes."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.openapi.entity_schema import ComponentNames, Json, component_reference, entity_schema
from gateway.openapi.event_examples import EXAMPLES
from models.serializers.inbox_item import NotificationJson
from tasks.broker.topology import EVENTS_EXCHANGE
from tasks.event_json import ActorInEventJson, AlertRuleInEventJson, IncidentInEventJson
from tasks.events import EVENTS, SEQUENCE_DIGITS, UNPUBLISHED, Event, NotificationCreated

_STREAMED_FAMILIES: Final = ("incident", "alert_trigger")
"""The families of the events that are about an incident."""

_COMPONENTS: Final[ComponentNames] = {
    ActorInEventJson: "Actor",
    AlertRuleInEventJson: "AlertRule",
    IncidentInEventJson: "Incident",
    NotificationJson: "Notification",
}

_DESCRIPTION: Final = (
    "What happens in tocsin. Each event is a CloudEvent 1.0 in structured JSON, with the same body on the exchange, in"
    " a webhook and as the data of a server-sent event. Events of one `subject` arrive in the order of `sequence`,"
    " which has no gaps. An event may arrive more than once: its `id` tells."
)

_ATTRIBUTES: Final[Json] = {
    "specversion": {"type": "string", "const": "1.0"},
    "id": {"type": "string", "format": "uuid", "description": "Unique: a repeated event has the same id."},
    "source": {"type": "string", "pattern": "^/organizations/[^/]*$"},
    "subject": {"type": "string", "description": "What the event is about, as a path such as `incidents/1`."},
    "time": {"type": "string", "format": "date-time", "description": "When the command behind it was accepted."},
    "sequence": {
        "type": "string",
        "pattern": f"^[0-9]{{{SEQUENCE_DIGITS}}}$",
        "description": "Counts the subject's events, padded with zeros.",
    },
    "partitionkey": {"type": "string", "description": "The subject."},
    "datacontenttype": {"type": "string", "const": "application/json"},
}
_TRACE: Final[Json] = {"traceparent": {"type": "string", "description": "The trace context of the request, if any."}}


def build_event_document(base_url: str) -> Json:
    """Return the AsyncAPI document as a JSON object. ``base_url`` is the start of the gateway's URLs."""
    url = urlsplit(base_url)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "tocsin events",
            "version": version("tocsin"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache License 2.0"},
        },
        "defaultContentType": "application/cloudevents+json",
        "servers": {
            "gateway": {"host": url.netloc, "protocol": url.scheme} | ({"pathname": url.path} if url.path else {})
        },
        "channels": {
            "exchange": {
                "title": "The exchange",
                "address": EVENTS_EXCHANGE.name,
                "description": "A durable topic exchange of the broker. The routing key is the event's type.",
                # The broker's address is known only to those who run it.
                "messages": _messages(lambda event: event.type not in UNPUBLISHED),
                "bindings": {
                    "amqp": {
                        "is": "routingKey",
                        "exchange": {"name": EVENTS_EXCHANGE.name, "type": EVENTS_EXCHANGE.type, "durable": True},
                    }
                },
            },
            "stream": {
                "title": "Server-sent events",
                "address": "/api/0/organizations/{organization}/events/",
                "description": "The events of incidents that the caller may read, and the caller's own inbox items.",
                "servers": [{"$ref": "#/servers/gateway"}],
                "parameters": {"organization": {"description": "Slug or id of the organization."}},
                "messages": _messages(_is_streamed),
            },
            "webhook": {
                "title": "A webhook",
                "address": None,
                "description": "A POST, signed as Standard Webhooks says, to the URL of a webhook.",
                "messages": _messages(lambda event: event is not NotificationCreated),
            },
        },
        "operations": {
            f"send_to_{channel}": {
                "action": "send",
                "title": title,
                "channel": {"$ref": f"#/channels/{channel}"},
            }
            for channel, title in (
                ("exchange", "Publish an event on the exchange"),
                ("stream", "Send an event to a stream"),
                ("webhook", "Send an event to a webhook"),
            )
        },
        "components": {
            "messages": {_name(event): _message(event) for event in EVENTS.values()},
            "schemas": {name: entity_schema(entity, _COMPONENTS) for entity, name in _COMPONENTS.items()}
            | {_name(event): _payload(event) for event in EVENTS.values()},
        },
    }


def _name(event: type[Event]) -> str:
    """Return the component name of an event, such as ``IncidentOpened`` for ``incident.opened``."""
    return "".join(word.capitalize() for word in re.split("[._]", event.type))


def _is_streamed(event: type[Event]) -> bool:
    return event.type.partition(".")[0] in _STREAMED_FAMILIES or event is NotificationCreated


def _messages(are_sent: Callable[[type[Event]], bool]) -> Json:
    sent = [_name(event) for event in EVENTS.values() if are_sent(event)]
    return {name: {"$ref": f"#/components/messages/{name}"} for name in sent}


def _message(event: type[Event]) -> Json:
    first_paragraph = (event.__doc__ or "").partition("\n\n")[0]
    return {
        "name": event.type,
        "title": event.type,
        "summary": " ".join(first_paragraph.replace("``", "`").split()),
        "contentType": "application/cloudevents+json",
        "payload": component_reference(_name(event)),
        "examples": [{"name": event.type, "payload": EXAMPLES[event.type]}],
    }


def _payload(event: type[Event]) -> Json:
    about, changed = (entity_schema(each, _COMPONENTS) for each in (event.about_type, event.data_type))
    data: dict[str, Any] = {
        "type": "object",
        "properties": about["properties"] | changed["properties"],
        "required": [*about["required"], *changed["required"]],
    }
    required = {"type": {"type": "string", "const": event.type}} | _ATTRIBUTES | {"data": data}
    return {"type": "object", "properties": required | _TRACE, "required": list(required)}
