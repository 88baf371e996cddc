"""Builders that insert rows with realistic defaults directly into the tables.

Every builder takes a connection first and returns the id of the new row. Names that a test does not set are numbered
and therefore unique. Extra keyword arguments are column values.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from sqlalchemy import Table, insert, select, update
from sqlalchemy.engine import Connection

from models.alert_rules.alert_rule import Action, Definition, Trigger, alert_rule_projects, alert_rules
from models.alert_rules.enums import ActionType, QueryType, TargetType, ThresholdType
from models.base import new_id
from models.directory.tables import members, organizations, project_teams, projects, team_members, teams, users
from models.enums import ActivityType, Feature, IncidentStatus, IncidentType, Lane, Role, StatusMethod
from models.incidents.activity import activities
from models.incidents.incident import incident_projects, incidents
from models.incidents.subscription import subscriptions
from models.messaging.command_ledger import NewCommand, accept_commands, commands
from models.messaging.outbox import NewEvent, write_events
from models.notifications.chat_destination import chat_destinations, name_key
from models.notifications.delivery import deliveries, target_key
from models.notifications.webhook import webhooks
from tasks.events import CommentPosted, Event, Mentioned, cloud_event

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)

_numbers = count(1)


def an_organization(connection: Connection, *, open_membership: bool = True, **facts: Any) -> int:
    name = f"org-{next(_numbers)}"
    return _insert(
        connection,
        organizations,
        {"slug": name, "name": name, "features": [Feature.INCIDENTS.value], "open_membership": open_membership} | facts,
    )


def a_user(connection: Connection, **facts: Any) -> int:
    name = f"user-{next(_numbers)}"
    return _insert(connection, users, {"username": name, "name": name, "email": f"{name}@example.org"} | facts)


def a_member(
    connection: Connection,
    organization: int,
    *,
    role: Role = Role.MEMBER,
    teams: Iterable[int] = (),
    inactive_teams: Iterable[int] = (),
    **facts: Any,
) -> int:
    """Insert a user who is a member of the organization; return the user's id.

    Memberships in `inactive_teams` are inactive."""
    user = a_user(connection, **facts)
    add_member(connection, organization, user, role=role, teams=teams, inactive_teams=inactive_teams)
    return user


def add_member(
    connection: Connection,
    organization: int,
    user: int,
    *,
    role: Role = Role.MEMBER,
    teams: Iterable[int] = (),
    inactive_teams: Iterable[int] = (),
) -> int:
    """Make a user a member of the organization; return the member's id."""
    member = _insert(connection, members, {"organization_id": organization, "user_id": user, "role": role.value})
    for members_of, is_active in ((teams, True), (inactive_teams, False)):
        for team in members_of:
            connection.execute(insert(team_members).values(team_id=team, member_id=member, is_active=is_active))
    return member


def a_team(connection: Connection, organization: int, *, projects: Iterable[int] = (), **facts: Any) -> int:
    name = f"team-{next(_numbers)}"
    team = _insert(connection, teams, {"organization_id": organization, "slug": name, "name": name} | facts)
    for project in projects:
        connection.execute(insert(project_teams).values(project_id=project, team_id=team))
    return team


def a_project(connection: Connection, organization: int, **facts: Any) -> int:
    name = f"project-{next(_numbers)}"
    return _insert(connection, projects, {"organization_id": organization, "slug": name, "name": name} | facts)


def an_incident(
    connection: Connection,
    organization: int,
    *,
    projects: Iterable[int] | None = None,
    subscribers: Iterable[int] = (),
    **facts: Any,
) -> int:
    """Insert an open incident, on a new project unless `projects` are given; return its id."""
    number = next(_numbers)
    incident = _insert(
        connection,
        incidents,
        {
            "organization_id": organization,
            "identifier": number,
            "title": f"Incident {number}",
            "status": IncidentStatus.OPEN,
            "status_method": StatusMethod.MANUAL,
            "type": IncidentType.DETECTED,
            "date_started": NOW,
            "date_detected": NOW,
            "date_added": NOW,
            "last_activity_at": NOW,
        }
        | facts,
    )
    for project in [a_project(connection, organization)] if projects is None else projects:
        connection.execute(insert(incident_projects).values(incident_id=incident, project_id=project))
    for user in subscribers:
        a_subscription(connection, incident, user)
    return incident


