"""Queries for chat destinations and what was sent to them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import select

from gateway.http.pagination import Page
from gateway.reads.database import QueryRunner, Rows, paginate
from models.enums import Channel
from models.notifications.chat_destination import ChatDestination, chat_destinations, destination_from_row
from models.notifications.delivery import deliveries
from models.notifications.webhook import destination_deliveries
from models.refusals import NotFound


class ChatDestinationQueries:
    """Queries for an organization's chat destinations and for what was sent to them."""

    def __init__(self, runner: QueryRunner) -> None:
        self._rows = runner.rows

    async def destinations(self, organization: int, page: Page) -> list[ChatDestination]:
        """Return a page of an organization's chat destinations, oldest first."""
        statement = select(chat_destinations).where(chat_destinations.c.organization_id == organization)
        rows = await self._rows(paginate(statement, page, chat_destinations.c.id))
        return [destination_from_row(row) for row in rows]

    async def destination(self, organization: int, id_: int) -> ChatDestination:
        """Return one of an organization's chat destinations.

        :raises NotFound: if the organization has no such destination.
        """
        c = chat_destinations.c
        rows = await self._rows(select(chat_destinations).where(c.organization_id == organization, c.id == id_))
        if not rows:
            raise NotFound
        return destination_from_row(rows[0])

    async def deliveries(self, destination: ChatDestination, page: Page) -> Rows:
        """Return a page of the events and tests that are sent to a destination, newest first, with their attempts."""
        statement = destination_deliveries(Channel.CHAT).where(deliveries.c.destination_id == destination.id)
        return await self._rows(paginate(statement, page, deliveries.c.id, descending=True))

    async def delivery(self, destination: ChatDestination, id_: UUID) -> Any:
        """Return a delivery to a destination, with its attempts.

        :raises NotFound: if the destination has no such delivery.
        """
        rows = await self._rows(
            destination_deliveries(Channel.CHAT).where(
                deliveries.c.destination_id == destination.id, deliveries.c.id == id_
            )
        )
        if not rows:
            raise NotFound
        return rows[0]
