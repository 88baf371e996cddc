"""A command's context: the actor and the facts that the handler reads, and the changes that the handler makes.

:mod:`workers.batch.write` writes the changes of a whole batch at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple, TypedDict, Unpack
from uuid import UUID

import orjson

from models.alert_rules.alert_rule import AlertRule
from models.base import new_id
from models.directory.policy_facts import actor_from_membership
from models.directory.tables import Person
from models.enums import ActivityType, CallerKind, SubscriptionReason
from models.incidents.activity import Activity
from models.incidents.incident import Incident
from models.messaging.outbox import NewEvent
from models.policy import (
    SYSTEM,
    Actor,
    CredentialFacts,
    OrganizationFacts,
    may_read,
    require_organization_access,
    require_person,
    require_project_access,
    require_token_scope,
    require_valid_credential,
)
from models.refusals import Forbidden, NotFound, StaleVersion
from models.serializers.incidents import IncidentRule, incident_details_json, incident_in_event, incident_json
from models.types import JSON
from tasks.commands.base import EXPECTED_VERSIONS, Command
from tasks.commands.catalog import CATALOG
from tasks.commands.fields import dedup_key_of
from tasks.events import Event, cloud_event
from workers.batch.changes import Changes, Mute, PreferenceChanges
from workers.batch.fact_request import PendingCommand
from workers.batch.facts import Facts
from workers.follow_ups import make_follow_up


class CommandResult(NamedTuple):
    """The result of an applied command: an HTTP status, and a JSON body or ``None`` for a response without a body."""

    status: int
    body: JSON = None


class ActivityFacts(TypedDict, total=False):
    """The fields of an activity that depend on its type."""

    value: str
    previous_value: str
    comment: str | None
    mentioned_users: frozenset[int]
    mentioned_teams: frozenset[int]


@dataclass(slots=True)
class CommandContext:
    """The context in which a handler applies one command: its actor, the facts, and the batch's changes."""

    pending: PendingCommand[Command]
    facts: Facts
    changes: Changes
    in_organization: OrganizationFacts | None
    actor: Actor

    @classmethod
    def authorize(cls, pending: PendingCommand[Command], facts: Facts, changes: Changes) -> CommandContext:
        """Make the context for a command, after repeating checks 3 and 7 to 9 (docs/messages.md) on current facts.

        :raises Refusal: if the credential, the organization, the scope or the feature no longer allows the command.
        """
        entry = CATALOG[pending.row.type]
        organization = facts.organizations.get(pending.organization_id)
        actor = _actor_of(pending, facts)
        if entry.is_personal:
            require_token_scope(actor, entry.permission, entry.method)
            return cls(pending, facts, changes, organization, actor)
        if organization is None:
            raise NotFound
        require_organization_access(actor, organization, entry.permission_of(pending.command), entry.method)
        return cls(pending, facts, changes, organization, actor)

    def as_system(self) -> CommandContext:
        """Return the same context with the system as its actor, for effects that no person or service caused."""
        return replace(self, actor=SYSTEM)

    @property
    def organization(self) -> OrganizationFacts:
        """The organization that the command concerns.

        :raises NotFound: if the command is personal and concerns none.
        """
        if self.in_organization is None:
            raise NotFound
        return self.in_organization

    @property
    def accepted_at(self) -> datetime:
        """The time at which the command was accepted."""
        return self.pending.row.accepted_at

    @property
    def author(self) -> Person:
        """The person on whose behalf the command is applied.

        :raises Forbidden: if the actor is not a person and does not act for one.
        """
        require_person(self.actor)
        if self.actor.user_id is None:
            raise Forbidden
        return self.facts.people[self.actor.user_id]

    def require_incident(self, reference: str) -> Incident:
        """Return the incident that the reference identifies, after checks 10 and 11 (docs/messages.md).

        A deduplication key of an incident that the actor cannot access is unknown, like any other key.

        :raises NotFound: if the organization has no such incident, or had none when the command was accepted.
        :raises Forbidden: if the actor has access to none of the incident's projects.
        """
        incident = self.facts.find_incident(self.organization.id, reference)
        # The command has another subject if the incident did not exist yet when the command was accepted.
        if incident is None or str(incident.subject) != self.pending.row.subject:
            raise NotFound
        try:
            self.require_access(incident)
        except Forbidden:
            if dedup_key_of(reference) is not None:
                raise NotFound from None
            raise
        return incident

    def require_access(self, incident: Incident) -> None:
        """Require access to at least one of the incident's projects: check 11 (docs/messages.md).

        :raises Forbidden: if the actor has access to none of them.
        """
        require_project_access(
            self.actor, self.organization, [project.facts for project in self.facts.projects_of(incident)]
        )

    def find_rule(self, rule_id: int) -> AlertRule | None:
        """Return the organization's live alert rule with this id, if there is one."""
        return self.facts.rules.find_rule(self.organization.id, rule_id)

    def can_read_rule(self, rule: AlertRule) -> bool:
        """Return whether the actor has access to at least one of the rule's projects."""
        projects = (self.facts.projects[id_].facts for id_ in rule.projects)
        return self.actor.kind is CallerKind.SYSTEM or may_read(self.actor, self.organization, projects)

    def require_version(self, version: int) -> None:
        """Require that ``version`` is a version in the request's If-Match header, if there is one.

        :raises StaleVersion: if the resource has changed since the caller read it.
        """
        expected = self.pending.row.expected_version
        if expected is not None and version not in self.pending.row.payload.get(EXPECTED_VERSIONS, (expected,)):
            raise StaleVersion

    def record_activity(self, incident: Incident, kind: ActivityType, **facts: Unpack[ActivityFacts]) -> Activity:
        """Record an activity by the actor on the incident, and give the incident a new version."""
        at = incident.record_activity(accepted_at=self.accepted_at)
        return self.record_dated_activity(incident, at, kind, **facts)

    def record_dated_activity(
        self, incident: Incident, at: datetime, kind: ActivityType, **facts: Unpack[ActivityFacts]
    ) -> Activity:
        """Record an activity with an explicit date. The incident keeps its version."""
        activity = Activity(
            id=self.facts.new_activity_ids.pop(),
            incident_id=incident.id,
            user_id=self.actor.user_id,
            type=kind,
            date_added=at,
            **facts,
        )
        self.changes.activities.append((activity, new_id()))
        self.changes.updated[incident.id] = incident
        if kind is ActivityType.COMMENT:
            self.facts.comments[activity.id] = activity
        return activity

    def subscribe(self, incident: Incident, people: Iterable[int], reason: SubscriptionReason) -> None:
        """Subscribe people to the incident. Those who are already subscribed keep their reason."""
        for person in people:
            self.changes.subscribed.setdefault((incident.id, person), (reason, self.accepted_at))
            self.facts.subscriptions.add((incident.id, person))

    def unsubscribe(self, incident: Incident, person: int) -> None:
        """Remove a person's subscription to the incident, if there is one."""
        pair = (incident.id, person)
        self.changes.subscribed.pop(pair, None)
        self.changes.unsubscribed.add(pair)
        self.facts.subscriptions.discard(pair)

    def replace_preferences(self, document: dict[str, JSON]) -> None:
        """Replace the author's preferences, and give them a new version."""
        self._change_preferences().document = document

    def mute(self, incident_id: int, until: datetime | None) -> None:
        """Mute an incident for the author, and give the author's preferences a new version."""
        self.facts.preferences[self.author.id].mutes[incident_id] = until
        self._change_preferences().mutes[incident_id] = Mute(until)

    def unmute(self, incident_id: int) -> None:
        """Unmute an incident for the author, and give the author's preferences a new version."""
        self.facts.preferences[self.author.id].mutes.pop(incident_id, None)
        self._change_preferences().mutes[incident_id] = None

    def _change_preferences(self) -> PreferenceChanges:
        # Clients send the version back in If-Match: whatever they may overwrite must change it.
        self.facts.preferences[self.author.id].version += 1
        changes = self.changes.preferences.setdefault(self.author.id, PreferenceChanges())
        changes.version = self.facts.preferences[self.author.id].version
        return changes

    def is_subscribed(self, incident: Incident) -> bool:
        """Return whether the actor is subscribed to the incident."""
        return self.actor.user_id is not None and (incident.id, self.actor.user_id) in self.facts.subscriptions

    def incident_json(self, incident: Incident) -> JSON:
        """Return the incident in detail, as its endpoint returns it to the actor."""
        return incident_details_json(
            incident,
            projects=[project.slug for project in self.facts.projects_of(incident)],
            seen_by=self.facts.seen.get(incident.id, ()),
            viewer=self.actor.user_id,
            is_subscribed=self.is_subscribed(incident),
            alert_rule=self._incident_rule(incident),
        )

    def listed_incident_json(self, incident: Incident) -> JSON:
        """Return the incident as a list item. Within a batch, each state of the incident is rendered only once."""
        incident_rule = self._incident_rule(incident)
        rule_state = None if incident_rule is None else (incident_rule.snapshot.rule.version, incident_rule.is_snoozed)
        state = (incident.id, incident.version, rule_state)
        if state not in self.facts.listed_json:
            projects = [project.slug for project in self.facts.projects_of(incident)]
            self.facts.listed_json[state] = incident_json(incident, projects=projects, alert_rule=incident_rule)
        return self.facts.listed_json[state]

    def _incident_rule(self, incident: Incident) -> IncidentRule | None:
        snapshot = self.facts.rules.snapshot_for(incident)
        if snapshot is None:
            return None
        is_snoozed = self.facts.rules.is_snoozed(snapshot.rule.id, self.actor.user_id, self.accepted_at)
        return IncidentRule(snapshot, self.facts.rule_references, is_snoozed)

    def emit(self, incident: Incident, event: Event) -> UUID:
        """Emit an event about an incident, numbered in the incident's own sequence, and return the event's id.

        The event is committed with the batch's changes.
        """
        self.changes.updated[incident.id] = incident
        return self._emit(
            event,
            subject=f"incidents/{incident.identifier}",
            sequence=incident.next_event_sequence(),
            about={"incident": incident_in_event(incident)},
            incident_id=incident.id,
        )

    def emit_for_rule(self, rule: AlertRule, event: Event, *, incident: Incident | None = None) -> None:
        """Emit an event about an alert rule, numbered in the rule's own sequence."""
        self.changes.rules.updated[rule.id] = rule
        self._emit(
            event,
            subject=f"alert-rules/{rule.id}",
            sequence=rule.next_event_sequence(),
            about={
                "incident": None if incident is None else incident_in_event(incident),
                "alertRule": {"id": str(rule.id), "name": rule.definition.name, "version": rule.version},
            },
            incident_id=None if incident is None else incident.id,
        )

    def test_event(self, event: Event, *, subject: str) -> tuple[UUID, dict[str, JSON]]:
        """Return the id and the CloudEvent of an event that is sent to one recipient only, without emitting it.

        It has the sequence number 0, because the subject's other recipients never see it.
        """
        id_ = new_id()
        return id_, self._cloud_event(event, id_, subject=subject, sequence=0, about={})

    def follow_up(self, command: Command, *, user_id: int | None = None) -> None:
        """Add to the ledger, in the same transaction, a system command that follows from the current command.

        ``user_id`` is the id of the person whom the command concerns.
        """
        self.changes.follow_ups.append(
            make_follow_up(command, organization_id=self.organization.id, user_id=user_id, trace=self.pending.row.trace)
        )

    def _emit(
        self, event: Event, *, subject: str, sequence: int, about: dict[str, JSON], incident_id: int | None = None
    ) -> UUID:
        id_ = new_id()
        body = self._cloud_event(event, id_, subject=subject, sequence=sequence, about=about)
        self.changes.events.append(
            NewEvent(
                id=id_,
                organization_id=self.organization.id,
                subject=subject,
                sequence=sequence,
                type=event.type,
                incident_id=incident_id,
                activity_id=event.activity_id,
                command_id=self.pending.row.id,
                body=orjson.dumps(body).decode(),
                planned_at=None if event.notifies_people else self.accepted_at,
                request_id=self.pending.row.request_id,
                traceparent=self.pending.row.traceparent,
            )
        )
        return id_

    def _cloud_event(
        self, event: Event, id_: UUID, *, subject: str, sequence: int, about: dict[str, JSON]
    ) -> dict[str, JSON]:
        return cloud_event(
            event,
            id=id_,
            organization=self.organization.slug,
            subject=subject,
            sequence=sequence,
            time=self.accepted_at,
            data=about | {"actor": self._actor_in_event(), "command": str(self.pending.row.id)},
            traceparent=self.pending.row.traceparent,
        )

    def _actor_in_event(self) -> JSON:
        if self.actor.kind is CallerKind.SYSTEM:
            return {"type": "system", "id": None, "name": "tocsin"}
        if self.actor.user_id is not None:
            person = self.facts.people[self.actor.user_id]
            return {"type": "user", "id": str(person.id), "name": person.name}
        token = self.facts.tokens[self.pending.row.token_id or 0]
        return {"type": "service", "id": None, "name": token.name}


