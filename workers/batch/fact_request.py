"""The request for a batch's facts: the ids and names to which its commands refer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

from models.incidents import mentions
from models.messaging.claims import ClaimedCommand
from models.types import MAX_ID
from tasks.commands.fields import dedup_key_of

C_co = TypeVar("C_co", covariant=True)


@dataclass(frozen=True, slots=True)
class PendingCommand(Generic[C_co]):
    """A claimed command: its row in the ledger and its parsed payload."""

    row: ClaimedCommand
    command: C_co

    @property
    def organization_id(self) -> int:
        """The id of the organization that the command concerns, or 0 if its row names none."""
        return self.row.organization_id or 0


class InboxRequest(NamedTuple):
    """A request for a person's unread inbox items in an organization.

    It covers the items in ``ids``, all items up to the id ``up_to``, and all items about ``incident``, which is an
    incident reference.
    """

    user_id: int
    organization_id: int
    ids: tuple[int, ...]
    up_to: int
    incident: str | None = None

    @property
    def inbox(self) -> tuple[int, int]:
        """The user id and the organization id."""
        return self.user_id, self.organization_id


class ObservedProject(NamedTuple):
    """An alert rule and the slug of the project for which it received a value."""

    organization_id: int
    rule_id: int
    project_slug: str


@dataclass(slots=True)
class FactRequest:
    """A request for the facts to load for a batch.

    Each pair consists of an organization id and a second value: an identifier in ``incidents``, a key in
    ``dedup_keys`` (of an open incident) and ``closed_keys`` (of the latest closed one), a slug in ``project_slugs``,
    and an incident reference in ``detailed_incidents``, whose viewers and subscribers are loaded. ``user_names`` holds
    usernames and e-mail addresses in lower case. Teams in ``team_ids`` are loaded with their members, those in
    ``target_team_ids`` without. ``preference_user_ids`` holds the people whose preferences are loaded, with what they
    have muted; ``muted_incident_ids`` holds pairs of such a person and the id of an incident that they want to mute.
    ``ending_rule_ids`` holds the rules whose open incidents may be closed. ``action_recipients`` is true if alert
    rules' actions may be triggered. ``new_*_ids`` are the numbers of ids to reserve for new objects.
    """

    token_ids: set[int] = field(default_factory=set)
    organization_ids: set[int] = field(default_factory=set)
    user_ids: set[int] = field(default_factory=set)
    user_names: set[str] = field(default_factory=set)
    team_ids: set[int] = field(default_factory=set)
    incidents: set[tuple[int, int]] = field(default_factory=set)
    dedup_keys: set[tuple[int, str]] = field(default_factory=set)
    closed_keys: set[tuple[int, str]] = field(default_factory=set)
    detailed_incidents: set[tuple[int, str]] = field(default_factory=set)
    comment_ids: set[int] = field(default_factory=set)
    project_slugs: set[tuple[int, str]] = field(default_factory=set)
    inboxes: list[InboxRequest] = field(default_factory=list)
    preference_user_ids: set[int] = field(default_factory=set)
    muted_incident_ids: set[tuple[int, int]] = field(default_factory=set)
    opening_organization_ids: set[int] = field(default_factory=set)
    rule_ids: set[int] = field(default_factory=set)
    ending_rule_ids: set[int] = field(default_factory=set)
    rule_count_organization_ids: set[int] = field(default_factory=set)
    target_team_ids: set[int] = field(default_factory=set)
    observed_projects: list[ObservedProject] = field(default_factory=list)
    action_recipients: bool = False
    webhook_ids: set[int] = field(default_factory=set)
    webhook_count_organization_ids: set[int] = field(default_factory=set)
    webhook_delivery_ids: set[UUID] = field(default_factory=set)
    new_webhook_ids: int = 0
    chat_organization_ids: set[int] = field(default_factory=set)
    new_chat_destination_ids: int = 0
    new_rule_ids: int = 0
    new_incident_ids: int = 0
    new_activity_ids: int = 0

    def add_command(self, row: ClaimedCommand) -> None:
        """Request what every command needs: its credential, person and organization, and an id for a new activity."""
        self.organization_ids.add(row.organization_id or 0)
        self.new_activity_ids += 1
        if row.token_id is not None:
            self.token_ids.add(row.token_id)
        if row.user_id is not None:
            self.user_ids.add(row.user_id)

    def add_incident(self, organization_id: int, reference: str) -> None:
        """Request an incident by its identifier or, for ``dedup:KEY``, the open incident with this key."""
        if reference.isdecimal():
            self.incidents.add((organization_id, int(reference)))
        elif (key := dedup_key_of(reference)) is not None:
            self.dedup_keys.add((organization_id, key))

    def add_rule(self, rule_id: int) -> None:
        """Request an alert rule, unless its id is out of range.

        No rule has such an id, and PostgreSQL would reject it.
        """
        if 0 < rule_id <= MAX_ID:
            self.rule_ids.add(rule_id)

    def add_mention(self, mention: str) -> None:
        """Request the person or team, if any, that ``mention`` identifies. It may also be the owner of a rule."""
        match mentions.parse_mention(mention):
            case mentions.MentionTarget(kind=mentions.MentionKind.USER, id=user_id):
                self.user_ids.add(user_id)
            case mentions.MentionTarget(kind=mentions.MentionKind.TEAM, id=team_id):
                self.team_ids.add(team_id)
            case mentions.MentionTarget(kind=mentions.MentionKind.NAME, name=name):
                self.user_names.add(name)
