"""The channel that sends events to webhooks, signed as Standard Webhooks 1.0 describes.

A message is the event's own CloudEvent, byte for byte as it was planned. The headers ``webhook-id`` (the delivery's
id), ``webhook-timestamp`` and ``webhook-signature`` are made anew for every attempt, from the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Text, and_, case, cast, func, literal, null, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from standardwebhooks import Webhook as Signer

from models.enums import Channel, DisabledReason, WebhookStatus
from models.messaging.outbox import events
from models.notifications.delivery import DeliveryState
from models.notifications.webhook import (
    DISABLED_AFTER,
    DISABLED_EVENT,
    EVENT_DELETED,
    SECRET_UNREADABLE,
    TEST_EVENT,
    WEBHOOK_DELETED,
    WEBHOOK_DISABLED,
    webhooks,
)
from models.secrets import SecretBox, UnreadableSecret
from workers.deliver.channel import (
    ActivityDetails,
    AttemptResult,
    ClaimedDelivery,
    Outgoing,
    Postponed,
    Verdict,
    Withheld,
)
from workers.deliver.disabled import announce_disabled
from workers.deliver.http_sender import TOTAL_SECONDS, HttpSender, SendingFailed

UNREADABLE_PAUSE: Final = timedelta(minutes=5)
"""How long deliveries wait for an operator to put the missing secret into ``TOCSIN_SECRET``."""

_GONE: Final = 410
_TOO_MANY_REQUESTS: Final = 429
_USER_AGENT: Final = f"tocsin/{version('tocsin')}"


@dataclass(frozen=True, slots=True)
class WebhookAddress:
    """Where to send a message, and the secrets that sign it, the current one first."""

    url: str
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        """Return a text without the URL and the secrets, for error messages and logs."""
        return "WebhookAddress(…)"


@dataclass(frozen=True, slots=True)
class _Webhooks:
    """The webhooks that deliveries name, by organization and id, and the active ones by organization and URL."""

    by_id: Mapping[tuple[int, int], Any]
    by_url: Mapping[tuple[int, str], Any]

    def of(self, delivery: ClaimedDelivery) -> Any:
        """Return the row of a delivery's webhook, or ``None`` if there is none."""
        if delivery.destination_id is None:
            return self.by_url.get((delivery.organization_id, delivery.target or ""))
        return self.by_id.get((delivery.organization_id, delivery.destination_id))


class WebhookChannel:
    """Sends deliveries to webhooks. It implements :class:`workers.deliver.channel.Channel`."""

    name: str = Channel.WEBHOOK.value
    retry_delays_seconds: Sequence[float] = (
        5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600,
    )  # fmt: skip
    # The sender's own limit ends first, and says so.
    deadline_seconds: float = TOTAL_SECONDS + 1
    concurrency_per_target: int = 4
    # Subscribers get every event, as it was published.
    shows_activities: bool = False

    def __init__(self, box: SecretBox | None, sender: HttpSender) -> None:
        """Set up the channel. ``box`` decrypts the secrets; it is ``None`` without ``TOCSIN_SECRET``."""
        self._box = box
        self._sender = sender

    async def prepare(
        self,
        connection: AsyncConnection,
        claimed: Sequence[ClaimedDelivery],
        activities: Mapping[int, ActivityDetails],  # noqa: ARG002 - the interface
    ) -> Mapping[UUID, Outgoing | Withheld | Postponed]:
        """Return each delivery's message, unless its webhook was deleted or disabled.

        A delivery without a webhook comes from an alert rule's action, which names a URL. If the organization has a
        webhook with the same URL, its secrets sign the message; otherwise, the message has no signature.
        """
        registered = await _load_webhooks(connection, claimed)
        bodies = await _load_bodies(connection, claimed)
        return {delivery.id: self._prepare(delivery, registered, bodies) for delivery in claimed}

    def _prepare(
        self, delivery: ClaimedDelivery, registered: _Webhooks, bodies: Mapping[UUID, bytes]
    ) -> Outgoing | Withheld | Postponed:
        webhook = registered.of(delivery)
        body = delivery.body or bodies.get(delivery.id)
        if body is None:
            return Withheld(DeliveryState.FAILED, EVENT_DELETED)
        if webhook is None and delivery.destination_id is None and delivery.target is not None:
            return Outgoing(body, WebhookAddress(delivery.target, ()))
        if webhook is None:
            return Withheld(DeliveryState.SUPPRESSED, WEBHOOK_DELETED)
        if webhook.status != WebhookStatus.ACTIVE and delivery.event_type != TEST_EVENT:
            return Withheld(DeliveryState.SUPPRESSED, WEBHOOK_DISABLED)
        secrets = self._decrypt(webhook.secret, webhook.previous_secret)
        if secrets is None:
            return Postponed(datetime.now(UTC) + UNREADABLE_PAUSE, SECRET_UNREADABLE)
        return Outgoing(bytes(body), WebhookAddress(webhook.url, secrets))

    def _decrypt(self, *sealed: bytes | None) -> tuple[str, ...] | None:
        if self._box is None:
            return None
        try:
            return tuple(self._box.decrypt(each) for each in sealed if each is not None)
        except UnreadableSecret:
            return None

    async def send(self, delivery: ClaimedDelivery, message: Outgoing) -> AttemptResult:
        """Send a message, signed with all valid secrets at the present time."""
        address: WebhookAddress = message.details
        headers = {
            "content-type": "application/cloudevents+json",
            "user-agent": _USER_AGENT,
            **signature_headers(str(delivery.id), datetime.now(UTC), message.body, address.secrets),
        }
        try:
            answer = await self._sender.post(address.url, headers, message.body)
        except SendingFailed as failure:
            verdict = Verdict.PERMANENT if failure.is_permanent else Verdict.PASSING
            return AttemptResult(verdict, error=str(failure), is_target_fault=True)
        status = answer.status
        if 200 <= status < 300:
            return AttemptResult(Verdict.DELIVERED, status)
        return AttemptResult(
            Verdict.PERMANENT if status == _GONE else Verdict.PASSING,
            status,
            f"The server answered {status}.",
            answer.retry_after_seconds,
            is_target_fault=status >= 500 or status in (_GONE, _TOO_MANY_REQUESTS),
        )

    async def record(self, connection: AsyncConnection, delivery: ClaimedDelivery, result: AttemptResult) -> None:
        """Record whether the webhook works, and disable it if it is gone or has failed for five days.

        Tests change nothing. Managers and owners are told by e-mail when a webhook is disabled.
        """
        if delivery.destination_id is None or delivery.event_type == TEST_EVENT:
            return
        is_active = (webhooks.c.id == delivery.destination_id, webhooks.c.status == WebhookStatus.ACTIVE.value)
        if result.verdict is Verdict.DELIVERED:
            # Without a failure before it, a success writes nothing.
            await connection.execute(
                update(webhooks).where(*is_active, webhooks.c.failing_since.is_not(None)).values(failing_since=None)
            )
            return
        is_failing = webhooks.c.failing_since < func.clock_timestamp() - DISABLED_AFTER
        is_gone = literal(result.status == _GONE)
        disabled = await connection.execute(
            update(webhooks)
            .where(*is_active, or_(is_gone, is_failing))
            .values(
                status=WebhookStatus.DISABLED.value,
                disabled_reason=case((is_gone, DisabledReason.GONE.value), else_=DisabledReason.FAILING.value),
                failing_since=func.coalesce(webhooks.c.failing_since, func.clock_timestamp()),
                version=webhooks.c.version + 1,
                date_modified=func.clock_timestamp(),
            )
        )
        if disabled.rowcount:
            await announce_disabled(connection, delivery.organization_id, DISABLED_EVENT, delivery.destination_id)
        else:
            await connection.execute(
                update(webhooks)
                .where(*is_active, webhooks.c.failing_since.is_(None))
                .values(failing_since=func.clock_timestamp())
            )

    async def close(self) -> None:
        """Close all connections."""
        await self._sender.close()


