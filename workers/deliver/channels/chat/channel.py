"""The chat channel: it sends messages to destinations that managers have registered, through Apprise.

A message is one call of Apprise with a plugin of its own, in a thread. What Apprise reports is not enough to judge the
attempt, so the answers are noted on the way (:mod:`workers.deliver.channels.chat.guarded_http`).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

from apprise import Apprise, NotifyFormat, NotifyType
from apprise.result import AppriseResult, AppriseResultStatus
from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncConnection

from models.enums import ActivityType, Channel, DestinationStatus, IncidentStatus
from models.notifications.chat_destination import (
    DESTINATION_DISABLED,
    DESTINATION_PAUSED,
    DISABLED_AFTER,
    DISABLED_EVENT,
    NO_DESTINATION,
    TEST_EVENT,
    URL_REFUSED,
    URL_UNREADABLE,
    ChatDestination,
    chat_destinations,
)
from models.notifications.chat_url import (
    SERVICES,
    ChatService,
    InvalidChatUrl,
    load_plugin,
    make_asset,
    silence_apprise,
)
from models.notifications.delivery import DeliveryState
from models.notifications.network_guard import NetworkGuard
from models.notifications.suppression import DELETED
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
from workers.deliver.channels.chat.facts import ChatFacts, load_chat_facts
from workers.deliver.channels.chat.guarded_http import TOTAL_SECONDS, Resolve, Sending, install, sending
from workers.deliver.channels.chat.text import (
    IncidentInText,
    Message,
    action_message,
    comment_message,
    compose,
    event_message,
    merged_message,
    status_message,
    trial_message,
)
from workers.deliver.disabled import announce_disabled
from workers.deliver.facts import withhold_from_person

SECONDS_BETWEEN_MESSAGES: Final = 1.0
"""How many seconds pass between two messages of this process to a destination. Slack allows one per second."""

THREADS: Final = 16
"""How many messages are under way at the same time. Each occupies its thread for 15 s at most."""

REMEMBERED: Final = 1000
"""For how many deliveries the channel knows the destination. More than can be under way at the same time."""

UNREADABLE_PAUSE: Final = timedelta(minutes=5)
"""How long deliveries wait for an operator to put the missing secret into ``TOCSIN_SECRET``."""

PERMANENT_STATUSES: Final = frozenset({400, 401, 403, 404, 405, 410, 413, 422})
"""The answers after which no attempt is made. Discord bans whoever goes on after 401, 403 and 404."""

_TOO_MANY_REQUESTS: Final = 429
_DEFAULT_PAUSE_SECONDS: Final = 5.0
_PAGERDUTY: Final = SERVICES["pagerduty"]
_ANY_URL: Final = "mmosts://localhost/key"
_REFERRER: Final = "incident_activity_chat"

_NOTIFY_TYPES: Final = {
    IncidentStatus.OPEN: NotifyType.WARNING,
    IncidentStatus.WARNING: NotifyType.WARNING,
    IncidentStatus.CRITICAL: NotifyType.FAILURE,
    IncidentStatus.CLOSED: NotifyType.SUCCESS,
}
"""The kind of a message, which some services show as a colour, by the incident's status."""


@dataclass(frozen=True, slots=True)
class ChatAddress:
    """Where and how to send a message. The representation does not contain the URL, which is a secret."""

    url: str = field(repr=False)
    service: ChatService
    destination_id: int
    incident_id: int | None
    status: IncidentStatus | None