def a_subscription(connection: Connection, incident: int, user: int, *, reason: str = "subscribed") -> None:
    connection.execute(insert(subscriptions).values(incident_id=incident, user_id=user, reason=reason, date_added=NOW))


def a_comment(
    connection: Connection,
    incident: int,
    *,
    by: int,
    text: str = "Look at this.",
    mentioning: Sequence[int] = (),
    mentioning_teams: Sequence[int] = (),
) -> int:
    """Insert a comment with the events that its handler emits, but subscribe nobody; return the activity's id."""
    activity = _insert(
        connection,
        activities,
        {
            "incident_id": incident,
            "user_id": by,
            "type": ActivityType.COMMENT,
            "comment": text,
            "date_added": NOW,
            "notification_uuid": new_id(),
        },
    )
    an_event(connection, incident, CommentPosted(activity, text), by=by)
    if mentioning or mentioning_teams:
        mentions = Mentioned(activity, text, users=tuple(mentioning), teams=tuple(mentioning_teams))
        an_event(connection, incident, mentions, by=by)
    return activity


def an_event(
    connection: Connection, incident: int, event: Event, *, by: int | None = None, sequence: int | None = None
) -> UUID:
    """Insert an event about an incident, by default with the incident's next sequence number."""
    row = connection.execute(
        select(incidents.c.identifier, incidents.c.organization_id, incidents.c.event_sequence, organizations.c.slug)
        .join(organizations, organizations.c.id == incidents.c.organization_id)
        .where(incidents.c.id == incident)
    ).one()
    if sequence is None:
        sequence = row.event_sequence + 1
        connection.execute(update(incidents).where(incidents.c.id == incident).values(event_sequence=sequence))
    subject = f"incidents/{row.identifier}"
    id_ = new_id()
    body = cloud_event(
        event,
        id=id_,
        organization=row.slug,
        subject=subject,
        sequence=sequence,
        time=NOW,
        data={"actor": None if by is None else {"type": "user", "id": str(by), "name": "Somebody"}, "command": None},
    )
    write_events(
        connection,
        [
            NewEvent(
                id=id_,
                organization_id=row.organization_id,
                subject=subject,
                sequence=sequence,
                type=event.type,
                incident_id=incident,
                activity_id=event.activity_id,
                command_id=None,
                body=json.dumps(body),
                planned_at=None if event.notifies_people else NOW,
            )
        ],
    )
    return id_


def an_alert_rule(
    connection: Connection,
    organization: int,
    *,
    projects: Iterable[int] | None = None,
    triggers: Iterable[Trigger] | None = None,
    **facts: Any,
) -> int:
    """Insert an alert rule, on a new project unless `projects` are given; return its id.

    `facts` are columns of the table or, failing that, fields of the definition.
    """
    columns = {name: facts.pop(name) for name in list(facts) if name in alert_rules.c}
    rule = _insert(
        connection,
        alert_rules,
        {
            "organization_id": organization,
            "definition": a_definition(triggers=triggers, **facts).model_dump(mode="json"),
            "date_added": NOW,
            "date_modified": NOW,
        }
        | columns,
    )
    for project in [a_project(connection, organization)] if projects is None else projects:
        connection.execute(insert(alert_rule_projects).values(rule_id=rule, project_id=project))
    return rule


