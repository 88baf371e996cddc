"""Loading a world: a handful of set-based queries for the whole batch, whatever its size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy.engine import Connection

from models.alert_rules.alert_rule import AlertRule
from models.base import select_list
from models.directory.policy_facts import ORGANIZATION_COLUMNS, PROJECT_COLUMNS, organization_facts, project_facts
from models.directory.queries import PERSON_COLUMNS, person_from_row
from models.directory.tables import Person
from models.enums import ActivityType, CallerKind, Role
from models.incidents.activity import Activity
from models.incidents.incident import IS_OPEN, Incident
from models.incidents.mentions import MentionedTeam
from models.incidents.queries import (
    ACTIVITY_COLUMNS,
    INCIDENT_COLUMNS,
    MENTIONED_TEAMS,
    activity_from_row,
    incident_from_row,
    mentioned_team_from_row,
)
from models.policy import OrganizationFacts
from workers.batch.facts import Member, Order, Project, Token, Wants, World
from workers.batch.load_rules import load_rulebook
from workers.batch.rule_facts import Rulebook

_TOKENS: Final = """
SELECT id, kind, user_id, organization_id, name, scopes, act_as,
       coalesce(expires_at <= clock_timestamp(), false) AS expired, revoked_at IS NOT NULL AS revoked
FROM tokens WHERE id = ANY(%(ids)s::bigint[])
"""

_ORGANIZATIONS: Final = f"""
SELECT {ORGANIZATION_COLUMNS} FROM organizations o WHERE o.id = ANY(%(ids)s::bigint[])
"""  # noqa: S608 - our own columns

_INCIDENT_COLUMNS: Final = f"""
    {select_list(INCIDENT_COLUMNS, "i")},
    ARRAY(SELECT project_id FROM incident_projects WHERE incident_id = i.id) AS projects
"""  # noqa: S608 - our own columns

_INCIDENTS: Final = f"""
SELECT {_INCIDENT_COLUMNS}
FROM unnest(%(organizations)s::bigint[], %(identifiers)s::bigint[]) AS w(organization_id, identifier)
JOIN incidents i ON i.organization_id = w.organization_id AND i.identifier = w.identifier
"""  # noqa: S608 - our own columns

_INCIDENTS_BY_KEY: Final = f"""
SELECT {_INCIDENT_COLUMNS}
FROM unnest(%(organizations)s::bigint[], %(keys)s::text[]) AS w(organization_id, key)
JOIN incidents i ON i.organization_id = w.organization_id AND md5(i.dedup_key) = md5(w.key) AND i.dedup_key = w.key
    AND i.{IS_OPEN}
"""  # noqa: S608

_INCIDENTS_OF_RULES: Final = f"""
SELECT {_INCIDENT_COLUMNS}
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
SELECT {PROJECT_COLUMNS}, p.organization_id FROM projects p
WHERE p.id = ANY(%(ids)s::bigint[])
   OR (p.organization_id, p.slug) IN (SELECT * FROM unnest(%(organizations)s::bigint[], %(slugs)s::text[]))
"""  # noqa: S608 - our own columns

_PEOPLE: Final = f"""
SELECT {select_list(PERSON_COLUMNS, "u")} FROM users u
WHERE u.id = ANY(%(ids)s::bigint[]) OR lower(u.username) = ANY(%(names)s::text[])
   OR lower(u.email) = ANY(%(names)s::text[])
ORDER BY u.is_active, u.id DESC
"""  # noqa: S608

_MEMBERS: Final = """
SELECT m.organization_id, m.user_id, m.role,
       coalesce(array_agg(t.id) FILTER (WHERE tm.is_active AND t.status = 'active'), '{}') AS teams,
       coalesce(array_agg(t.id) FILTER (WHERE t.id IS NOT NULL), '{}') AS teams_ever
FROM members m
LEFT JOIN team_members tm ON tm.member_id = m.id
LEFT JOIN teams t ON t.id = tm.team_id
WHERE m.organization_id = ANY(%(organizations)s::bigint[]) AND m.user_id = ANY(%(users)s::bigint[])
GROUP BY m.id
"""

_UNREAD: Final = """
SELECT n.user_id, n.organization_id, n.id
FROM unnest(%(users)s::bigint[], %(organizations)s::bigint[]) AS w(user_id, organization_id)
JOIN notifications n ON n.user_id = w.user_id AND n.organization_id = w.organization_id AND n.date_read IS NULL
WHERE n.id = ANY(%(ids)s::bigint[]) OR n.id <= %(up_to)s
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

