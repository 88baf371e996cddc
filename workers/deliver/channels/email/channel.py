"""The e-mail channel: mails about comments and status changes to people who are notified of them.

It also tells managers and owners of destinations that have been disabled (:mod:`.notices`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, Protocol
from urllib.parse import quote, urlsplit
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from models.enums import ActivityType, Channel, DecisionOutcome, IncidentStatus, NotificationReason
from models.notifications.access import IncidentFacts
from models.notifications.delivery import DeliveryState
from models.notifications.mailbox import InvalidAddress, Mailbox, ascii_domain, mail_domain, make_mailbox, parse_mailbox
from models.notifications.preferences import reconsider
from models.notifications.suppression import ALERT_ACTION, DELETED, NO_ADDRESS
from models.settings import SettingsError
from workers.deliver.channel import (
    ActivityDetails,
    AttemptResult,
    ClaimedDelivery,
    Outgoing,
    Postponed,
    Withheld,
)
from workers.deliver.channels.email.dkim import DkimSigner, InvalidKey
from workers.deliver.channels.email.facts import MailFacts, load_mail_facts
from workers.deliver.channels.email.message import (
    IncidentUpdates,
    Mail,
    Notice,
    Update,
    activity_action,
    render,
    render_notice,
    status_action,
)
from workers.deliver.channels.email.mime import mailbox_field, one_line
from workers.deliver.channels.email.notices import NOTICE_EVENTS, NoticeFacts, compose_notice, load_notice_facts
from workers.deliver.channels.email.smtp import SmtpPool
from workers.deliver.facts import withhold_from_person
from workers.settings import SmtpServer, WorkerSettings

RETRY_DELAYS_SECONDS: Final = (60.0, 300.0, 900.0, 3600.0, 10800.0, 21600.0, 43200.0, 86400.0)
DEADLINE_SECONDS: Final = 60.0
CONCURRENCY_PER_TARGET: Final = 16
"""How many mails of an organization are under way at the same time: enough for all connections to the mail server."""

REASONS: Final[Mapping[str, str]] = {
    NotificationReason.MENTION: "You were mentioned.",
    NotificationReason.TEAM_MENTION: "A team of yours was mentioned.",
    NotificationReason.SUBSCRIBED: "You are subscribed to this alert.",
}
ACTION_REASON: Final = "An action of the alert rule names you or a team of yours."

_REFERRER: Final = "incident_activity_email"


class Tickets(Protocol):
    """Makes the signed tickets that open a page for one person without a login."""

    def page_ticket(self, user_id: int, organization_id: int, incident_id: int, identifier: int) -> str:
        """Return a ticket for the page of an incident."""

    def unsubscribe_ticket(self, user_id: int, organization_id: int, incident_id: int, identifier: int) -> str:
        """Return a ticket that unsubscribes the person from an incident."""


class EmailDetails(NamedTuple):
    """The envelope of a mail."""

    recipient: str
    needs_smtputf8: bool


class EmailChannel:
    """Sends mails through one mail server. See :class:`workers.deliver.channel.Channel`."""

    name = Channel.EMAIL.value
    retry_delays_seconds: Sequence[float] = RETRY_DELAYS_SECONDS
    deadline_seconds = DEADLINE_SECONDS
    concurrency_per_target = CONCURRENCY_PER_TARGET
    shows_activities = True

    def __init__(
        self,
        server: SmtpServer,
        *,
        public_url: str,
        sender: Mailbox,
        tickets: Tickets,
        signer: DkimSigner | None = None,
        tls: ssl.SSLContext | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._pool = SmtpPool(server, tls=tls)
        self._public_url = public_url
        self.sender = sender
        self._tickets = tickets
        self._signer = signer
        self._now = now

    @classmethod
    def from_settings(cls, settings: WorkerSettings, tickets: Tickets) -> EmailChannel | None:
        """Return the channel, or ``None`` if :func:`missing_settings` names a setting. Mails then wait.

        :raises SettingsError: if a setting has a value that cannot be used.
        """
        server = settings.smtp_server
        if missing_settings(settings) or server is None or settings.public_url is None:
            return None
        public_url = ascii_url(settings.public_url)
        sender = make_sender(settings.mail_from, public_url)
        return cls(
            server, public_url=public_url, sender=sender, tickets=tickets, signer=_make_signer(settings, sender.domain)
        )

    async def prepare(
        self,
        connection: AsyncConnection,
        claimed: Sequence[ClaimedDelivery],
        activities: Mapping[int, ActivityDetails],
    ) -> Mapping[UUID, Outgoing | Withheld | Postponed]:
        """Return the mail for each claimed delivery, or why none is sent.

        A mail with several deliveries does not contain those that are withheld.
        """
        notices = [each for each in claimed if each.event_type in NOTICE_EVENTS]
        updates = [each for each in claimed if each.event_type not in NOTICE_EVENTS]
        prepared: dict[UUID, Outgoing | Withheld | Postponed] = {}
        if notices:
            notice_facts = await connection.run_sync(load_notice_facts, notices)
            prepared |= {each.id: self._prepare_notice(each, notice_facts) for each in notices}
        if not updates:
            return prepared
        every = [each for main in updates for each in main.contents]
        facts = await connection.run_sync(load_mail_facts, every, activities)
        for delivery in updates:
            withheld = {each.id: reason for each in delivery.contents if (reason := withhold(each, facts, self._now()))}
            included = [each for each in delivery.contents if each.id not in withheld]
            prepared |= withheld
            if included:
                prepared[included[0].id] = self._prepare_mail(delivery, included, facts)
            # Rendering takes milliseconds of CPU time per mail, in which other mails could be sent.
            await asyncio.sleep(0)
        return prepared

    async def send(self, delivery: ClaimedDelivery, message: Outgoing) -> AttemptResult:  # noqa: ARG002 - the interface
        """Send one mail."""
        details: EmailDetails = message.details
        return await self._pool.send(self.sender.address, details.recipient, message.body, utf8=details.needs_smtputf8)

    async def record(self, connection: AsyncConnection, delivery: ClaimedDelivery, result: AttemptResult) -> None:
        """Do nothing: nothing is recorded about a person's address."""

    async def close(self) -> None:
        """Close all connections to the mail server."""
        await self._pool.close()

    def _prepare_notice(self, delivery: ClaimedDelivery, facts: NoticeFacts) -> Outgoing | Withheld:
        notice = compose_notice(delivery, facts, self._public_url)
        if isinstance(notice, Withheld):
            return notice
        details = EmailDetails(notice.recipient.address, notice.recipient.needs_smtputf8)
        if delivery.body is not None and mailbox_field("To", notice.recipient) in delivery.body:
            return Outgoing(bytes(delivery.body), details)
        now = self._now()
        message = render_notice(Notice(delivery.id, now, self.sender, *notice))
        return Outgoing(self._signer.sign(message, now) if self._signer else message, details)

    def _prepare_mail(
        self, delivery: ClaimedDelivery, included: Sequence[ClaimedDelivery], facts: MailFacts
    ) -> Outgoing:
        recipient = _recipient(included[0], facts)
        body = delivery.body
        # Bytes that were rendered for another address, or with an update that is now withheld, are not sent again.
        if body is None or len(included) < len(delivery.contents) or mailbox_field("To", recipient) not in body:
            body = self._render(included, recipient, facts)
        return Outgoing(body=bytes(body), details=EmailDetails(recipient.address, recipient.needs_smtputf8))

    def _render(self, included: Sequence[ClaimedDelivery], recipient: Mailbox, facts: MailFacts) -> bytes:
        by_incident: dict[int, list[ClaimedDelivery]] = {}
        for each in included:
            by_incident.setdefault(_require(each.incident_id), []).append(each)
        first = included[0]
        now = self._now()
        message = render(
            Mail(
                id=first.id,
                date=now,
                sender=self.sender,
                recipient=recipient,
                organization_id=first.organization_id,
                organization_name=_incident(first, facts).organization_name,
                incidents=tuple(self._incident_updates(group, facts) for group in by_incident.values()),
                subject=action_subject(first, facts) if len(included) == 1 and first.action_id is not None else None,
            )
        )
        return self._signer.sign(message, now) if self._signer else message

    def _incident_updates(self, deliveries: Sequence[ClaimedDelivery], facts: MailFacts) -> IncidentUpdates:
        first = deliveries[0]
        incident_id, user_id = _require(first.incident_id), _require(first.user_id)
        incident = _incident(first, facts)
        person = (user_id, first.organization_id, incident_id, incident.identifier)
        slug = quote(incident.organization.slug, safe="")
        page = f"{self._public_url}/organizations/{slug}/alerts/{incident.identifier}/?referrer={_REFERRER}"
        # Unsubscribing does not stop the actions of an alert rule.
        is_unsubscribable = any(each.action_id is None for each in deliveries)
        return IncidentUpdates(
            incident_id=incident_id,
            identifier=incident.identifier,
            title=incident.title,
            status=_shown_status(deliveries, incident.status),
            link=f"{page}&ticket={quote(self._tickets.page_ticket(*person), safe='')}",
            unsubscribe_url=(
                f"{self._public_url}/unsubscribe/{quote(self._tickets.unsubscribe_ticket(*person), safe='')}/"
                if is_unsubscribable
                else None
            ),
            updates=tuple(_update(each, facts) for each in deliveries),
        )


