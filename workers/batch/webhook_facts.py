"""The facts about webhooks that the commands of a batch need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from models.notifications.webhook import Webhook, WebhookDelivery


@dataclass(slots=True)
class WebhookFacts:
    """The facts about webhooks.

    ``by_id`` holds the webhooks that commands name, and ``counts`` the number of webhooks by organization id.
    ``deliveries`` holds the deliveries that commands name. Handlers pop new ids from ``new_ids``.
    """

    by_id: dict[int, Webhook] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    deliveries: Mapping[UUID, WebhookDelivery] = field(default_factory=dict)
    new_ids: list[int] = field(default_factory=list)

    def find(self, organization_id: int, id_: int) -> Webhook | None:
        """Return the organization's webhook with this id, if there is one."""
        webhook = self.by_id.get(id_)
        return webhook if webhook is not None and webhook.organization_id == organization_id else None

    def find_delivery(self, webhook: Webhook, id_: UUID) -> WebhookDelivery | None:
        """Return the webhook's delivery with this id, if there is one."""
        delivery = self.deliveries.get(id_)
        return delivery if delivery is not None and delivery.destination_id == webhook.id else None