async def _load_webhooks(connection: AsyncConnection, claimed: Sequence[ClaimedDelivery]) -> _Webhooks:
    is_rotating = webhooks.c.previous_secret_until > func.clock_timestamp()
    actions = [each for each in claimed if each.destination_id is None]
    is_named = webhooks.c.id.in_({each.destination_id for each in claimed if each.destination_id is not None})
    is_action_url = and_(
        webhooks.c.organization_id.in_({each.organization_id for each in actions}),
        webhooks.c.url.in_({each.target for each in actions if each.target is not None}),
        webhooks.c.status == WebhookStatus.ACTIVE.value,
    )
    found = await connection.execute(
        select(
            webhooks.c.id,
            webhooks.c.organization_id,
            webhooks.c.url,
            webhooks.c.status,
            webhooks.c.secret,
            case((is_rotating, webhooks.c.previous_secret), else_=null()).label("previous_secret"),
        )
        .where(or_(is_named, is_action_url))
        .order_by(webhooks.c.id.desc())
    )
    rows = found.all()
    return _Webhooks(
        {(row.organization_id, row.id): row for row in rows},
        {(row.organization_id, row.url): row for row in rows if row.status == WebhookStatus.ACTIVE},
    )


async def _load_bodies(connection: AsyncConnection, claimed: Sequence[ClaimedDelivery]) -> dict[UUID, bytes]:
    """Return the bodies of deliveries that have none yet, by delivery id: their events, as they were published."""
    without = {each.id: each.event_id for each in claimed if each.body is None and each.event_id is not None}
    if not without:
        return {}
    found = await connection.execute(
        select(events.c.id, cast(events.c.body, Text).label("body")).where(events.c.id.in_(without.values()))
    )
    bodies = {row.id: row.body.encode() for row in found}
    return {id_: bodies[event_id] for id_, event_id in without.items() if event_id in bodies}


def signature_headers(id_: str, at: datetime, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """Return the headers of Standard Webhooks 1.0, with one signature per secret, and none without a secret.

    ``at`` may be in any time zone. The library would take its wall clock as UTC, and the ``repr`` of bytes as text.
    """
    instant = at.astimezone(UTC)
    text = body.decode()
    headers = {"webhook-id": id_, "webhook-timestamp": str(int(instant.timestamp()))}
    if secrets:
        headers["webhook-signature"] = " ".join(Signer(secret).sign(id_, instant, text) for secret in secrets)
    return headers
