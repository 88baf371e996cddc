"""Handlers that register, change, delete and test chat destinations."""

from __future__ import annotations

from collections.abc import Iterable

from models.base import new_id
from models.enums import Channel, DestinationStatus
from models.notifications.chat_destination import (
    MAX_DESTINATIONS,
    TEST_EVENT,
    ChatDestination,
    NewTestMessage,
    name_key,
)
from models.notifications.delivery import DeliveryState, target_key
from models.notifications.webhook import WebhookDelivery
from models.refusals import Conflict, InvalidFields, NotFound
from models.serializers.chat_destinations import chat_destination_json
from models.serializers.webhooks import webhook_delivery_json
from tasks.commands.chat_destinations import (
    NO_EVENTS_FOR_PEOPLE,
    CreateChatDestination,
    DeleteChatDestination,
    SendTestMessage,
    UpdateChatDestination,
)
from workers.batch import needs
from workers.batch.context import CommandContext, CommandResult
from workers.batch.handler import handles
from workers.domain.event_patterns import check_patterns


@handles(CreateChatDestination, needs.new_chat_destination, needs.chat_person)
def create_chat_destination(command: CreateChatDestination, context: CommandContext) -> CommandResult:
    """Register a chat destination. The result does not contain its URL.

    :raises InvalidFields: if the name is taken, no event matches a pattern, or the person is not an active member.
    :raises Conflict: if the organization has :data:`MAX_DESTINATIONS` destinations, or the person has one already.
    """
    facts, organization = context.facts.chat, context.organization.id
    check_patterns(command.events)
    others = facts.of_organization(organization)
    if len(others) >= MAX_DESTINATIONS:
        raise Conflict(f"An organization may have at most {MAX_DESTINATIONS} chat destinations.")
    _check_name(command.label, others)
    if command.user is not None:
        _check_person(command.user, others, context)

    destination = ChatDestination(
        id=facts.new_ids.pop(),
        organization_id=organization,
        name=command.label,
        url=command.sealed or b"",
        shown=command.shown,
        events=command.events,
        user_id=command.user,
        status=DestinationStatus.ACTIVE,
        failing_since=None,
        version=1,
        created_by=context.actor.user_id,
        date_created=context.accepted_at,
        date_modified=context.accepted_at,
    )
    facts.by_id[destination.id] = destination
    context.changes.chat.created[destination.id] = destination
    return CommandResult(201, chat_destination_json(destination))


@handles(UpdateChatDestination, needs.chat_destinations)
def update_chat_destination(command: UpdateChatDestination, context: CommandContext) -> CommandResult:
    """Change a chat destination. An update that changes nothing gives it no new version.

    A new URL always changes it, because the old one cannot be compared.

    :raises InvalidFields: if the name is taken, or no event matches a pattern.
    """
    destination = _require_destination(command.id, context)
    context.require_version(destination.version)
    if command.events is not None:
        check_patterns(command.events)
        if command.events and destination.user_id is not None:
            raise InvalidFields({"events": [NO_EVENTS_FOR_PEOPLE]})
    if command.label is not None:
        others = context.facts.chat.of_organization(destination.organization_id)
        _check_name(command.label, (each for each in others if each.id != destination.id))

    given = {"name": command.label, "events": command.events, "url": command.sealed}
    changed = {name: value for name, value in given.items() if value not in (None, getattr(destination, name))}
    if command.sealed is not None:
        changed["shown"] = command.shown
    is_switched = command.status not in (None, destination.status)
    if not changed and not is_switched:
        return CommandResult(200, chat_destination_json(destination))

    for name, value in changed.items():
        setattr(destination, name, value)
    if command.status is not None and is_switched:
        destination.set_status(command.status)
    elif command.sealed is not None:
        destination.failing_since = None
    destination.record_change(context.accepted_at)
    if destination.id not in context.changes.chat.created:
        context.changes.chat.updated[destination.id] = destination
    return CommandResult(200, chat_destination_json(destination))


@handles(DeleteChatDestination, needs.chat_destinations)
def delete_chat_destination(command: DeleteChatDestination, context: CommandContext) -> CommandResult:
    """Delete a chat destination. The deliverer withholds what it has not sent yet."""
    destination = _require_destination(command.id, context)
    context.require_version(destination.version)

    del context.facts.chat.by_id[destination.id]
    changes = context.changes.chat
    changes.updated.pop(destination.id, None)
    if changes.created.pop(destination.id, None) is None:
        changes.deleted.add(destination.id)
    return CommandResult(204)


@handles(SendTestMessage, needs.chat_destinations)
def send_test_message(command: SendTestMessage, context: CommandContext) -> CommandResult:
    """Make a delivery of a test message to a chat destination, even if it is disabled."""
    destination = _require_destination(command.id, context)

    message = NewTestMessage(
        id=new_id(),
        organization_id=destination.organization_id,
        channel=Channel.CHAT.value,
        destination_id=destination.id,
        target_key=target_key(Channel.CHAT, destination.organization_id, destination.id),
        event_id=new_id(),
        event_type=TEST_EVENT,
        due_at=context.accepted_at,
        date_created=context.accepted_at,
    )
    context.changes.chat.tests.append(message)
    shown = WebhookDelivery(
        id=message.id,
        organization_id=message.organization_id,
        destination_id=message.destination_id,
        event_id=message.event_id,
        event_type=message.event_type,
        state=DeliveryState.PENDING,
        due_at=message.due_at,
        date_created=message.date_created,
        detail=None,
        attempts=(),
    )
    return CommandResult(202, webhook_delivery_json(shown))


def _require_destination(id_: int, context: CommandContext) -> ChatDestination:
    destination = context.facts.chat.find(context.organization.id, id_)
    if destination is None:
        raise NotFound
    return destination


def _check_name(name: str, others: Iterable[ChatDestination]) -> None:
    if any(each.name_key == name_key(name) for each in others):
        raise InvalidFields({"name": ["A chat destination with this name exists."]})


def _check_person(user_id: int, others: Iterable[ChatDestination], context: CommandContext) -> None:
    person = context.facts.people.get(user_id)
    if person is None or not person.is_active or (context.organization.id, user_id) not in context.facts.members:
        raise InvalidFields({"user": ["User does not exist"]})
    if any(each.user_id == user_id for each in others):
        raise Conflict("This person already has a chat destination.")