def _actor_of(pending: PendingCommand[Command], facts: Facts) -> Actor:
    row = pending.row
    if row.token_id is None and row.caller == CallerKind.SYSTEM:
        return Actor(kind=SYSTEM.kind, user_id=row.user_id)
    member = facts.members.get((pending.organization_id, row.user_id)) if row.user_id is not None else None
    if row.token_id is None:
        # A person's session without a token. The rights are those of the person's role.
        require_valid_credential(_session(row.user_id, facts))
        return actor_from_membership(member, user_id=row.user_id)
    require_valid_credential(_credential(row.token_id, row.user_id, facts))
    token = facts.tokens[row.token_id]
    return actor_from_membership(
        member, kind=token.kind, user_id=row.user_id, organization_id=token.organization_id, scopes=token.scopes
    )


def _session(user_id: int | None, facts: Facts) -> CredentialFacts:
    return CredentialFacts(
        kind=CallerKind.USER,
        revoked=False,
        expired=False,
        user_active=_is_active(user_id, facts),
        acts_for_user=False,
        may_act_for_users=False,
        is_member=False,
    )


def _is_active(user_id: int | None, facts: Facts) -> bool:
    return user_id is not None and user_id in facts.people and facts.people[user_id].is_active


def _credential(token_id: int, user_id: int | None, facts: Facts) -> CredentialFacts | None:
    token = facts.tokens.get(token_id)
    if token is None:
        return None
    return CredentialFacts(
        kind=token.kind,
        revoked=token.revoked,
        expired=token.expired,
        user_active=_is_active(user_id, facts),
        acts_for_user=user_id is not None and token.kind is not CallerKind.USER,
        may_act_for_users=token.act_as,
        is_member=(token.organization_id, user_id) in facts.members,
    )
