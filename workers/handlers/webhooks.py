"""Handlers that create, change, delete, test and rotate webhooks, and that send deliveries again."""

from __future__ import annotations

from typing import Final

import orjson

from models.base import new_id
from models.enums import Channel, DisabledReason, WebhookStatus
from models.notifications.delivery import DeliveryState, target_key
from models.notifications.webhook import (
    MAX_WEBHOOKS,
    NewWebhookDelivery,
    Webhook,
    WebhookDelivery,
)
from models.refusals import Conflict, NotFound
from models.serializers.webhooks import webhook_delivery_json, webhook_json
from tasks.commands.webhooks import (
    CreateWebhook,
    DeleteWebhook,
    Redeliver,
    RotateSecret,
    SendTestEvent,
    UpdateWebhook,
)
from tasks.events import WebhookTested
from workers.batch import needs
from workers.batch.context import CommandContext, CommandResult
from workers.batch.handler import handles
from workers.domain.event_patterns import check_patterns

DISABLED: Final = "The webhook is disabled. Set its status to active first."


@handles(CreateWebhook, needs.new_webhook)
def create_webhook(command: CreateWebhook, context: CommandContext) -> CommandResult:
    """Create a webhook. The result does not contain its secret.

    :raises InvalidFields: if no event matches one of the patterns.
    :raises Conflict: if the organization already has :data:`MAX_WEBHOOKS` webhooks.
    """
    check_patterns(command.events)
    facts, organization = context.facts.webhooks, context.organization.id
    if facts.counts[organization] >= MAX_WEBHOOKS:
        raise Conflict(f"An organization may have at most {MAX_WEBHOOKS} webhooks.")

    webhook = Webhook(
        id=facts.new_ids.pop(),
        organization_id=organization,
        url=command.url,
        events=command.events,
        description=command.description,
        status=WebhookStatus.ACTIVE,
        disabled_reason=None,
        secret=command.sealed.encode("ascii"),
        previous_secret=None,
        previous_secret_until=None,
        failing_since=None,
        version=1,
        created_by=context.actor.user_id,
        date_created=context.accepted_at,
        date_modified=context.accepted_at,
    )
    facts.counts[organization] += 1
    facts.by_id[webhook.id] = webhook
    context.changes.webhooks.created[webhook.id] = webhook
    return CommandResult(201, webhook_json(webhook))


@handles(UpdateWebhook, needs.webhook)
def update_webhook(command: UpdateWebhook, context: CommandContext) -> CommandResult:
    """Change a webhook. An update that changes nothing gives it no new version.

    :raises InvalidFields: if no event matches one of the patterns.
    """
    webhook = _require_webhook(command.id, context)
    context.require_version(webhook.version)
    if command.events is not None:
        check_patterns(command.events)

    given = {"url": command.url, "events": command.events, "description": command.description}
    changed = {name: value for name, value in given.items() if value not in (None, getattr(webhook, name))}
    is_switched = command.status not in (None, webhook.status)
    if not changed and not is_switched:
        return CommandResult(200, webhook_json(webhook))

    for name, value in changed.items():
        setattr(webhook, name, value)
    if is_switched and command.status is WebhookStatus.ACTIVE:
        webhook.enable()
    elif is_switched:
        webhook.disable(DisabledReason.MANUAL)
    _record_change(webhook, context)
    return CommandResult(200, webhook_json(webhook))


@handles(DeleteWebhook, needs.webhook)
def delete_webhook(command: DeleteWebhook, context: CommandContext) -> CommandResult:
    """Delete a webhook. The deliverer suppresses what it has not sent yet."""
    webhook = _require_webhook(command.id, context)
    context.require_version(webhook.version)

    del context.facts.webhooks.by_id[webhook.id]
    counts = context.facts.webhooks.counts
    if webhook.organization_id in counts:
        counts[webhook.organization_id] -= 1
    changes = context.changes.webhooks
    changes.updated.pop(webhook.id, None)
    if changes.created.pop(webhook.id, None) is None:
        changes.deleted.add(webhook.id)
    return CommandResult(204)


@handles(RotateSecret, needs.webhook)
def rotate_secret(command: RotateSecret, context: CommandContext) -> CommandResult:
    """Give a webhook a new secret. The result does not contain it."""
    webhook = _require_webhook(command.id, context)

    webhook.rotate(command.sealed.encode("ascii"), at=context.accepted_at)
    _record_change(webhook, context)
    return CommandResult(200, webhook_json(webhook))


@handles(SendTestEvent, needs.webhook)
def send_test_event(command: SendTestEvent, context: CommandContext) -> CommandResult:
    """Make a delivery of a test event to a webhook, even if the webhook is disabled."""
    webhook = _require_webhook(command.id, context)

    event_id, body = context.test_event(WebhookTested(webhook.id), subject=f"webhooks/{webhook.id}")
    delivery = NewWebhookDelivery(
        id=new_id(),
        organization_id=webhook.organization_id,
        channel=Channel.WEBHOOK.value,
        destination_id=webhook.id,
        target_key=target_key(Channel.WEBHOOK, webhook.organization_id, webhook.id),
        event_id=event_id,
        event_type=WebhookTested.type,
        body=orjson.dumps(body),
        due_at=context.accepted_at,
    )
    context.changes.webhooks.tests.append(delivery)
    shown = WebhookDelivery(
        id=delivery.id,
        organization_id=delivery.organization_id,
        destination_id=delivery.destination_id,
        event_id=delivery.event_id,
        event_type=delivery.event_type,
        state=DeliveryState.PENDING,
        due_at=delivery.due_at,
        date_created=context.accepted_at,
        detail=None,
        attempts=(),
    )
    return CommandResult(202, webhook_delivery_json(shown))


@handles(Redeliver, needs.webhook, needs.webhook_delivery)
def redeliver(command: Redeliver, context: CommandContext) -> CommandResult:
    """Make a delivery due now, whatever its state.

    :raises NotFound: if the webhook has no such delivery.
    :raises Conflict: if the webhook is disabled.
    """
    webhook = _require_webhook(command.id, context)
    delivery = context.facts.webhooks.find_delivery(webhook, command.delivery)
    if delivery is None:
        raise NotFound
    if not webhook.is_active and delivery.event_type != WebhookTested.type:
        raise Conflict(DISABLED)

    context.changes.webhooks.redelivered.add(delivery.id)
    pending = delivery._replace(state=DeliveryState.PENDING, due_at=context.accepted_at, detail=None)
    return CommandResult(202, webhook_delivery_json(pending))


def _require_webhook(id_: int, context: CommandContext) -> Webhook:
    webhook = context.facts.webhooks.find(context.organization.id, id_)
    if webhook is None:
        raise NotFound
    return webhook


def _record_change(webhook: Webhook, context: CommandContext) -> None:
    webhook.record_change(context.accepted_at)
    if webhook.id not in context.changes.webhooks.created:
        context.changes.webhooks.updated[webhook.id] = webhook
