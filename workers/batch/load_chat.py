"""Functions that load the facts about chat destinations."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.engine import Connection

from models.notifications.chat_destination import chat_destinations, destination_from_row
from workers.batch.chat_facts import ChatFacts
from workers.batch.fact_request import FactRequest


def load_chat_facts(connection: Connection, request: FactRequest) -> ChatFacts:
    """Load the chat destinations that the batch requests. ``new_ids`` is left empty."""
    facts = ChatFacts()
    if request.chat_organization_ids:
        # Locked, because the deliverer disables failing destinations.
        found = connection.execute(
            select(chat_destinations)
            .where(chat_destinations.c.organization_id.in_(request.chat_organization_ids))
            .order_by(chat_destinations.c.id)
            .with_for_update(key_share=True)
        )
        facts.by_id = {row.id: destination_from_row(row) for row in found}
    return facts