_BIGGEST = 2**63 - 1


def load(connection: Connection, orders: Sequence[Order]) -> World:
    """Everything that these commands' handlers may ask."""
    wants = Wants.of(orders)
    tokens = _load_tokens(connection, wants)
    incidents = _load_incidents(connection, wants)
    comments = _load_comments(connection, wants)
    wants.users.update(comment.user_id for comment in comments.values() if comment.user_id is not None)
    rulebook = load_rulebook(connection, wants, incidents)
    rulebook.new_ids = _draw_ids(connection, "alert_rules", wants.rule_ids)
    _count_steps(wants, rulebook)
    people, names = _load_people(connection, wants)
    shown = [incident.id for incident in incidents if _is_shown(incident, wants)]
    return World(
        tokens=tokens,
        organizations=_load_organizations(connection, wants),
        people=people,
        names=names,
        members=_load_members(connection, wants, people),
        teams=_load_teams(connection, wants),
        projects=_load_projects(connection, wants, [*incidents, *rulebook.rules.values()]),
        incidents={(incident.organization_id, incident.identifier): incident for incident in incidents},
        subscribed=_load_subscribed(connection, shown, wants),
        seen=_load_seen(connection, shown),
        comments=comments,
        unread=_load_unread(connection, wants),
        last_identifiers=_load_last_identifiers(connection, wants),
        rulebook=rulebook,
        incident_ids=_draw_ids(connection, "incidents", wants.incident_ids),
        activity_ids=_draw_ids(connection, "incident_activities", wants.activity_ids),
    )


def _load_tokens(connection: Connection, wants: Wants) -> dict[int, Token]:
    if not wants.tokens:
        return {}
    return {
        row.id: Token(
            kind=CallerKind(row.kind),
            user_id=row.user_id,
            organization_id=row.organization_id,
            name=row.name,
            scopes=None if row.scopes is None else frozenset(row.scopes),
            act_as=row.act_as,
            expired=row.expired,
            revoked=row.revoked,
        )
        for row in connection.exec_driver_sql(_TOKENS, {"ids": list(wants.tokens)})
    }


def _load_organizations(connection: Connection, wants: Wants) -> dict[int, OrganizationFacts]:
    return {
        row.organization_id: organization_facts(row)
        for row in connection.exec_driver_sql(_ORGANIZATIONS, {"ids": list(wants.organizations)})
    }


def _load_incidents(connection: Connection, wants: Wants) -> list[Incident]:
    found: dict[int, Incident] = {}
    if wants.incidents:
        organizations, identifiers = _columns(wants.incidents)
        rows = connection.exec_driver_sql(_INCIDENTS, {"organizations": organizations, "identifiers": identifiers})
        found.update((row.id, incident_from_row(row, projects=row.projects)) for row in rows)
    # Whoever reopens an incident must know who has its key by now.
    held = {(each.organization_id, each.dedup_key) for each in found.values() if each.dedup_key and not each.is_open}
    if wants.keys or held:
        organizations, keys = _columns(wants.keys | held)
        rows = connection.exec_driver_sql(_INCIDENTS_BY_KEY, {"organizations": organizations, "keys": keys})
        found.update((row.id, incident_from_row(row, projects=row.projects)) for row in rows if row.id not in found)
    if wants.observed:
        organizations, rules, slugs = (list(column) for column in zip(*set(wants.observed), strict=True))
        rows = connection.exec_driver_sql(
            _INCIDENTS_OF_RULES, {"organizations": organizations, "rules": rules, "slugs": slugs}
        )
        found.update((row.id, incident_from_row(row, projects=row.projects)) for row in rows if row.id not in found)
    return list(found.values())


def _count_steps(wants: Wants, rulebook: Rulebook) -> None:
    # A value can move each trigger of its rule, and each move can be an activity.
    for _, rule, _ in wants.observed:
        if (known := rulebook.rules.get(rule)) is not None:
            wants.activity_ids += len(known.definition.triggers)


def _is_shown(incident: Incident, wants: Wants) -> bool:
    addresses = (str(incident.identifier), f"dedup:{incident.dedup_key}")
    return any((incident.organization_id, address) in wants.shown for address in addresses)


def _load_comments(connection: Connection, wants: Wants) -> dict[int, Activity]:
    if not wants.comments:
        return {}
    return {
        row.id: activity_from_row(row)
        for row in connection.exec_driver_sql(
            _COMMENTS, {"ids": list(wants.comments), "type": ActivityType.COMMENT.value}
        )
    }


