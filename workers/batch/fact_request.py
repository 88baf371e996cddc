"""The request for the facts of a batch: the ids and names to which its commands refer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from models.incidents import mentions
from models.messaging.command_ledger import ClaimedCommand
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
        """The organization that the command concerns; 0 if its row names none."""
        return self.row.organization_id or 0


class InboxRequest(NamedTuple):
    """Unread inbox items of one person in one organization: those of ``ids``, and all up to the id ``up_to``."""

    user_id: int
    organization_id: int
    ids: tuple[int, ...]
    up_to: int


class ObservedProject(NamedTuple):
    """An alert rule and the slug of the project for which it received a value."""

    organization_id: int
    rule_id: int
    project_slug: str


@dataclass(slots=True)
class FactRequest:
    """The facts to load for a batch.

    Pairs are (organization id, …): ``incidents`` with an identifier, ``dedup_keys`` with a key, ``project_slugs`` with
    a slug, ``detailed_incidents`` with an incident reference (their viewers and subscribers are loaded). ``user_names``
    are usernames and e-mail addresses in lower case; ``team_ids`` are loaded with their members, ``target_team_ids``
    without. ``ending_rule_ids`` are the rules that may close their open incidents. ``action_recipients`` is true if the
    actions of alert rules may fire. ``new_*_ids`` are numbers of ids to draw.
    """

    token_ids: set[int] = field(default_factory=set)
    organization_ids: set[int] = field(default_factory=set)
    user_ids: set[int] = field(default_factory=set)
    user_names: set[str] = field(default_factory=set)
    team_ids: set[int] = field(default_factory=set)
    incidents: set[tuple[int, int]] = field(default_factory=set)
    dedup_keys: set[tuple[int, str]] = field(default_factory=set)
    detailed_incidents: set[tuple[int, str]] = field(default_factory=set)
    comment_ids: set[int] = field(default_factory=set)
    project_slugs: set[tuple[int, str]] = field(default_factory=set)
    inboxes: list[InboxRequest] = field(default_factory=list)
    opening_organization_ids: set[int] = field(default_factory=set)
    rule_ids: set[int] = field(default_factory=set)
    ending_rule_ids: set[int] = field(default_factory=set)
    rule_count_organization_ids: set[int] = field(default_factory=set)
    target_team_ids: set[int] = field(default_factory=set)
    observed_projects: list[ObservedProject] = field(default_factory=list)
    action_recipients: bool = False
    new_rule_ids: int = 0
    new_incident_ids: int = 0
    new_activity_ids: int = 0

    def add_command(self, row: ClaimedCommand) -> None:
        """Request what every command needs: its credential, person and organization, and the id of one activity."""
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
        """Request an alert rule. An id out of range names none, and PostgreSQL would reject it."""
        if 0 < rule_id <= MAX_ID:
            self.rule_ids.add(rule_id)

    def add_mention(self, mention: str) -> None:
        """Request the person or team that a mention or an owner names, if it names one."""
        match mentions.parse_mention(mention):
            case mentions.MentionTarget(kind=mentions.MentionKind.USER, id=user_id):
                self.user_ids.add(user_id)
            case mentions.MentionTarget(kind=mentions.MentionKind.TEAM, id=team_id):
                self.team_ids.add(team_id)
            case mentions.MentionTarget(kind=mentions.MentionKind.NAME, name=name):
                self.user_names.add(name)
