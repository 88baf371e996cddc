"""The facts a batch needs, loaded in a few set-based queries, and the changes it makes.

A field of a command always wants the same facts, whatever the command: ``incident`` the incident with its
projects, ``mentions`` the people and teams named, ``projects`` the projects of these slugs, and so on.
Handlers read facts from their :class:`~workers.batch.context.Work` and leave changes there; nothing here decides.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Final

from models.alert_rules.alert_rule import AlertRule
from models.alert_rules.enums import TargetType
from models.alert_rules.serializers import RuleReferences
from models.directory.tables import Person
from models.enums import JSON, MAX_ID, CallerKind, Role
from models.incidents import mentions
from models.incidents.activity import Activity
from models.incidents.incident import Incident
from models.incidents.mentions import MentionedTeam
from models.messaging.command_ledger import ClaimedCommand
from models.policy import OrganizationFacts, ProjectFacts
from tasks.commands.alert_rules import CreateRule, DeleteRule, RuleCommand, RuleWords, UpdateRule
from tasks.commands.alertmanager import ReceiveAlerts
from tasks.commands.base import Command
from tasks.commands.comments import DeleteComment, EditComment
from tasks.commands.fields import identifier
from tasks.commands.incidents import OpenIncident, SetStatus
from tasks.commands.notifications import ReadNotifications
from tasks.commands.observations import ObserveMetric
from tasks.commands.subscriptions import Subscribe, Unsubscribe
from tasks.commands.triggers import CreateTrigger, DeleteTrigger
from workers.batch.rule_facts import Rulebook

_SHOWING: Final = (OpenIncident, SetStatus, Subscribe, Unsubscribe)
"""Commands that ask who has seen the incident and who hears of it."""

_OPENING: Final = (OpenIncident, ReceiveAlerts)
"""Commands that may open an incident."""

_ENDING: Final = (UpdateRule, DeleteRule, CreateTrigger, DeleteTrigger)
"""Commands that end what their rule holds open."""


@dataclass(frozen=True, slots=True)
class Order:
    """A claimed command with its message."""

    row: ClaimedCommand
    message: Command

    @property
    def organization_id(self) -> int:
        """The organization it concerns; 0 names none."""
        return self.row.organization_id or 0


@dataclass(frozen=True, slots=True)
class Token:
    """A credential as it stands now; ``expired`` and ``revoked`` by the database's clock."""

    kind: CallerKind
    user_id: int | None
    organization_id: int | None
    name: str
    scopes: frozenset[str] | None
    act_as: bool
    expired: bool
    revoked: bool


@dataclass(frozen=True, slots=True)
class Member:
    """A place in an organization: the active teams someone is actively on, and all they were ever on."""

    role: Role
    teams: frozenset[int]
    teams_ever: frozenset[int]


@dataclass(frozen=True, slots=True)
class Project:
    """A project: its policy facts, and its slug within its organization."""

    facts: ProjectFacts
    organization_id: int
    slug: str


