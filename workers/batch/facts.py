"""The facts on which a batch's commands are decided.

:mod:`workers.batch.load` loads them all at once, and handlers keep them current, so that a command sees what the
earlier commands of its batch have done. Nothing here makes a decision.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain

from models.alert_rules.alert_rule import AlertRule
from models.alert_rules.serializers import RuleReferences
from models.directory.policy_facts import NamedProject
from models.directory.tables import Person
from models.enums import CallerKind, Role
from models.incidents.activity import Activity
from models.incidents.incident import Incident
from models.incidents.mentions import MentionedTeam
from models.policy import OrganizationFacts
from models.types import JSON
from tasks.commands.fields import dedup_key_of
from workers.batch.chat_facts import ChatFacts
from workers.batch.inbox_facts import Inbox, UnreadItems
from workers.batch.numbers import IncidentNumbers
from workers.batch.preference_facts import PreferenceFacts
from workers.batch.rule_facts import RuleFacts
from workers.batch.webhook_facts import WebhookFacts


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """A credential in its current state. ``expired`` is judged by the database's clock."""

    kind: CallerKind
    user_id: int | None
    organization_id: int | None
    name: str
    scopes: frozenset[str] | None
    act_as: bool
    expired: bool
    revoked: bool


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """A person's membership in an organization.

    ``teams`` holds the active teams in which the person is an active member, ``teams_ever`` all teams that the person
    ever belonged to.
    """

    role: Role
    teams: frozenset[int]
    teams_ever: frozenset[int]


