"""Functions that load a batch's facts with a few set-based queries, however large the batch is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.engine import Connection

from models.alert_rules.alert_rule import AlertRule
from models.base import select_list, statement_text
from models.directory.policy_facts import (
    MEMBERSHIP_COLUMNS,
    ORGANIZATION_COLUMNS,
    PROJECTS,
    TEAMS_EVER,
    TOKEN_COLUMNS,
    NamedProject,
    organization_facts,
    project_from_row,
)
from models.directory.queries import PERSON_COLUMNS, person_from_row
from models.directory.tables import Person
from models.enums import ActivityType, CallerKind, Role
from models.incidents.activity import Activity
from models.incidents.incident import IS_OPEN, Incident
from models.incidents.mentions import MentionedTeam, ids_by_name
from models.incidents.queries import (
    ACTIVITY_COLUMNS,
    INCIDENT_COLUMNS,
    MENTIONED_TEAMS,
    activity_from_row,
    incident_from_row,
    mentioned_team_from_row,
)
from models.policy import OrganizationFacts
from tasks.commands.fields import dedup_reference
from workers.batch.fact_request import FactRequest
from workers.batch.facts import Facts, MemberFacts, TokenFacts
from workers.batch.load_chat import load_chat_facts
from workers.batch.load_inbox import load_unread
from workers.batch.load_preferences import load_preferences
from workers.batch.load_rules import load_rule_facts
from workers.batch.load_webhooks import load_webhook_facts
from workers.batch.numbers import IncidentNumbers
from workers.batch.rule_facts import RuleFacts

_TOKENS: Final = f"""
SELECT t.id, t.user_id, t.organization_id, {TOKEN_COLUMNS}
FROM tokens t WHERE t.id = ANY(%(ids)s::bigint[])
"""  # noqa: S608 - our own columns

_ORGANIZATIONS: Final = f"""
SELECT {ORGANIZATION_COLUMNS} FROM organizations o WHERE o.id = ANY(%(ids)s::bigint[])
"""  # noqa: S608 - our own columns

_INCIDENT_WITH_PROJECTS: Final = f"""
    {select_list(INCIDENT_COLUMNS, "i")},
    ARRAY(SELECT project_id FROM incident_projects WHERE incident_id = i.id) AS projects
"""  # noqa: S608 - our own columns

_INCIDENTS: Final = f"""
SELECT {_INCIDENT_WITH_PROJECTS}
FROM unnest(%(organizations)s::bigint[], %(identifiers)s::bigint[]) AS w(organization_id, identifier)
JOIN incidents i ON i.organization_id = w.organization_id AND i.identifier = w.identifier
"""  # noqa: S608 - our own columns

_INCIDENTS_BY_KEY: Final = f"""
SELECT {_INCIDENT_WITH_PROJECTS}
FROM unnest(%(organizations)s::bigint[], %(keys)s::text[]) AS w(organization_id, key)
JOIN incidents i ON i.organization_id = w.organization_id AND md5(i.dedup_key) = md5(w.key) AND i.dedup_key = w.key
    AND i.{IS_OPEN}
"""  # noqa: S608

_CLOSED_INCIDENTS_BY_KEY: Final = f"""
SELECT {_INCIDENT_WITH_PROJECTS}
FROM unnest(%(organizations)s::bigint[], %(keys)s::text[]) AS w(organization_id, key)
CROSS JOIN LATERAL (
    SELECT * FROM incidents c
    WHERE c.organization_id = w.organization_id AND md5(c.dedup_key) = md5(w.key) AND c.dedup_key = w.key
      AND NOT (c.{IS_OPEN})
    ORDER BY c.date_started DESC, c.id DESC LIMIT 1
) AS i
"""  # noqa: S608

_INCIDENTS_OF_RULES: Final = f"""
SELECT {_INCIDENT_WITH_PROJECTS}
FROM unnest(%(organizations)s::bigint[], %(rules)s::bigint[], %(slugs)s::text[]) AS w(organization_id, rule_id, slug)
JOIN projects p ON p.organization_id = w.organization_id AND p.slug = w.slug
JOIN incidents i ON i.alert_rule_id = w.rule_id AND i.organization_id = w.organization_id AND i.{IS_OPEN}
JOIN incident_projects ip ON ip.incident_id = i.id AND ip.project_id = p.id
"""  # noqa: S608

_COMMENTS: Final = f"""
SELECT {select_list(ACTIVITY_COLUMNS, "a")}
FROM incident_activities a WHERE a.id = ANY(%(ids)s::bigint[]) AND a.type = %(type)s
"""  # noqa: S608

_PROJECTS: Final = f"""
{PROJECTS}
WHERE projects.id = ANY(%(ids)s::bigint[])
   OR (projects.organization_id, projects.slug) IN (
       SELECT * FROM unnest(%(organizations)s::bigint[], %(slugs)s::text[])
   )
