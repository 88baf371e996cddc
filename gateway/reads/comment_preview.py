"""Previews of comments, which list the people whom a comment would notify.

Mentions are resolved, and recipients are chosen, by the same code as when a comment is posted
(:mod:`models.incidents.mentions`, :mod:`models.notifications.suppression`). This module loads the facts for that code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, exists, func, or_, select

from gateway.reads.database import QueryRunner
from models.directory.policy_facts import (
    MEMBERSHIP_COLUMNS,
    PROJECT_COLUMNS,
    TEAMS_EVER,
    actor_from_membership,
    project_from_row,
)
from models.directory.queries import PERSON_COLUMNS, person_from_row
from models.directory.tables import Person, members, projects, users
from models.enums import Channel, DecisionOutcome, DestinationStatus, IncidentStatus, NotificationReason
from models.incidents.incident import incident_projects, incidents
from models.incidents.mentions import MentionedTeam, MentionKind, ids_by_name, parse_mention, resolve_mentions
from models.incidents.queries import MENTIONED_TEAMS, mentioned_team_from_row
from models.incidents.subscription import subscriptions
from models.notifications.chat_destination import chat_destinations
from models.notifications.preferences import PERSONAL_CHANNELS, STORM_WINDOW, Schedule, contact_from_row
from models.notifications.reasons import strongest_reasons
from models.notifications.stored_preferences import RECENT_MESSAGES, incident_mutes, notification_preferences
from models.notifications.suppression import Recipient, decide_notification
from models.policy import OrganizationFacts

_IS_MUTED: Final = and_(
    incident_mutes.c.user_id.is_not(None),
    or_(incident_mutes.c.until.is_(None), incident_mutes.c.until > func.clock_timestamp()),
)


@dataclass(frozen=True, slots=True)
class PreviewRecipient:
    """A person whom a comment would notify, the reason for that, and what would be sent on each channel."""

    person: Person
    reason: NotificationReason
    channels: Mapping[Channel, Schedule]


@dataclass(frozen=True, slots=True)
class _Directory:
    """The people and teams that mentions refer to, as :class:`models.incidents.mentions.Facts`.

    ``members`` maps the id of every account that was found to all its teams, past and present, or to ``None`` if the
    account is not a member.
    """

    names: Mapping[str, Sequence[int]]
    members: Mapping[int, frozenset[int] | None]
    teams: Mapping[int, MentionedTeam]

    def users_named(self, name: str) -> Sequence[int]:
        return self.names.get(name, ())

    def teams_ever(self, user: int) -> Set[int] | None:
        return self.members.get(user)

    def team(self, team: int) -> MentionedTeam | None:
        return self.teams.get(team)


class CommentPreview:
    """Determines whom a comment would notify, before it is posted."""

    def __init__(self, runner: QueryRunner, *, notify_window: float) -> None:
        """Set up the preview. ``notify_window`` is in seconds."""
        self._rows = runner.rows
        self._window = timedelta(seconds=notify_window)

    async def recipients(
        self, organization: OrganizationFacts, identifier: int, mentions: Sequence[str | None], *, author: int | None
    ) -> list[PreviewRecipient]:
        """Return the people whom a comment with these mentions would notify, in the order of their user ids.

        :raises InvalidFields: if a mention is invalid. The comment itself would be refused for the same reason.
        """
        is_incident = and_(incidents.c.organization_id == organization.id, incidents.c.identifier == identifier)
        project_rows = await self._rows(
            select(*PROJECT_COLUMNS).select_from(incidents.join(incident_projects).join(projects)).where(is_incident)
        )
        facts = tuple(project_from_row(row).facts for row in project_rows)
        mentioned = resolve_mentions(
            mentions,
            await self._load_mentioned(organization, mentions),
            organization=organization.id,
            attached_teams={team for project in facts for team in project.teams},
        )
        subscribers = await self._rows(
            select(subscriptions.c.user_id).join_from(subscriptions, incidents).where(is_incident)
        )
        reasons = strongest_reasons(
            {
                NotificationReason.MENTION: mentioned.users,
                NotificationReason.TEAM_MENTION: mentioned.team_users,
                NotificationReason.SUBSCRIBED: [row.user_id for row in subscribers],
            }
        )
        candidates = await self._rows(
            select(
                *PERSON_COLUMNS,
                *MEMBERSHIP_COLUMNS,
                users.c.timezone,
                notification_preferences.c.document,
                incidents.c.status.label("incident_status"),
                _IS_MUTED.label("is_muted"),
                _has_chat(organization).label("has_chat"),
            )
            .select_from(
                users.outerjoin(members, _is_member_of(organization))
                .outerjoin(notification_preferences, notification_preferences.c.user_id == users.c.id)
                .join(incidents, is_incident)
                .outerjoin(
                    incident_mutes,
                    and_(incident_mutes.c.incident_id == incidents.c.id, incident_mutes.c.user_id == users.c.id),
                )
            )
            .where(users.c.id.in_(reasons))
            .order_by(users.c.id)
        )
        now = datetime.now(UTC)
        sent = await self._load_recent([row.id for row in candidates], now)
        return [
            PreviewRecipient(
                person_from_row(row), reasons[row.id], _channels(row, reasons[row.id], now + self._window, sent)
            )
            for row in candidates
            if decide_notification(
                Recipient(
                    actor_from_membership(row if row.is_active else None, user_id=row.id),
                    reasons[row.id],
                    is_author=row.id == author,
                    organization=organization,
                    projects=facts,
                    is_muted=row.is_muted,
                )
            ).outcome
            is DecisionOutcome.DELIVERED
        ]

    async def _load_recent(self, people: Sequence[int], now: datetime) -> dict[tuple[int, str], int]:
        """Return the number of messages that each person got at once within an hour, by user id and channel."""
        pairs = [(user, channel.value) for user in people for channel in PERSONAL_CHANNELS]
        parameters = {
            "users": [user for user, _ in pairs],
            "channels": [channel for _, channel in pairs],
            "since": now - STORM_WINDOW,
        }
        return {(row.user_id, row.channel): row.sent for row in await self._rows(RECENT_MESSAGES, parameters)}

    async def _load_mentioned(self, organization: OrganizationFacts, mentions: Sequence[str | None]) -> _Directory:
        targets = [target for each in mentions if each is not None and (target := parse_mention(each))]
        named = [target.name for target in targets if target.kind is MentionKind.NAME]
        username, email = func.lower(users.c.username), func.lower(users.c.email)
        people = await self._rows(
            select(
                users.c.id,
                users.c.username,
                users.c.email,
                members.c.id.is_not(None).label("is_member"),
                TEAMS_EVER,
            )
            .select_from(users.outerjoin(members, _is_member_of(organization)))
            .where(
                or_(
                    users.c.id.in_([target.id for target in targets if target.kind is MentionKind.USER]),
                    username.in_(named),
                    email.in_(named),
                )
            )
            .order_by(users.c.is_active, users.c.id.desc())
        )
        team_ids = [target.id for target in targets if target.kind is MentionKind.TEAM]
        team_rows = await self._rows(MENTIONED_TEAMS, {"ids": team_ids})
        return _Directory(
            # Later rows are better matches: active accounts before inactive ones, older before younger.
            ids_by_name((row.id, row.username, row.email) for row in people),
            {row.id: frozenset(row.teams_ever) if row.is_member else None for row in people},
            {row.id: mentioned_team_from_row(row) for row in team_rows},
        )


def _is_member_of(organization: OrganizationFacts) -> ColumnElement[bool]:
    return and_(members.c.user_id == users.c.id, members.c.organization_id == organization.id)


def _has_chat(organization: OrganizationFacts) -> ColumnElement[bool]:
    c = chat_destinations.c
    is_active = c.status == DestinationStatus.ACTIVE.value
    return exists().where(c.organization_id == organization.id, c.user_id == users.c.id, is_active).correlate(users)


def _channels(
    row: Any, reason: NotificationReason, earliest: datetime, sent: Mapping[tuple[int, str], int]
) -> dict[Channel, Schedule]:
    contact = contact_from_row(row)
    return {
        channel: contact.schedule(
            reason,
            channel,
            earliest=earliest,
            is_critical=row.incident_status == IncidentStatus.CRITICAL,
            is_muted=row.is_muted,
            sent_last_hour=sent[row.id, channel],
        )
        for channel in contact.channels
    }