# --- settings --------------------------------------------------------------------------------------------------------


def missing_settings(settings: WorkerSettings) -> list[str]:
    """Return the names of the settings without which no mails are sent."""
    required = {
        "TOCSIN_SMTP_URL": settings.smtp_url,
        "TOCSIN_PUBLIC_URL": settings.public_url,
        "TOCSIN_SECRET": settings.secret,
    }
    return [name for name, setting in required.items() if not setting]


def ascii_url(url: str) -> str:
    """Return the public URL without a slash at its end, in ASCII.

    :raises SettingsError: if it is not an HTTP URL.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise SettingsError(f"TOCSIN_PUBLIC_URL is invalid: {error}") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise SettingsError("TOCSIN_PUBLIC_URL is invalid: it must start with http:// or https:// and have a host")
    try:
        name = f"[{host}]" if ":" in host else host if host.isascii() else ascii_domain(host)
    except ValueError as error:
        raise SettingsError(f"TOCSIN_PUBLIC_URL is invalid: {error}") from None
    address = name if port is None else f"{name}:{port}"
    return f"{parts.scheme}://{address}{quote(parts.path.rstrip('/'), safe='/%:@!$&()*+,;=~-._')}"


def make_sender(mail_from: str | None, public_url: str) -> Mailbox:
    """Return the sender of all mails; by default, ``tocsin`` at the host of the public URL.

    :raises SettingsError: if the setting is not an address.
    """
    try:
        if mail_from:
            return parse_mailbox(mail_from)
        return Mailbox("", "tocsin", mail_domain(urlsplit(public_url).hostname or ""))
    except ValueError as error:
        raise SettingsError(f"TOCSIN_MAIL_FROM is invalid: {error}") from None


def _make_signer(settings: WorkerSettings, domain: str) -> DkimSigner | None:
    selector, key = settings.dkim_selector, settings.dkim_key
    if not selector and not key:
        return None
    if not selector or not key:
        missing = "TOCSIN_DKIM_KEY" if selector else "TOCSIN_DKIM_SELECTOR"
        raise SettingsError(f"{missing} is not set: mails are signed only with both DKIM settings")
    try:
        ascii_domain(selector)
        return DkimSigner.from_file(domain, selector, Path(key))
    except InvalidKey as error:
        raise SettingsError(f"TOCSIN_DKIM_KEY is invalid: {error}") from None
    except ValueError as error:
        raise SettingsError(f"TOCSIN_DKIM_SELECTOR is invalid: {error}") from None


# --- one delivery ----------------------------------------------------------------------------------------------------


def withhold(delivery: ClaimedDelivery, facts: MailFacts, now: datetime) -> Withheld | Postponed | None:
    """Return why a delivery is not sent now, or ``None`` if it is."""
    incident = facts.shared.incidents.get(delivery.incident_id or 0)
    if incident is None:
        return Withheld(DeliveryState.CANCELLED, DELETED)
    if delivery.user_id is None:
        return Withheld(DeliveryState.FAILED, NO_ADDRESS, "the delivery has no recipient")
    if reason := withhold_from_person(delivery, delivery.user_id, facts.shared):
        return reason
    if decision := _apply_preferences(delivery, delivery.user_id, incident, facts, now):
        return decision
    account = facts.accounts[delivery.user_id]
    if not account.email.strip():
        return Withheld(DeliveryState.SUPPRESSED, NO_ADDRESS)
    try:
        _recipient(delivery, facts)
    except InvalidAddress as error:
        return Withheld(DeliveryState.FAILED, NO_ADDRESS, str(error))
    return None


def _apply_preferences(
    delivery: ClaimedDelivery, user_id: int, incident: IncidentFacts, facts: MailFacts, now: datetime
) -> Withheld | Postponed | None:
    """Return what the person's preferences, which may have changed since the planning, say against sending it now."""
    contact = facts.contacts[delivery.organization_id, user_id]
    is_action = delivery.action_id is not None
    scheduled = reconsider(
        contact.preferences,
        contact.zone,
        ALERT_ACTION if is_action else delivery.reason or NotificationReason.SUBSCRIBED,
        Channel.EMAIL,
        now=now,
        is_critical=_action_status(delivery) is IncidentStatus.CRITICAL if is_action else incident.is_critical,
        is_muted=(_require(delivery.incident_id), user_id) in facts.muted,
    )
    if scheduled.due_at is None:
        return Withheld(DeliveryState.SUPPRESSED, scheduled.rule)
    if scheduled.outcome is DecisionOutcome.DEFERRED:
        return Postponed(scheduled.due_at, scheduled.rule, is_merged=True)
    return None