def a_definition(*own: Trigger, triggers: Iterable[Trigger] | None = None, **fields: Any) -> Definition:
    """Return a rule's definition; by default, more than 100 errors are critical and there are no actions."""
    defaults: dict[str, Any] = {
        "name": "Errors", "query_type": QueryType.ERROR, "dataset": "events", "query": "level:error",
        "aggregate": "count()", "event_types": ("error",), "time_window": 10, "environment": None,
        "threshold_type": ThresholdType.ABOVE, "resolve_threshold": None, "threshold_period": 1,
        "comparison_delta": None,
    }  # fmt: skip
    own_triggers = (own or (a_trigger(),)) if triggers is None else triggers
    return Definition(**defaults | fields).with_triggers(own_triggers)


FIRST_BUILT_ID = 1_000_000
"""The lowest id for the triggers and actions built here, above every id that the product assigns in a test."""


def a_trigger(label: str = "critical", threshold: float = 100.0, *actions: Action, **facts: Any) -> Trigger:
    """Return a trigger for a rule's definition."""
    id_ = next(_numbers) + FIRST_BUILT_ID
    return Trigger(id=id_, label=label, threshold=threshold, date_added=NOW, actions=actions, **facts)


def an_action(
    target: object, *, target_type: TargetType = TargetType.USER, action_type: ActionType = ActionType.EMAIL
) -> Action:
    """Return an action for a trigger, by default an e-mail to a person."""
    id_ = next(_numbers) + FIRST_BUILT_ID
    return Action(id=id_, type=action_type, target_type=target_type, target=str(target), date_added=NOW)


def a_webhook(connection: Connection, organization: int, *events: str, **facts: Any) -> int:
    """Insert a webhook for these event types, by default for all; return its id. Its secret cannot be decrypted."""
    return _insert(
        connection,
        webhooks,
        {
            "organization_id": organization,
            "url": "https://hooks.example.com/tocsin",
            "events": list(events) or ["*"],
            "secret": b"unreadable",
        }
        | facts,
    )


def a_chat_destination(connection: Connection, organization: int, *events: str, **facts: Any) -> int:
    """Insert a chat destination for these event types, by default for none; return its id.

    Its URL cannot be decrypted.
    """
    name = facts.get("name", f"chat {next(_numbers)}")
    return _insert(
        connection,
        chat_destinations,
        {
            "organization_id": organization,
            "name": name,
            "name_key": name_key(name),
            "url": b"unreadable",
            "shown": "slack://slack.com",
            "events": list(events),
        }
        | facts,
    )


def a_webhook_delivery(connection: Connection, webhook: int, **facts: Any) -> UUID:
    """Insert a pending delivery to a webhook; return its id."""
    organization = connection.execute(select(webhooks.c.organization_id).where(webhooks.c.id == webhook)).scalar_one()
    values: dict[str, Any] = {
        "id": new_id(),
        "organization_id": organization,
        "channel": "webhook",
        "destination_id": webhook,
        "target_key": target_key("webhook", organization, webhook),
        "event_id": new_id(),
        "event_type": "incident.comment_posted",
        "body": b'{"type": "incident.comment_posted"}',
    }
    connection.execute(insert(deliveries).values(values | facts))
    id_: UUID = (values | facts)["id"]
    return id_


def an_accepted_command(
    connection: Connection,
    *,
    subject: str = "org:1",
    lane: Lane = Lane.COMMANDS,
    retry_in: timedelta | None = None,
    **facts: Any,
) -> UUID:
    """Insert an accepted command; with `retry_in`, its next attempt is due only after that time."""
    id_ = new_id()
    row = NewCommand(
        id=id_,
        type="incident.open",
        subject=subject,
        lane=lane,
        organization_id=1,
        token_id=None,
        user_id=None,
        caller="user:1",
        payload="{}",
    )
    accept_commands(connection, [row._replace(**facts)])
    if retry_in is not None:
        due = datetime.now(UTC) + retry_in
        connection.execute(update(commands).where(commands.c.id == id_).values(next_attempt_at=due))
    return id_


def _insert(connection: Connection, table: Table, values: dict[str, Any]) -> int:
    return int(connection.execute(insert(table).values(values).returning(table.c.id)).scalar_one())
