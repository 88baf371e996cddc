"""Queries for the decisions on whether a person was notified."""

from __future__ import annotations

from sqlalchemy import and_, select

from gateway.reads.database import QueryRunner
from gateway.reads.queries import is_readable_item
from models.notifications.explanation import DECISION_COLUMNS, ExplainedDecision, decision_from_row
from models.notifications.notification import decisions, notifications
from models.policy import Actor, OrganizationFacts
from models.refusals import NotFound


class DecisionQueries:
    """Queries for the decisions that are recorded about the caller."""

    def __init__(self, runner: QueryRunner) -> None:
        self._rows = runner.rows

    async def of_inbox_item(
        self, actor: Actor, organization: OrganizationFacts, notification: int
    ) -> list[ExplainedDecision]:
        """Return the decisions about a person and the activity of one of their inbox items, newest first.

        :raises NotFound: if there is no such item in the part of the person's inbox that they may read.
        """
        about_the_item = and_(
            decisions.c.activity_id == notifications.c.activity_id, decisions.c.user_id == notifications.c.user_id
        )
        rows = await self._rows(
            select(*DECISION_COLUMNS)
            .select_from(notifications.outerjoin(decisions, about_the_item))
            .where(notifications.c.id == notification, *is_readable_item(actor, organization))
            .order_by(decisions.c.at.desc(), decisions.c.channel)
        )
        if not rows:
            raise NotFound
        return [decision_from_row(row) for row in rows if row.channel is not None]