@dataclass(slots=True)
class Wants:
    """What a batch has to know."""

    tokens: set[int] = field(default_factory=set)
    organizations: set[int] = field(default_factory=set)
    users: set[int] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    teams: set[int] = field(default_factory=set)
    incidents: set[tuple[int, int]] = field(default_factory=set)
    keys: set[tuple[int, str]] = field(default_factory=set)
    shown: set[tuple[int, str]] = field(default_factory=set)
    comments: set[int] = field(default_factory=set)
    projects: set[tuple[int, str]] = field(default_factory=set)
    inboxes: list[tuple[int, int, list[int], int]] = field(default_factory=list)
    opening: set[int] = field(default_factory=set)
    rules: set[int] = field(default_factory=set)
    ending: set[int] = field(default_factory=set)
    counted: set[int] = field(default_factory=set)
    told_teams: set[int] = field(default_factory=set)
    rule_ids: int = 0
    observed: list[tuple[int, int, str]] = field(default_factory=list)
    may_call: bool = False
    incident_ids: int = 0
    activity_ids: int = 0

    @classmethod
    def of(cls, orders: Iterable[Order]) -> Wants:
        """Everything that these commands name."""
        wants = cls()
        for order in orders:
            wants._add(order)
        return wants

    def _add(self, order: Order) -> None:
        row, message, organization = order.row, order.message, order.organization_id
        self.organizations.add(organization)
        self.activity_ids += 1
        if row.token_id is not None:
            self.tokens.add(row.token_id)
        if row.user_id is not None:
            self.users.add(row.user_id)
        if isinstance(message, ObserveMetric):
            self._add_value(organization, message)
            return
        if address := getattr(message, "incident", None):
            self._add_address(organization, address)
            if isinstance(message, _SHOWING):
                self.shown.add((organization, address))
        if isinstance(message, (EditComment, DeleteComment)):
            self.comments.add(message.id)
        for target in map(mentions.parse_mention, filter(None, getattr(message, "mentions", ()) or ())):
            self._add_target(target)
        self.projects.update((organization, slug) for slug in getattr(message, "projects", ()))
        if rule := getattr(message, "alert_rule", None):
            self._add_rule(rule)
        if isinstance(message, RuleCommand):
            self._add_rule_command(message, organization)
        if key := getattr(message, "dedup_key", None):
            self.keys.add((organization, key))
            self.shown.add((organization, f"dedup:{key}"))
        if isinstance(message, ReceiveAlerts) and message.project is not None:
            self.projects.add((organization, message.project))
        if isinstance(message, _OPENING):
            self.opening.add(organization)
            self.incident_ids += 1
            self.activity_ids += 1
        self.may_call |= isinstance(message, SetStatus)
        if isinstance(message, ReadNotifications) and row.user_id is not None:
            self.inboxes.append((row.user_id, organization, list(message.ids or ()), message.up_to or 0))

    def _add_rule_command(self, message: RuleCommand, organization: int) -> None:
        named = (getattr(message, "in_project", None), *getattr(message, "excluded_projects", ()))
        self.projects.update((organization, slug) for slug in named if slug is not None)
        self.rule_ids += message.new_ids
        for spec in message.action_specs:
            told = self.told_teams if spec.target_type == TargetType.TEAM else self.users
            if spec.target_type != TargetType.SPECIFIC and (target := identifier(spec.target_identifier)):
                told.add(target)
        if isinstance(message, RuleWords) and message.owner is not None:
            self._add_target(mentions.parse_mention(message.owner))
        if isinstance(message, CreateRule):
            self.counted.add(organization)
        if isinstance(message, _ENDING):
            self.ending.add(message.alert_rule)

    def _add_value(self, organization: int, message: ObserveMetric) -> None:
        self._add_rule(message.alert_rule)
        self.projects.add((organization, message.project))
        self.observed.append((organization, message.alert_rule, message.project))
        self.may_call = True
        # It may open an incident; how many activities its triggers make of it is known with the rule.
        self.opening.add(organization)
        self.incident_ids += 1
        self.activity_ids += 1

    def _add_rule(self, id_: int) -> None:
        # A larger number names none, and the database takes none.
        if 0 < id_ <= MAX_ID:
            self.rules.add(id_)

    def _add_address(self, organization: int, address: str) -> None:
        if address.isdecimal():
            self.incidents.add((organization, int(address)))
        elif address.startswith("dedup:"):
            self.keys.add((organization, address.removeprefix("dedup:")))

    def _add_target(self, target: mentions.MentionTarget | None) -> None:
        match target:
            case mentions.MentionTarget(kind=mentions.MentionKind.USER):
                self.users.add(target.id)
            case mentions.MentionTarget(kind=mentions.MentionKind.TEAM):
                self.teams.add(target.id)
            case mentions.MentionTarget(kind=mentions.MentionKind.NAME):
                self.names.add(target.name)


