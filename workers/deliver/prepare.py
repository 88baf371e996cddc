"""Preparing claimed deliveries: what concerns every channel is decided here, the rest by the channel."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from models.notifications.delivery import DeliveryState
from models.notifications.suppression import DELETED
from tasks.events import CommentDeleted
from workers.deliver.channel import ActivityDetails, Channel, ClaimedDelivery, Outgoing, Postponed, Withheld
from workers.deliver.facts import load_activities


async def prepare(
    connection: AsyncConnection, channel: Channel, claimed: Sequence[ClaimedDelivery]
) -> Mapping[UUID, Outgoing | Withheld | Postponed]:
    """Return what to do with each claimed delivery, by id, as :meth:`workers.deliver.channel.Channel.prepare` does.

    A delivery whose comment has been deleted is cancelled, and the channel does not see it. The activities are read
    once, so that none can disappear before the channel renders it.

    :raises Exception: if the database or the channel failed. All the deliveries remain pending.
    """
    if not channel.shows_activities:
        return await channel.prepare(connection, claimed, {})
    ids = {each.activity_id for main in claimed for each in main.contents if each.activity_id is not None}
    activities = await connection.run_sync(load_activities, ids)
    deleted = {each.id for main in claimed for each in main.contents if _is_deleted(each, activities)}
    remaining = [kept for main in claimed if (kept := _without(main, deleted)) is not None]
    prepared = await channel.prepare(connection, remaining, activities) if remaining else {}
    return {**dict.fromkeys(deleted, Withheld(DeliveryState.CANCELLED, DELETED)), **prepared}


def _is_deleted(delivery: ClaimedDelivery, activities: Mapping[int, ActivityDetails]) -> bool:
    # Some channels announce the deletion itself.
    if delivery.activity_id is None or delivery.event_type == CommentDeleted.type:
        return False
    return delivery.activity_id not in activities


def _without(delivery: ClaimedDelivery, deleted: Collection[UUID]) -> ClaimedDelivery | None:
    """Return the delivery without those of its message that are deleted, or ``None`` if nothing is left."""
    kept = tuple(each for each in delivery.contents if each.id not in deleted)
    if len(kept) == len(delivery.contents):
        return delivery
    # A body that was rendered before shows what has been deleted.
    return kept[0]._replace(merged=kept, body=None) if kept else None