class ChatChannel:
    """Sends chat messages. It implements :class:`workers.deliver.channel.Channel`."""

    name: str = Channel.CHAT.value
    retry_delays_seconds: Sequence[float] = (5, 30, 5 * 60, 30 * 60, 2 * 3600)
    # The guarded requests end first, and say more.
    deadline_seconds: float = TOTAL_SECONDS + 10
    concurrency_per_target: int = 1
    shows_activities: bool = True

    def __init__(
        self,
        box: SecretBox,
        guard: NetworkGuard,
        *,
        public_url: str | None = None,
        ca_file: str | None = None,
        resolve: Resolve | None = None,
        seconds_between_messages: float = SECONDS_BETWEEN_MESSAGES,
        total_seconds: float = TOTAL_SECONDS,
    ) -> None:
        """Set up the channel, and guard the library ``requests`` in this process.

        ``box`` decrypts the URLs. Without ``public_url``, messages contain no link. ``ca_file`` holds the authorities
        to trust instead of the usual ones.
        """
        self._box = box
        self._guard = guard
        self._public_url = None if public_url is None else public_url.rstrip("/")
        self._ca_file = ca_file
        self._resolve = resolve
        self._interval = seconds_between_messages
        self._total_seconds = total_seconds
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="chat")
        self._locks: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._next_at: dict[int, float] = {}
        self._paused_until: dict[int, datetime] = {}
        # A rule's action names a destination, and its delivery has no id of one.
        self._sent_to: dict[UUID, int] = {}
        silence_apprise()
        install()
        # Apprise imports its plugins with the first URL. While a batch is prepared, that would hold up its transaction
        # for seconds on a busy machine, and PostgreSQL would end the session.
        load_plugin(_ANY_URL)

    # --- preparing ---------------------------------------------------------------------------------------------------

    async def prepare(
        self,
        connection: AsyncConnection,
        claimed: Sequence[ClaimedDelivery],
        activities: Mapping[int, ActivityDetails],
    ) -> Mapping[UUID, Outgoing | Withheld | Postponed]:
        """Return each delivery's message, or why it is not sent now."""
        every = [each for main in claimed for each in main.contents]
        facts = await connection.run_sync(load_chat_facts, every, activities)
        prepared: dict[UUID, Outgoing | Withheld | Postponed] = {}
        for delivery in claimed:
            included = []
            for each in delivery.contents:
                if (reason := self._withhold(each, facts)) is not None:
                    prepared[each.id] = reason
                else:
                    included.append(each)
            if included:
                prepared |= self._outgoing(delivery, included, facts)
        return prepared

    def _outgoing(
        self, delivery: ClaimedDelivery, included: Sequence[ClaimedDelivery], facts: ChatFacts
    ) -> dict[UUID, Outgoing | Withheld | Postponed]:
        """Return the message with the included deliveries, by the id of the first, or why none of them is sent now."""
        first = included[0]
        destination = facts.destinations.find(first)
        if destination is None:
            raise ValueError(f"delivery {first.id} has no destination")
        try:
            url = self._box.decrypt(destination.url)
            plugin = load_plugin(url)
        except UnreadableSecret:
            pause = Postponed(datetime.now(UTC) + UNREADABLE_PAUSE, URL_UNREADABLE, first.is_merged)
            return dict.fromkeys([each.id for each in included], pause)
        except InvalidChatUrl as error:
            refusal = Withheld(DeliveryState.FAILED, URL_REFUSED, str(error))
            return dict.fromkeys([each.id for each in included], refusal)
        body = delivery.body
        if body is None or len(included) < len(delivery.contents):
            body = self._render(included, facts).encode()
        incident = facts.shared.incidents.get(first.incident_id or 0)
        address = ChatAddress(
            url=url,
            service=next(each for each in SERVICES.values() if each.plugin == type(plugin).__name__),
            destination_id=destination.id,
            incident_id=first.incident_id,
            status=_status(first, None if incident is None else incident.status),
        )
        return {first.id: Outgoing(bytes(body), address)}

    def _withhold(self, delivery: ClaimedDelivery, facts: ChatFacts) -> Withheld | Postponed | None:
        """Return why a delivery is not sent now, or ``None`` if it is."""
        destination = facts.destinations.find(delivery)
        if destination is None:
            return Withheld(DeliveryState.FAILED, NO_DESTINATION, _missing(delivery))
        if delivery.event_type == TEST_EVENT:
            return None
        if destination.status is not DestinationStatus.ACTIVE:
            return Withheld(DeliveryState.SUPPRESSED, DESTINATION_DISABLED)
        if (reason := _withhold_content(delivery, facts)) is not None:
            return reason
        return self._pause(destination, delivery)

    def _pause(self, destination: ChatDestination, delivery: ClaimedDelivery) -> Postponed | None:
        """Return until when the destination is left alone, because the service asked for it."""
        until = self._paused_until.get(destination.id)
        if until is None:
            return None
        if until <= datetime.now(UTC):
            del self._paused_until[destination.id]
            return None
        return Postponed(until, DESTINATION_PAUSED, delivery.is_merged)

    def _render(self, included: Sequence[ClaimedDelivery], facts: ChatFacts) -> str:
        messages = [(_message(each, facts), self._link(each, facts)) for each in included]
        if len(messages) == 1:
            message, link = messages[0]
            return compose(message.heading, message.details, link)
        merged = merged_message(messages)
        return compose(merged.heading, merged.details, None)

    def _link(self, delivery: ClaimedDelivery, facts: ChatFacts) -> str | None:
        incident = facts.shared.incidents.get(delivery.incident_id or 0)
        if self._public_url is None or incident is None:
            return None
        slug = quote(incident.organization.slug, safe="")
        return f"{self._public_url}/organizations/{slug}/alerts/{incident.identifier}/?referrer={_REFERRER}"

    # --- sending -----------------------------------------------------------------------------------------------------

    async def send(self, delivery: ClaimedDelivery, message: Outgoing) -> AttemptResult:
        """Send one message, at the destination's own rate."""
        address: ChatAddress = message.details
        self._sent_to[delivery.id] = address.destination_id
        # Not forgotten when it is recorded, because that transaction may fail and be repeated.
        if len(self._sent_to) > REMEMBERED:
            del self._sent_to[next(iter(self._sent_to))]
        async with self._locks[address.destination_id]:
            await asyncio.sleep(self._next_at.get(address.destination_id, 0.0) - time.monotonic())
            try:
                loop = asyncio.get_running_loop()
                result = await loop.run_in_executor(self._threads, self._post, address, message.body.decode())
            finally:
                self._next_at[address.destination_id] = time.monotonic() + self._interval
        if result.status == _TOO_MANY_REQUESTS:
            seconds = result.retry_after_seconds or _DEFAULT_PAUSE_SECONDS
            self._paused_until[address.destination_id] = datetime.now(UTC) + timedelta(seconds=seconds)
        return result

    def _post(self, address: ChatAddress, text: str) -> AttemptResult:
        """Let Apprise send a text, in this thread. A new plugin remembers no earlier message, so it never waits."""
        plugin = load_plugin(address.url)
        if address.service is _PAGERDUTY and address.incident_id is not None:
            # One PagerDuty incident for each of ours, which is resolved with it.
            plugin.action, plugin.dedup = "map", f"tocsin-incident-{address.incident_id}"
        apprise = Apprise(asset=make_asset())
        apprise.add(plugin)
        with sending(
            self._guard, resolve=self._resolve, ca_file=self._ca_file, seconds=self._total_seconds
        ) as requests_:
            result = apprise.notify(
                body=text,
                title="",
                notify_type=NotifyType.INFO if address.status is None else _NOTIFY_TYPES[address.status],
                # Text is escaped for services that render Markdown in a way that breaks links.
                body_format=NotifyFormat.MARKDOWN if address.service.is_markdown else NotifyFormat.TEXT,
            )
            return judge(result, requests_)

    async def record(self, connection: AsyncConnection, delivery: ClaimedDelivery, result: AttemptResult) -> None:
        """Record whether the destination works, and disable it if it has failed for five days. Tests change nothing.

        Managers and owners, or the person whose own destination it is, are told by e-mail.
        """
        destination_id = self._sent_to.get(delivery.id)
        if delivery.event_type != TEST_EVENT and destination_id is not None:
            await _record(connection, destination_id, result)

    async def close(self) -> None:
        """Start no more messages. Those that are under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def judge(result: AppriseResult | bool, requests_: Sending) -> AttemptResult:
    """Return what the answers mean.

    Apprise calls a message a success if the service took it. Otherwise the last answer decides, because Apprise does
    not tell a wrong address from a passing failure. Nothing of what Apprise logged is used: it contains secrets.
    """
    status = requests_.statuses[-1] if requests_.statuses else None
    if requests_.forbidden is not None:
        return AttemptResult(Verdict.PERMANENT, status, requests_.forbidden, is_target_fault=True)
    is_success = isinstance(result, AppriseResult) and result.status is AppriseResultStatus.SUCCESS
    if is_success and status is not None and 200 <= status < 300:
        return AttemptResult(Verdict.DELIVERED, status)
    if requests_.is_cut_off:
        return AttemptResult(
            Verdict.PASSING,
            status,
            "There was no answer in time, so the message may have arrived.",
            is_target_fault=True,
        )
    if requests_.is_unreachable and status != _TOO_MANY_REQUESTS:
        return AttemptResult(Verdict.PASSING, status, "There was no connection to the service.", is_target_fault=True)
    if status is None:
        return AttemptResult(Verdict.PERMANENT, None, "Apprise sent nothing.", is_target_fault=True)
    if 200 <= status < 300:
        return AttemptResult(Verdict.PASSING, status, f"The service answered {status}, but refused the message.")
    is_permanent = 300 <= status < 400 or status in PERMANENT_STATUSES
    return AttemptResult(
        Verdict.PERMANENT if is_permanent else Verdict.PASSING,
        status,
        f"The service answered {status}.",
        requests_.retry_after_seconds,
        is_target_fault=True,
    )


async def _record(connection: AsyncConnection, destination_id: int, result: AttemptResult) -> None:
    c = chat_destinations.c
    is_active = (c.id == destination_id, c.status == DestinationStatus.ACTIVE.value)
    if result.verdict is Verdict.DELIVERED:
        # Without a failure before it, a success writes nothing.
        await connection.execute(
            update(chat_destinations).where(*is_active, c.failing_since.is_not(None)).values(failing_since=None)
        )
        return
    disabled = await connection.execute(
        update(chat_destinations)
        .where(*is_active, c.failing_since < func.clock_timestamp() - DISABLED_AFTER)
        .values(
            status=DestinationStatus.DISABLED.value,
            version=c.version + 1,
            date_modified=func.clock_timestamp(),
        )
        .returning(c.organization_id, c.user_id)
    )
    if row := disabled.one_or_none():
        await announce_disabled(connection, row.organization_id, DISABLED_EVENT, destination_id, owner=row.user_id)
    await connection.execute(
        update(chat_destinations)
        .where(*is_active, c.failing_since.is_(None))
        .values(failing_since=func.clock_timestamp())
    )


# --- one delivery ----------------------------------------------------------------------------------------------------


def _withhold_content(delivery: ClaimedDelivery, facts: ChatFacts) -> Withheld | None:
    """Return why a delivery's content is not shown to its recipient, or not any more."""
    if delivery.incident_id is None and delivery.event_id in facts.events:
        # An event about something else, such as a rule.
        return None
    if delivery.incident_id not in facts.shared.incidents:
        return Withheld(DeliveryState.CANCELLED, DELETED)
    if delivery.user_id is not None:
        return withhold_from_person(delivery, delivery.user_id, facts.shared)
    if delivery.action_id is None and delivery.event_id not in facts.events:
        return Withheld(DeliveryState.CANCELLED, DELETED)
    return None