@dataclass(slots=True)
class Facts:
    """The facts that are known while a batch is decided.

    Keyed by id: ``tokens``, ``organizations``, ``people``, ``mentioned_teams``, ``projects``, ``comments``. Keyed by
    organization id and a second value: ``members`` (user id), ``incidents`` (identifier), ``open_incidents_by_key`` and
    ``closed_incidents_by_key`` (deduplication key), ``projects_by_slug`` (slug). ``user_ids_by_name`` is keyed by
    username and by e-mail address, in lower case. ``subscriptions`` holds pairs of incident id and user id. ``seen``
    lists each incident's viewers by incident id, the latest first. ``unread`` holds the facts about inboxes by user id
    and organization id, ``preferences`` those about preferences by user id. Handlers pop new ids from
    ``new_incident_ids`` and ``new_activity_ids``.
    """

    tokens: Mapping[int, TokenFacts]
    organizations: Mapping[int, OrganizationFacts]
    people: Mapping[int, Person]
    user_ids_by_name: Mapping[str, Sequence[int]]
    members: Mapping[tuple[int, int], MemberFacts]
    mentioned_teams: Mapping[int, MentionedTeam]
    projects: Mapping[int, NamedProject]
    incidents: dict[tuple[int, int], Incident]
    subscriptions: set[tuple[int, int]]
    seen: dict[int, list[tuple[Person, datetime]]]
    comments: dict[int, Activity]
    unread: Mapping[Inbox, UnreadItems]
    preferences: Mapping[int, PreferenceFacts]
    incident_numbers: IncidentNumbers
    rules: RuleFacts
    webhooks: WebhookFacts
    chat: ChatFacts
    new_incident_ids: list[int]
    new_activity_ids: list[int]
    open_incidents_by_key: dict[tuple[int, str], Incident] = field(init=False)
    closed_incidents_by_key: dict[tuple[int, str], Incident] = field(init=False)
    incidents_by_rule: dict[int, list[Incident]] = field(init=False)
    projects_by_slug: Mapping[tuple[int, str], NamedProject] = field(init=False)
    rule_references: RuleReferences = field(init=False)
    listed_json: dict[Hashable, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        slugs = {project.facts.id: project.slug for project in self.projects.values()}
        self.rule_references = RuleReferences(projects=slugs, teams=self.rules.team_slugs, people=self.people)
        self.projects_by_slug = {(project.organization_id, project.slug): project for project in self.projects.values()}
        self.open_incidents_by_key = {
            (incident.organization_id, incident.dedup_key): incident
            for incident in self.incidents.values()
            if incident.dedup_key is not None and incident.is_open
        }
        closed = [each for each in self.incidents.values() if each.date_closed is not None and not each.is_open]
        self.closed_incidents_by_key = {
            (incident.organization_id, incident.dedup_key): incident
            for incident in sorted(closed, key=_closing_time)
            if incident.dedup_key is not None
        }
        self.incidents_by_rule = {}
        for incident in self.incidents.values():
            self.incidents_by_rule.setdefault(incident.alert_rule_id or 0, []).append(incident)

    def find_incident(self, organization_id: int, reference: str) -> Incident | None:
        """Return the incident with this identifier or, for ``dedup:KEY``, the open one with this key."""
        if reference.isdecimal():
            return self.incidents.get((organization_id, int(reference)))
        key = dedup_key_of(reference)
        return None if key is None else self.open_incidents_by_key.get((organization_id, key))

    def find_active_project(self, organization_id: int, slug: str) -> NamedProject | None:
        """Return the organization's active project with this slug, if there is one."""
        project = self.projects_by_slug.get((organization_id, slug))
        return project if project is not None and project.facts.active else None

    def register(self, incident: Incident) -> None:
        """Add an incident that this batch opens, so that later commands of the batch find it."""
        self.incidents[incident.organization_id, incident.identifier] = incident
        self.incidents_by_rule.setdefault(incident.alert_rule_id or 0, []).append(incident)
        self.index_key(incident)

    def index_key(self, incident: Incident) -> None:
        """Update the incident's entry in ``open_incidents_by_key`` or ``closed_incidents_by_key``.

        The latter holds the one that was closed last.
        """
        if incident.dedup_key is None:
            return
        key = (incident.organization_id, incident.dedup_key)
        if incident.is_open:
            self.open_incidents_by_key[key] = incident
            return
        if self.open_incidents_by_key.get(key) is incident:
            del self.open_incidents_by_key[key]
        self.closed_incidents_by_key[key] = incident

    def other_holder_of_key(self, incident: Incident) -> Incident | None:
        """Return another open incident with the same deduplication key, if there is one."""
        if incident.dedup_key is None:
            return None
        holder = self.open_incidents_by_key.get((incident.organization_id, incident.dedup_key))
        return None if holder is incident else holder

    def open_incident_of_rule(self, rule: AlertRule, project_id: int) -> Incident | None:
        """Return the latest open incident that the rule's current generation opened on the project, if there is one."""
        found = [
            each
            for each in self.incidents_by_rule.get(rule.id, ())
            if each.is_open and each.alert_rule_generation == rule.generation and project_id in each.projects
        ]
        return max(found, key=lambda each: (each.date_added, each.id), default=None)

    def find_comment(self, incident: Incident, id_: int) -> Activity | None:
        """Return the incident's comment with this id, if there is one."""
        found = self.comments.get(id_)
        return found if found is not None and found.incident_id == incident.id else None

    def record_seen(self, incident: Incident, person: Person, at: datetime) -> None:
        """Record the person as the incident's latest viewer."""
        others = [(each, when) for each, when in self.seen.get(incident.id, ()) if each.id != person.id]
        self.seen[incident.id] = [(person, at), *others]

    def projects_of(self, incident: Incident) -> list[NamedProject]:
        """Return the incident's projects, sorted by slug."""
        return sorted((self.projects[id_] for id_ in incident.projects), key=lambda project: project.slug)

    def open_identifiers_of_rule(self, rule: AlertRule) -> list[int]:
        """Return the sorted identifiers of the open incidents that the rule opened in its current generation.

        Incidents that the batch has opened or closed are taken into account. The rule must have been requested with
        its incidents.
        """
        in_batch = {each.identifier: each for each in self.incidents.values() if each.alert_rule_id == rule.id}
        generations = self.rules.open_incidents.get(rule.id, {}) | {
            identifier: each.alert_rule_generation for identifier, each in in_batch.items() if each.is_open
        }
        closed = {identifier for identifier, each in in_batch.items() if not each.is_open}
        return sorted(
            identifier
            for identifier, generation in generations.items()
            if generation == rule.generation and identifier not in closed
        )

    def last_generation_with_incident(self, rule_id: int) -> int | None:
        """Return the last generation in which the rule opened an incident, or ``None`` if it never did.

        The rule must have been requested with its incidents.
        """
        in_batch = {each.alert_rule_generation for each in self.incidents.values() if each.alert_rule_id == rule_id}
        generations = in_batch | {self.rules.last_generations_with_incident.get(rule_id)}
        return max((each for each in generations if each is not None), default=None)

    def attached_teams(self, incident: Incident) -> Set[int]:
        """Return the ids of all teams, active or not, that are attached to any of the incident's projects."""
        return set(chain.from_iterable(project.facts.teams for project in self.projects_of(incident)))


def _closing_time(incident: Incident) -> tuple[float, int]:
    return (incident.date_closed.timestamp() if incident.date_closed else 0.0, incident.id)


@dataclass(frozen=True, slots=True)
class BatchMentionFacts:
    """An organization's facts about mentions, in the form that :mod:`models.incidents.mentions` reads."""

    facts: Facts
    organization_id: int

    def users_named(self, name: str) -> Sequence[int]:
        """See :class:`models.incidents.mentions.MentionFacts`."""
        return self.facts.user_ids_by_name.get(name, ())

    def teams_ever(self, user: int) -> Set[int] | None:
        """See :class:`models.incidents.mentions.MentionFacts`."""
        member = self.facts.members.get((self.organization_id, user))
        return None if member is None else member.teams_ever

    def team(self, team: int) -> MentionedTeam | None:
        """See :class:`models.incidents.mentions.MentionFacts`."""
        return self.facts.mentioned_teams.get(team)
