"""Functions that load the facts about webhooks."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from models.notifications.delivery import DeliveryState, deliveries
from models.notifications.webhook import WebhookDelivery, webhook_deliveries, webhook_from_row, webhooks
from workers.batch.fact_request import FactRequest
from workers.batch.webhook_facts import WebhookFacts


def load_webhook_facts(connection: Connection, request: FactRequest) -> WebhookFacts:
    """Load the webhooks and deliveries that the batch requests. ``new_ids`` is left empty."""
    facts = WebhookFacts()
    if request.webhook_ids:
        # Locked, because the deliverer disables failing webhooks.
        found = connection.execute(
            select(webhooks)
            .where(webhooks.c.id.in_(request.webhook_ids))
            .order_by(webhooks.c.id)
            .with_for_update(key_share=True)
        )
        facts.by_id = {row.id: webhook_from_row(row) for row in found}
    if request.webhook_count_organization_ids:
        counted = connection.execute(
            select(webhooks.c.organization_id, func.count().label("number"))
            .where(webhooks.c.organization_id.in_(request.webhook_count_organization_ids))
            .group_by(webhooks.c.organization_id)
        )
        numbers = {row.organization_id: row.number for row in counted}
        facts.counts = {id_: numbers.get(id_, 0) for id_ in request.webhook_count_organization_ids}
    if request.webhook_delivery_ids:
        rows = connection.execute(webhook_deliveries().where(deliveries.c.id.in_(request.webhook_delivery_ids)))
        facts.deliveries = {
            row.id: WebhookDelivery(**row._mapping)._replace(state=DeliveryState(row.state)) for row in rows
        }
    return facts
