"""One command being worked on: who asks, what they find, and what they leave behind.

A handler reads its facts from here and leaves its changes here; :mod:`workers.batch.write` writes those of a whole
batch at once.
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
from models.directory.tables import Person
from models.enums import JSON, ActivityType, CallerKind, SubscriptionReason
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
    require_project_access,
    require_valid_credential,
)
from models.refusals import Forbidden, NotFound, StaleVersion
from models.serializers import IncidentRule, incident_details_json, incident_in_event, incident_json
from tasks.commands.base import Command
from tasks.commands.catalog import CATALOG
from tasks.events import Event, cloud_event
from workers.batch.changes import Changes
from workers.batch.facts import Order, World
from workers.follow_ups import make_follow_up


class Answer(NamedTuple):
    """What the caller hears: an HTTP status and a JSON body, ``None`` for an answer without one."""

    status: int
    body: JSON = None


class ActivityFacts(TypedDict, total=False):
    """What an activity says beside when, where and by whom."""

    value: str
    previous_value: str
    comment: str | None
    mentioned_users: frozenset[int]
    mentioned_teams: frozenset[int]


@dataclass(slots=True)
class Work:
    """One command, its actor, the facts, and the batch's changes. ``at`` is when the command was accepted."""

    order: Order
    world: World
    changes: Changes
    organization: OrganizationFacts
    actor: Actor

    @classmethod
    def begin(cls, order: Order, world: World, changes: Changes) -> Work:
        """Steps 3 and 7 to 9 of the pipeline, again, with what is true now.

        :raises Refusal: the credential, the organization, the scope or the feature is gone.
        """
        organization = world.organizations.get(order.organization_id)
        actor = _actor_of(order, world)
        if organization is None:
            raise NotFound
        entry = CATALOG[order.row.type]
        require_organization_access(actor, organization, entry.permission_of(order.message), entry.method)
        return cls(order, world, changes, organization, actor)

    def by_tocsin_itself(self) -> Work:
        """The same, done by tocsin: what follows from a value is nobody's act, whoever sent the value."""
        return replace(self, actor=SYSTEM)

    @property
    def at(self) -> datetime:
        """When the command was accepted."""
        return self.order.row.accepted_at

    @property
    def author(self) -> Person:
        """The person who asks.

        :raises Forbidden: nobody's name stands behind the request.
        """
        if self.actor.user_id is None:
            raise Forbidden
        return self.world.people[self.actor.user_id]

    def incident(self, address: str) -> Incident:
        """Steps 10 and 11: the incident of this address, if there is one and the actor reaches it.

        :raises NotFound: there is none.
        :raises Forbidden: the actor reaches none of its projects.
        """
        incident = self.world.incident_at(self.organization.id, address)
        if incident is None:
            raise NotFound
        self.require_access(incident)
        return incident

    def require_access(self, incident: Incident) -> None:
        """Step 11.

        :raises Forbidden: the actor reaches none of the incident's projects.
        """
        require_project_access(
            self.actor, self.organization, [project.facts for project in self.world.projects_of(incident)]
        )

    def rule(self, id_: int) -> AlertRule | None:
        """A live rule of the organization."""
        return self.world.rulebook.rule(self.organization.id, id_)

    def reaches(self, rule: AlertRule) -> bool:
        """Whether the actor reaches one of the rule's projects."""
        projects = (self.world.projects[id_].facts for id_ in rule.projects)
        return self.actor.kind is CallerKind.SYSTEM or may_read(self.actor, self.organization, projects)

    def require_version(self, version: int) -> None:
        """Change only what the caller has read, if they said which version that is (If-Match).

        :raises StaleVersion: it has changed since.
        """
        expected = self.order.row.expected_version
        if expected is not None and expected != version:
            raise StaleVersion

    def record(self, incident: Incident, kind: ActivityType, **facts: Unpack[ActivityFacts]) -> Activity:
        """Something happened on an incident, by this actor."""
        return self.record_at(incident, incident.record_activity(accepted_at=self.at), kind, **facts)

    def record_at(
        self, incident: Incident, at: datetime, kind: ActivityType, **facts: Unpack[ActivityFacts]
    ) -> Activity:
        """The same, at a time of its own that moves no version."""
        activity = Activity(
            id=self.world.activity_ids.pop(),
            incident_id=incident.id,
            user_id=self.actor.user_id,
            type=kind,
            date_added=at,
            **facts,
        )
        self.changes.activities.append((activity, new_id()))
        self.changes.moved[incident.id] = incident
        if kind is ActivityType.COMMENT:
            self.world.comments[activity.id] = activity
        return activity

    def subscribe(self, incident: Incident, people: Iterable[int], reason: SubscriptionReason) -> None:
        """These people hear of the incident from now on; who did already keeps the reason they had."""
        for person in people:
            self.changes.subscribed.setdefault((incident.id, person), (reason, self.at))
            self.world.subscribed.add((incident.id, person))

    def unsubscribe(self, incident: Incident, person: int) -> None:
        """This person hears no more of the incident."""
        pair = (incident.id, person)
        self.changes.subscribed.pop(pair, None)
        self.changes.unsubscribed.add(pair)
        self.world.subscribed.discard(pair)

    def is_subscribed(self, incident: Incident) -> bool:
        """Whether the person who asks hears of the incident."""
        return self.actor.user_id is not None and (incident.id, self.actor.user_id) in self.world.subscribed

    def show(self, incident: Incident) -> JSON:
        """The incident as its own address answers it, for the person who asks."""
        return incident_details_json(
            incident,
            projects=[project.slug for project in self.world.projects_of(incident)],
            seen_by=self.world.seen.get(incident.id, ()),
            viewer=self.actor.user_id,
            is_subscribed=self.is_subscribed(incident),
            alert_rule=self._found_by(incident),
        )

    def show_listed(self, incident: Incident) -> JSON:
        """The incident as a list has it, made once for every state that it is in."""
        found_by = self._found_by(incident)
        by_rule = None if found_by is None else (found_by.snapshot.rule.version, found_by.is_snoozed)
        state = (incident.id, incident.version, by_rule)
        if state not in self.world.listed:
            projects = [project.slug for project in self.world.projects_of(incident)]
            self.world.listed[state] = incident_json(incident, projects=projects, alert_rule=found_by)
        return self.world.listed[state]

    def _found_by(self, incident: Incident) -> IncidentRule | None:
        edition = self.world.rulebook.edition_of(incident)
        if edition is None:
            return None
        is_snoozed = self.world.rulebook.is_snoozed(edition.rule.id, self.actor.user_id, self.at)
        return IncidentRule(edition, self.world.rule_names, is_snoozed)

    def announce(self, incident: Incident, event: Event) -> UUID:
        """This happened: the event is written with the change and goes out in the order of its incident."""
        self.changes.moved[incident.id] = incident
        return self._announce(
            event,
            subject=f"incidents/{incident.identifier}",
            sequence=incident.next_event_sequence(),
            about={"incident": incident_in_event(incident)},
            incident_id=incident.id,
        )

    def announce_of_rule(self, rule: AlertRule, event: Event, *, incident: Incident | None = None) -> None:
        """The same of a rule, in the rule's order."""
        self.changes.rules.moved[rule.id] = rule
        self._announce(
            event,
            subject=f"alert-rules/{rule.id}",
            sequence=rule.next_event_sequence(),
            about={
                "incident": None if incident is None else incident_in_event(incident),
                "alertRule": {"id": str(rule.id), "name": rule.definition.name, "version": rule.version},
            },
            incident_id=None if incident is None else incident.id,
        )

    def follow_up(self, command: Command) -> None:
        """Have tocsin itself do something later that follows from this, in the order of what it concerns."""
        self.changes.follow_ups.append(
            make_follow_up(command, organization_id=self.organization.id, trace=self.order.row.trace)
        )

    def _announce(
        self, event: Event, *, subject: str, sequence: int, about: dict[str, JSON], incident_id: int | None = None
    ) -> UUID:
        id_ = new_id()
        body = cloud_event(
            event,
            id=id_,
            organization=self.organization.slug,
            subject=subject,
            sequence=sequence,
            time=self.at,
            data=about | {"actor": self._actor_in_event(), "command": str(self.order.row.id)},
            traceparent=self.order.row.traceparent,
        )
        self.changes.events.append(
            NewEvent(
                id=id_,
                organization_id=self.organization.id,
                subject=subject,
                sequence=sequence,
                type=event.type,
                incident_id=incident_id,
                activity_id=event.activity_id,
                command_id=self.order.row.id,
                body=orjson.dumps(body).decode(),
                planned_at=None if event.notifies_people else self.at,
                request_id=self.order.row.request_id,
            )
        )
        return id_

    def _actor_in_event(self) -> JSON:
        if self.actor.kind is CallerKind.SYSTEM:
            return {"type": "system", "id": None, "name": "tocsin"}
        if self.actor.user_id is not None:
            person = self.world.people[self.actor.user_id]
            return {"type": "user", "id": str(person.id), "name": person.name}
        token = self.world.tokens[self.order.row.token_id or 0]
        return {"type": "service", "id": None, "name": token.name}


def _actor_of(order: Order, world: World) -> Actor:
    row = order.row
    if row.token_id is None:
        return Actor(kind=SYSTEM.kind, user_id=row.user_id)
    require_valid_credential(_credential(row.token_id, row.user_id, world))
    token = world.tokens[row.token_id]
    member = world.members.get((order.organization_id, row.user_id)) if row.user_id is not None else None
    return Actor(
        kind=token.kind,
        user_id=row.user_id,
        organization_id=token.organization_id,
        scopes=token.scopes,
        role=member.role if member else None,
        teams=member.teams if member else frozenset(),
    )


def _credential(token_id: int, user: int | None, world: World) -> CredentialFacts | None:
    token = world.tokens.get(token_id)
    if token is None:
        return None
    return CredentialFacts(
        kind=token.kind,
        revoked=token.revoked,
        expired=token.expired,
        user_active=user is not None and user in world.people and world.people[user].is_active,
        acts_for_user=user is not None and token.kind is not CallerKind.USER,
        may_act_for_users=token.act_as,
        is_member=(token.organization_id, user) in world.members,
    )