def _load_projects(connection: Connection, wants: Wants, on: Iterable[Incident | AlertRule]) -> dict[int, Project]:
    ids = {project for each in on for project in each.projects}
    if not ids and not wants.projects:
        return {}
    organizations, slugs = _columns(wants.projects)
    rows = connection.exec_driver_sql(_PROJECTS, {"ids": list(ids), "organizations": organizations, "slugs": slugs})
    return {
        row.id: Project(facts=project_facts(row), organization_id=row.organization_id, slug=row.slug) for row in rows
    }


def _load_people(connection: Connection, wants: Wants) -> tuple[dict[int, Person], dict[str, int]]:
    people: dict[int, Person] = {}
    names: dict[str, int] = {}
    rows = connection.exec_driver_sql(_PEOPLE, {"ids": list(wants.users), "names": list(wants.names)})
    everyone = [person_from_row(row) for row in rows]
    # The last to come wins: active accounts after inactive ones, older after younger, usernames after addresses.
    for person in everyone:
        people[person.id] = person
        names[person.email.lower()] = person.id
    names.update((person.username.lower(), person.id) for person in everyone)
    return people, names


def _load_members(connection: Connection, wants: Wants, people: Iterable[int]) -> dict[tuple[int, int], Member]:
    rows = connection.exec_driver_sql(_MEMBERS, {"organizations": list(wants.organizations), "users": list(people)})
    return {
        (row.organization_id, row.user_id): Member(
            role=Role(row.role), teams=frozenset(row.teams), teams_ever=frozenset(row.teams_ever)
        )
        for row in rows
    }


def _load_teams(connection: Connection, wants: Wants) -> dict[int, MentionedTeam]:
    if not wants.teams:
        return {}
    rows = connection.exec_driver_sql(MENTIONED_TEAMS, {"ids": list(wants.teams)})
    return {row.id: mentioned_team_from_row(row) for row in rows}


def _load_subscribed(connection: Connection, incidents: list[int], wants: Wants) -> set[tuple[int, int]]:
    if not incidents:
        return set()
    rows = connection.exec_driver_sql(_SUBSCRIBED, {"incidents": incidents, "users": list(wants.users)})
    return {(row.incident_id, row.user_id) for row in rows}


def _load_seen(connection: Connection, incidents: list[int]) -> dict[int, list[tuple[Person, datetime]]]:
    seen: dict[int, list[tuple[Person, datetime]]] = defaultdict(list)
    if incidents:
        for row in connection.exec_driver_sql(_SEEN, {"ids": incidents}):
            seen[row.incident_id].append((person_from_row(row), row.last_seen))
    return seen


def _load_unread(connection: Connection, wants: Wants) -> dict[tuple[int, int], set[int]]:
    unread: dict[tuple[int, int], set[int]] = defaultdict(set)
    if wants.inboxes:
        inboxes = {(user, organization) for user, organization, _, _ in wants.inboxes}
        users, organizations = _columns(inboxes)
        parameters = {
            "users": users,
            "organizations": organizations,
            "ids": [id_ for *_, ids, _ in wants.inboxes for id_ in ids if 0 < id_ <= _BIGGEST],
            "up_to": min(max(up_to for *_, up_to in wants.inboxes), _BIGGEST),
        }
        for row in connection.exec_driver_sql(_UNREAD, parameters):
            unread[row.user_id, row.organization_id].add(row.id)
    return unread


def _load_last_identifiers(connection: Connection, wants: Wants) -> dict[int, int]:
    if not wants.opening:
        return {}
    rows = connection.exec_driver_sql(
        "SELECT o.id, coalesce((SELECT max(identifier) FROM incidents WHERE organization_id = o.id), 0) AS last"
        " FROM unnest(%(ids)s::bigint[]) AS o(id)",
        {"ids": list(wants.opening)},
    )
    return {row.id: row.last for row in rows}


def _draw_ids(connection: Connection, table: str, count: int) -> list[int]:
    """New ids, lowest last, so that they can be popped in order."""
    if not count:
        return []
    # As one value, and the sequence looked up once: a batch of values draws thousands.
    drawn: list[int] = connection.exec_driver_sql(
        "SELECT array_agg(nextval((SELECT pg_get_serial_sequence(%(table)s, 'id')::regclass)))"
        " FROM generate_series(1, %(count)s)",
        {"table": table, "count": count},
    ).scalar_one()
    return sorted(drawn, reverse=True)


def _columns(pairs: Iterable[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    listed = list(pairs)
    return [first for first, _ in listed], [second for _, second in listed]
