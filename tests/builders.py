"""What a test starts from, written straight into the tables with honest defaults.

Every builder takes a connection first and returns the id of what it made. Names that a test does not care about are
numbered, so that nothing collides.
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

from models.alert_rules.alert_rule import (
    Action,
    ActionType,
    Definition,
    QueryType,
    TargetType,
    ThresholdType,
    Trigger,
    alert_rule_projects,
    alert_rules,
)
from models.base import new_id
from models.directory.tables import members, organizations, project_teams, projects, team_members, teams, users
from models.enums import ActivityType, Feature, IncidentStatus, IncidentType, Lane, Role, StatusMethod
from models.incidents.activity import activities
from models.incidents.incident import incident_projects, incidents
from models.incidents.subscription import subscriptions
from models.messaging.command_ledger import NewCommand, accept_commands, commands
from models.messaging.outbox import NewEvent, write_events
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
    """A new person in the organization; the id is the user's. ``on_teams_no_more`` are places switched off."""
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
    """Make a user a member; the id is the member's."""
    member = _insert(connection, members, {"organization_id": organization, "user_id": user, "role": role.value})
    for places, is_active in ((teams, True), (inactive_teams, False)):
        for team in places:
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
    """An open incident, on a project of its own if none is named."""
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
    """A comment with its events, as its handler leaves them; subscribes nobody. The id is the activity's."""
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
    """An event about an incident, the next in its order unless ``sequence`` says otherwise."""
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
    """A live rule, on a project of its own if none is named. ``facts`` are what it says, or its columns."""
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


def a_definition(*own: Trigger, triggers: Iterable[Trigger] | None = None, **says: Any) -> Definition:
    """What a rule says: that a count of errors is critical above 100, telling nobody, unless it says otherwise."""
    known = {
        "name": "Errors", "query_type": QueryType.ERROR, "dataset": "events", "query": "level:error",
        "aggregate": "count()", "event_types": ("error",), "time_window": 10, "environment": None,
        "threshold_type": ThresholdType.ABOVE, "resolve_threshold": None, "threshold_period": 1,
        "comparison_delta": None,
    }  # fmt: skip
    said = (own or (a_trigger(),)) if triggers is None else triggers
    return Definition(**known | says).with_triggers(said)


FIRST_BUILT_ID = 1_000_000
"""Ids of triggers and actions that are built: beyond what rules get."""


def a_trigger(label: str = "critical", threshold: float = 100.0, *actions: Action, **facts: Any) -> Trigger:
    """A trigger as a rule's definition holds it."""
    id_ = next(_numbers) + FIRST_BUILT_ID
    return Trigger(id=id_, label=label, threshold=threshold, date_added=NOW, actions=actions, **facts)


def an_action(
    target: object, *, target_type: TargetType = TargetType.USER, action_type: ActionType = ActionType.EMAIL
) -> Action:
    """An action of a trigger: an e-mail to a person unless it says otherwise."""
    id_ = next(_numbers) + FIRST_BUILT_ID
    return Action(id=id_, type=action_type, target_type=target_type, target=str(target), date_added=NOW)


def an_accepted_command(
    connection: Connection,
    *,
    subject: str = "org:1",
    lane: Lane = Lane.COMMANDS,
    retry_in: timedelta | None = None,
    **facts: Any,
) -> UUID:
    """A command that waits in the ledger, ``next_in`` for the end of its back-off."""
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
