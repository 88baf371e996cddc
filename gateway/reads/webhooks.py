"""Queries for webhooks and their deliveries."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import select

from gateway.http.pagination import Page
from gateway.reads.database import QueryRunner, Rows, paginate
from models.messaging.command_ledger import commands
from models.notifications.delivery import deliveries
from models.notifications.webhook import Webhook, webhook_deliveries, webhook_from_row, webhooks
from models.refusals import NotFound


class WebhookQueries:
    """Queries for an organization's webhooks and for what was sent to them."""

    def __init__(self, runner: QueryRunner) -> None:
        self._rows = runner.rows

    async def webhooks(self, organization: int, page: Page) -> list[Webhook]:
        """Return a page of an organization's webhooks, oldest first."""
        statement = select(webhooks).where(webhooks.c.organization_id == organization)
        return [webhook_from_row(row) for row in await self._rows(paginate(statement, page, webhooks.c.id))]

    async def webhook(self, organization: int, id_: int) -> Webhook:
        """Return one of an organization's webhooks.

        :raises NotFound: if the organization has no such webhook.
        """
        rows = await self._rows(
            select(webhooks).where(webhooks.c.organization_id == organization, webhooks.c.id == id_)
        )
        if not rows:
            raise NotFound
        return webhook_from_row(rows[0])

    async def deliveries(self, webhook: Webhook, page: Page) -> Rows:
        """Return a page of the deliveries to a webhook, newest first, with their attempts."""
        statement = webhook_deliveries().where(deliveries.c.destination_id == webhook.id)
        return await self._rows(paginate(statement, page, deliveries.c.id, descending=True))

    async def delivery(self, webhook: Webhook, id_: UUID) -> Any:
        """Return a delivery to a webhook, with its attempts.

        :raises NotFound: if the webhook has no such delivery.
        """
        rows = await self._rows(
            webhook_deliveries().where(deliveries.c.destination_id == webhook.id, deliveries.c.id == id_)
        )
        if not rows:
            raise NotFound
        return rows[0]

    async def sealed_secret(self, command: UUID) -> bytes:
        """Return the encrypted secret that a command gave to its webhook.

        It is read from the command and not from the webhook, which may have been given another one since.

        :raises NotFound: if the command is gone.
        """
        rows = await self._rows(
            select(commands.c.payload["sealed"].as_string().label("sealed")).where(commands.c.id == command)
        )
        if not rows:
            raise NotFound
        sealed: str = rows[0].sealed
        return sealed.encode("ascii")