@dataclass(slots=True)
class World:
    """What is known while a batch is decided."""

    tokens: Mapping[int, Token]
    organizations: Mapping[int, OrganizationFacts]
    people: Mapping[int, Person]
    names: Mapping[str, int]
    members: Mapping[tuple[int, int], Member]
    teams: Mapping[int, MentionedTeam]
    projects: Mapping[int, Project]
    incidents: dict[tuple[int, int], Incident]
    subscribed: set[tuple[int, int]]
    seen: dict[int, list[tuple[Person, datetime]]]
    comments: dict[int, Activity]
    unread: Mapping[tuple[int, int], set[int]]
    last_identifiers: dict[int, int]
    rulebook: Rulebook
    incident_ids: list[int]
    activity_ids: list[int]
    by_key: dict[tuple[int, str], Incident] = field(init=False)
    by_rule: dict[int, list[Incident]] = field(init=False)
    by_slug: Mapping[tuple[int, str], Project] = field(init=False)
    rule_names: RuleReferences = field(init=False)
    listed: dict[Hashable, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        slugs = {project.facts.id: project.slug for project in self.projects.values()}
        self.rule_names = RuleReferences(projects=slugs, teams=self.rulebook.team_slugs, people=self.people)
        self.by_slug = {(project.organization_id, project.slug): project for project in self.projects.values()}
        self.by_key = {
            (incident.organization_id, incident.dedup_key): incident
            for incident in self.incidents.values()
            if incident.dedup_key is not None and incident.is_open
        }
        self.by_rule = {}
        for incident in self.incidents.values():
            self.by_rule.setdefault(incident.alert_rule_id or 0, []).append(incident)

    def incident_at(self, organization: int, address: str) -> Incident | None:
        """The incident of this identifier, or the open one with this ``dedup:KEY``."""
        if address.isdecimal():
            return self.incidents.get((organization, int(address)))
        return self.by_key.get((organization, address.removeprefix("dedup:"))) if address else None

    def project_in_use(self, organization: int, slug: str) -> Project | None:
        """The project of this slug, if there is one that is active."""
        project = self.by_slug.get((organization, slug))
        return project if project is not None and project.facts.active else None

    def add(self, incident: Incident) -> None:
        """An incident that this batch opens: later commands of the batch find it."""
        self.incidents[incident.organization_id, incident.identifier] = incident
        self.by_rule.setdefault(incident.alert_rule_id or 0, []).append(incident)
        self.follow(incident)

    def follow(self, incident: Incident) -> None:
        """Only while it is open can an incident be found by its key."""
        if incident.dedup_key is None:
            return
        key = (incident.organization_id, incident.dedup_key)
        if incident.is_open:
            self.by_key[key] = incident
        elif self.by_key.get(key) is incident:
            del self.by_key[key]

    def holder_of_key(self, incident: Incident) -> Incident | None:
        """The open incident that has this one's key, if another one has."""
        if incident.dedup_key is None:
            return None
        holder = self.by_key.get((incident.organization_id, incident.dedup_key))
        return None if holder is incident else holder

    def open_of_rule(self, rule: AlertRule, project: int) -> Incident | None:
        """The open incident that this rule, as it is now, found on the project; the newest if there are several."""
        found = [
            each
            for each in self.by_rule.get(rule.id, ())
            if each.is_open and each.alert_rule_generation == rule.generation and project in each.projects
        ]
        return max(found, key=lambda each: (each.date_added, each.id), default=None)

    def comment(self, incident: Incident, id_: int) -> Activity | None:
        """A comment on this very incident."""
        found = self.comments.get(id_)
        return found if found is not None and found.incident_id == incident.id else None

    def see(self, incident: Incident, person: Person, at: datetime) -> None:
        """The person has seen the incident: most recent first."""
        others = [(each, when) for each, when in self.seen.get(incident.id, ()) if each.id != person.id]
        self.seen[incident.id] = [(person, at), *others]

    def projects_of(self, incident: Incident) -> list[Project]:
        """The incident's projects, by slug."""
        return sorted((self.projects[id_] for id_ in incident.projects), key=lambda project: project.slug)

    def held_open_by(self, rule: AlertRule) -> list[int]:
        """What a rule that may end found in its generation and holds open, as the batch has left it: identifiers."""
        here = {each.identifier: each for each in self.incidents.values() if each.alert_rule_id == rule.id}
        open_ = self.rulebook.open_incidents.get(rule.id, {}) | {
            number: each.alert_rule_generation for number, each in here.items() if each.is_open
        }
        closed = {number for number, each in here.items() if not each.is_open}
        return sorted(number for number, began in open_.items() if began == rule.generation and number not in closed)

    def last_found(self, rule: int) -> int | None:
        """The last generation in which a rule that may end found an incident, if it ever did."""
        here = {each.alert_rule_generation for each in self.incidents.values() if each.alert_rule_id == rule}
        return max((each for each in here | {self.rulebook.last_found.get(rule)} if each is not None), default=None)

    def attached_teams(self, incident: Incident) -> Set[int]:
        """Return the ids of the teams attached to any of the incident's projects, active or not."""
        return set(chain.from_iterable(project.facts.teams for project in self.projects_of(incident)))


@dataclass(frozen=True, slots=True)
class MentionFacts:
    """A world, asked about mentions in one organization."""

    world: World
    organization: int

    def user_named(self, name: str) -> int | None:
        """See :class:`models.incidents.mentions.Facts`."""
        return self.world.names.get(name)

    def user_exists(self, user: int) -> bool:
        """See :class:`models.incidents.mentions.Facts`."""
        return user in self.world.people

    def teams_ever(self, user: int) -> Set[int] | None:
        """See :class:`models.incidents.mentions.Facts`."""
        member = self.world.members.get((self.organization, user))
        return None if member is None else member.teams_ever

    def team(self, team: int) -> MentionedTeam | None:
        """See :class:`models.incidents.mentions.Facts`."""
        return self.world.teams.get(team)