def _message(delivery: ClaimedDelivery, facts: ChatFacts) -> Message:
    if delivery.event_type == TEST_EVENT:
        return trial_message(facts.organization_names[delivery.organization_id])
    incident = _incident(delivery, facts)
    activity = facts.shared.activities.get(delivery.activity_id or 0)
    if delivery.action_id is not None and incident is not None:
        return action_message(incident, facts.shared.project_slugs.get(delivery.project_id or 0))
    if delivery.user_id is not None and incident is not None and activity is not None:
        if activity.type is not ActivityType.STATUS_CHANGE:
            return comment_message(incident, activity.actor, activity.comment or "")
        old = IncidentStatus(int(activity.previous_value)) if activity.previous_value else None
        shown = incident._replace(status=IncidentStatus(int(activity.value)) if activity.value else incident.status)
        return status_message(shown, activity.actor, old, activity.comment)
    data: Mapping[str, Any] = facts.events[delivery.event_id] if delivery.event_id is not None else {}
    text = activity.comment if activity is not None else None
    return event_message(delivery.event_type or "", incident, data, text)


def _incident(delivery: ClaimedDelivery, facts: ChatFacts) -> IncidentInText | None:
    incident = facts.shared.incidents.get(delivery.incident_id or 0)
    if incident is None:
        return None
    status = _status(delivery, incident.status) or incident.status
    if delivery.event_type == "incident.status_changed" and delivery.event_id in facts.events:
        new = facts.events[delivery.event_id].get("status")
        status = IncidentStatus(new) if isinstance(new, int) else status
    return IncidentInText(incident.identifier, incident.title, status)


def _status(delivery: ClaimedDelivery, current: IncidentStatus | None) -> IncidentStatus | None:
    """Return the status that a rule's action announces, or the incident's present one."""
    return current if delivery.status is None else IncidentStatus(delivery.status)


def _missing(delivery: ClaimedDelivery) -> str:
    if delivery.action_id is None:
        return "the chat destination was deleted"
    target = delivery.target or ""
    # Before destinations were registered, rules could name an Apprise URL, which is a secret.
    shown = "a URL" if "://" in target else f'"{target[:100]}"'
    return f"the action names {shown}, but there is no chat destination with this name or id"