def action_subject(delivery: ClaimedDelivery, facts: MailFacts) -> str:
    """Return the subject of the mail that an action of an alert rule sends."""
    title = one_line(_incident(delivery, facts).title)
    subject = f"[{_action_status(delivery).label}] {title}"
    project = facts.shared.project_slugs.get(delivery.project_id or 0)
    return f"{subject} - {project}" if project else subject


def _update(delivery: ClaimedDelivery, facts: MailFacts) -> Update:
    incident = _incident(delivery, facts)
    name = f"{incident.title} (#{incident.identifier})"
    if delivery.action_id is not None:
        project = facts.shared.project_slugs.get(delivery.project_id or 0)
        where = f" in project {project}" if project else ""
        return Update(None, f"Alert {name} is {_action_status(delivery).label}{where}.", None, ACTION_REASON)
    activity = facts.shared.activities[_require(delivery.activity_id)]
    return Update(
        actor=activity.actor or "Tocsin",
        action=_action(activity, name),
        comment=activity.comment,
        reason=REASONS.get(delivery.reason or "", ""),
    )


def _action(activity: ActivityDetails, name: str) -> str:
    if activity.type is not ActivityType.STATUS_CHANGE:
        return activity_action(name)
    old = IncidentStatus(int(activity.previous_value)) if activity.previous_value else None
    return status_action(name, old, IncidentStatus(int(activity.value or IncidentStatus.OPEN)))


def _action_status(delivery: ClaimedDelivery) -> IncidentStatus:
    return IncidentStatus(delivery.status or IncidentStatus.OPEN)


def _shown_status(deliveries: Iterable[ClaimedDelivery], current: IncidentStatus) -> IncidentStatus:
    """Return the status to show: of the newest action of a rule, if there is one, which may differ from now."""
    return next((_action_status(each) for each in reversed(list(deliveries)) if each.action_id is not None), current)


def _recipient(delivery: ClaimedDelivery, facts: MailFacts) -> Mailbox:
    account = facts.accounts[_require(delivery.user_id)]
    return make_mailbox(account.name, account.email)


def _incident(delivery: ClaimedDelivery, facts: MailFacts) -> IncidentFacts:
    return facts.shared.incidents[_require(delivery.incident_id)]


def _require(id_: int | None) -> int:
    """Return an id that :func:`withhold` has found to be there."""
    if id_ is None:
        raise ValueError("the delivery has no such id")
    return id_