"""  # noqa: S608 - our own columns

_PEOPLE: Final = f"""
SELECT {select_list(PERSON_COLUMNS, "u")} FROM users u
WHERE u.id = ANY(%(ids)s::bigint[]) OR lower(u.username) = ANY(%(names)s::text[])
   OR lower(u.email) = ANY(%(names)s::text[])
ORDER BY u.is_active, u.id DESC
"""  # noqa: S608

_MEMBERS: Final = f"""
{statement_text(select(*MEMBERSHIP_COLUMNS, TEAMS_EVER))}
WHERE members.organization_id = ANY(%(organizations)s::bigint[]) AND members.user_id = ANY(%(users)s::bigint[])
"""

_SEEN: Final = f"""
SELECT s.incident_id, s.last_seen, {select_list(PERSON_COLUMNS, "u")}
FROM incident_seen s JOIN users u ON u.id = s.user_id
WHERE s.incident_id = ANY(%(ids)s::bigint[])
ORDER BY s.last_seen DESC, u.id
"""  # noqa: S608

_SUBSCRIBED: Final = """
SELECT incident_id, user_id FROM incident_subscriptions
WHERE incident_id = ANY(%(incidents)s::bigint[]) AND user_id = ANY(%(users)s::bigint[])
"""


def load_facts(connection: Connection, request: FactRequest) -> Facts:
    """Load the facts that a batch requested, and the facts to which those refer, such as a rule's people and teams.

    The ids of the latter are added to the request, so it must not be used again.
    """
    tokens = _load_tokens(connection, request)
    preferences = load_preferences(connection, request)
    incidents = _load_incidents(connection, request)
    comments = _load_comments(connection, request)
    request.user_ids.update(comment.user_id for comment in comments.values() if comment.user_id is not None)
    rules = load_rule_facts(connection, request, incidents)
    rules.new_ids = _draw_ids(connection, "alert_rules", request.new_rule_ids)
    _request_transition_ids(request, rules)
    webhooks = load_webhook_facts(connection, request)
    webhooks.new_ids = _draw_ids(connection, "webhooks", request.new_webhook_ids)
    chat = load_chat_facts(connection, request)
    chat.new_ids = _draw_ids(connection, "chat_destinations", request.new_chat_destination_ids)
    people, user_ids_by_name = _load_people(connection, request)
    detailed = [incident.id for incident in incidents if _is_detailed(incident, request)]
    return Facts(
        tokens=tokens,
        organizations=_load_organizations(connection, request),
        people=people,
        user_ids_by_name=user_ids_by_name,
        members=_load_members(connection, request, people),
        mentioned_teams=_load_mentioned_teams(connection, request),
        projects=_load_projects(connection, request, [*incidents, *rules.by_id.values()]),
        incidents={(incident.organization_id, incident.identifier): incident for incident in incidents},
        subscriptions=_load_subscriptions(connection, detailed, request),
        seen=_load_seen(connection, detailed),
        comments=comments,
        unread=load_unread(connection, request.inboxes, incidents),
        preferences=preferences,
        incident_numbers=IncidentNumbers(connection, request.opening_organization_ids),
        rules=rules,
        webhooks=webhooks,
        chat=chat,
        new_incident_ids=_draw_ids(connection, "incidents", request.new_incident_ids),
        new_activity_ids=_draw_ids(connection, "incident_activities", request.new_activity_ids),
    )


def _load_tokens(connection: Connection, request: FactRequest) -> dict[int, TokenFacts]:
    if not request.token_ids:
        return {}
    return {
        row.id: TokenFacts(
            kind=CallerKind(row.kind),
            user_id=row.user_id,
            organization_id=row.organization_id,
            name=row.name,
            scopes=None if row.scopes is None else frozenset(row.scopes),
            act_as=row.act_as,
            expired=row.expired,
            revoked=row.revoked,
        )
        for row in connection.exec_driver_sql(_TOKENS, {"ids": list(request.token_ids)})
    }


def _load_organizations(connection: Connection, request: FactRequest) -> dict[int, OrganizationFacts]:
    return {
        row.organization_id: organization_facts(row)
        for row in connection.exec_driver_sql(_ORGANIZATIONS, {"ids": list(request.organization_ids)})
    }


def _load_incidents(connection: Connection, request: FactRequest) -> list[Incident]:
    found: dict[int, Incident] = {}
    if request.incidents:
        organizations, identifiers = _columns(request.incidents)
        rows = connection.exec_driver_sql(_INCIDENTS, {"organizations": organizations, "identifiers": identifiers})
        found.update((row.id, incident_from_row(row, projects=row.projects)) for row in rows)
    # Whether an incident may be reopened depends on whether another one has its key by now.
    closed_keys = {
        (each.organization_id, each.dedup_key) for each in found.values() if each.dedup_key and not each.is_open
    }
    if request.dedup_keys or closed_keys:
        organizations, keys = _columns(request.dedup_keys | closed_keys)
        rows = connection.exec_driver_sql(_INCIDENTS_BY_KEY, {"organizations": organizations, "keys": keys})
        found.update((row.id, incident_from_row(row, projects=row.projects)) for row in rows if row.id not in found)
    if request.closed_keys:
        organizations, keys = _columns(request.closed_keys)
        rows = connection.exec_driver_sql(_CLOSED_INCIDENTS_BY_KEY, {"organizations": organizations, "keys": keys})
        found.update((row.id, incident_from_row(row, projects=row.projects)) for row in rows if row.id not in found)
    if request.observed_projects:
        observed = list(set(request.observed_projects))
        rows = connection.exec_driver_sql(
            _INCIDENTS_OF_RULES,
            {
                "organizations": [each.organization_id for each in observed],
                "rules": [each.rule_id for each in observed],
                "slugs": [each.project_slug for each in observed],
            },
        )
        found.update((row.id, incident_from_row(row, projects=row.projects)) for row in rows if row.id not in found)
    return list(found.values())


def _request_transition_ids(request: FactRequest, rules: RuleFacts) -> None:
    # A value can fire or resolve each trigger of its rule, and each transition can change the incident's status.
    for observed in request.observed_projects:
        if (rule := rules.by_id.get(observed.rule_id)) is not None:
            request.new_activity_ids += len(rule.definition.triggers)


def _is_detailed(incident: Incident, request: FactRequest) -> bool:
    references = [str(incident.identifier)]
    if incident.dedup_key is not None:
        references.append(dedup_reference(incident.dedup_key))
    return any((incident.organization_id, reference) in request.detailed_incidents for reference in references)


def _load_comments(connection: Connection, request: FactRequest) -> dict[int, Activity]:
    if not request.comment_ids:
        return {}
    return {
        row.id: activity_from_row(row)
        for row in connection.exec_driver_sql(
            _COMMENTS, {"ids": list(request.comment_ids), "type": ActivityType.COMMENT.value}
        )
    }


def _load_projects(
    connection: Connection, request: FactRequest, on: Iterable[Incident | AlertRule]
) -> dict[int, NamedProject]:
    ids = {project for each in on for project in each.projects}
    if not ids and not request.project_slugs:
        return {}
    organizations, slugs = _columns(request.project_slugs)
    rows = connection.exec_driver_sql(_PROJECTS, {"ids": list(ids), "organizations": organizations, "slugs": slugs})
    return {row.id: project_from_row(row) for row in rows}


def _load_people(connection: Connection, request: FactRequest) -> tuple[dict[int, Person], dict[str, tuple[int, ...]]]:
    people: dict[int, Person] = {}
    rows = connection.exec_driver_sql(_PEOPLE, {"ids": list(request.user_ids), "names": list(request.user_names)})
    everyone = [person_from_row(row) for row in rows]
    for person in everyone:
        people[person.id] = person
    return people, ids_by_name((person.id, person.username, person.email) for person in everyone)


def _load_members(
    connection: Connection, request: FactRequest, people: Iterable[int]
) -> dict[tuple[int, int], MemberFacts]:
    rows = connection.exec_driver_sql(
        _MEMBERS, {"organizations": list(request.organization_ids), "users": list(people)}
    )
    return {
        (row.organization_id, row.user_id): MemberFacts(
            role=Role(row.role), teams=frozenset(row.teams), teams_ever=frozenset(row.teams_ever)
        )
        for row in rows
    }


def _load_mentioned_teams(connection: Connection, request: FactRequest) -> dict[int, MentionedTeam]:
    if not request.team_ids:
        return {}
    rows = connection.exec_driver_sql(MENTIONED_TEAMS, {"ids": list(request.team_ids)})
    return {row.id: mentioned_team_from_row(row) for row in rows}


def _load_subscriptions(connection: Connection, incidents: list[int], request: FactRequest) -> set[tuple[int, int]]:
    if not incidents:
        return set()
    rows = connection.exec_driver_sql(_SUBSCRIBED, {"incidents": incidents, "users": list(request.user_ids)})
    return {(row.incident_id, row.user_id) for row in rows}


def _load_seen(connection: Connection, incidents: list[int]) -> dict[int, list[tuple[Person, datetime]]]:
    seen: dict[int, list[tuple[Person, datetime]]] = defaultdict(list)
    if incidents:
        for row in connection.exec_driver_sql(_SEEN, {"ids": incidents}):
            seen[row.incident_id].append((person_from_row(row), row.last_seen))
    return seen


def _draw_ids(connection: Connection, table: str, count: int) -> list[int]:
    """Reserve new ids from the table's sequence. They are sorted in descending order, so the lowest is popped first."""
    if not count:
        return []
    # One array, so that the sequence is resolved only once: a batch of observations needs thousands of ids.
    drawn: list[int] = connection.exec_driver_sql(
        "SELECT array_agg(nextval((SELECT pg_get_serial_sequence(%(table)s, 'id')::regclass)))"
        " FROM generate_series(1, %(count)s)",
        {"table": table, "count": count},
    ).scalar_one()
    return sorted(drawn, reverse=True)


def _columns(pairs: Iterable[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    listed = list(pairs)
    return [first for first, _ in listed], [second for _, second in listed]
