"""The mails that tell people that tocsin has disabled a webhook or a chat destination. The inbox is about incidents."""

from __future__ import annotations

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from models.base import new_id
from models.directory.tables import members, users
from models.enums import Channel
from models.notifications.delivery import deliveries, target_key
from models.role_scopes import GLOBAL_ROLES


async def announce_disabled(
    connection: AsyncConnection, organization_id: int, event_type: str, destination_id: int, *, owner: int | None = None
) -> None:
    """Insert a mail to ``owner``, if the destination is a person's own, or to every manager and owner."""
    is_told = members.c.role.in_([role.value for role in GLOBAL_ROLES]) if owner is None else members.c.user_id == owner
    rows = await connection.execute(
        select(members.c.user_id)
        .join_from(members, users, users.c.id == members.c.user_id)
        .where(members.c.organization_id == organization_id, is_told, users.c.is_active)
        .order_by(members.c.user_id)
    )
    key = target_key(Channel.EMAIL, organization_id)
    mails = [
        {
            "id": new_id(),
            "organization_id": organization_id,
            "channel": Channel.EMAIL.value,
            "event_type": event_type,
            "destination_id": destination_id,
            "user_id": row.user_id,
            "target_key": key,
        }
        for row in rows
    ]
    if mails:
        await connection.execute(insert(deliveries), mails)
