"""A million incidents in one organization, written to the tables with set-based SQL.

The incidents span two years and are distributed unevenly over projects: the busiest project has half of them, one
project has only old incidents, one has a hundred, and one has none. Most incidents were closed within hours. Some
recent incidents and a few old ones are still open. Most title words are common, some are rare, and one occurs only in
the oldest incidents. Six of seven incidents were opened by one of 300 alert rules, likewise unevenly distributed. Some
rules have changed since.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine

from models.alert_rules.alert_rule import Definition, Trigger
from models.alert_rules.enums import Dataset, QueryType, ThresholdType
from models.directory.importer import import_directory
from models.enums import Feature

ORGANIZATION: Final = "acme"
TOKEN: Final = "bench-owner"
MEMBER_TOKEN: Final = "bench-member"

PROJECTS: Final = {
    "busy": 500,
    "second": 250,
    "third": 120,
    "fourth": 60,
    "fifth": 30,
    "sixth": 20,
    "silent": 19,
    "retired": 1,
}
"""Incidents per thousand, by project slug. ``silent`` has only old incidents. ``retired`` is inactive."""

BATCH_SIZE: Final = 50_000

RULE_COUNT: Final = 300
TEAM_COUNT: Final = 20
OLDEST_RULE: Final = 290
"""The number of a rule that has its own environment. All incidents that it opened are among the oldest 4 %."""
CHANGED_RULE: Final = 2
"""The number of a rule with three generations, each of which opened a third of the rule's incidents."""
SILENT_RULE: Final = 3
"""The number of a rule whose current generation has opened no incidents."""
RARE_RULE: Final = 299
"""The number of a rule that opened about a dozen incidents."""


def directory(people: int = 50) -> dict[str, Any]:
    """Return the directory document: the organization, projects, teams, an owner, a member, and more people."""
    slugs = [*PROJECTS, "tiny", "empty", *(f"small-{number}" for number in range(40))]
    return {
        "organizations": [{"slug": ORGANIZATION, "features": [feature.value for feature in Feature]}],
        "users": [
            {"id": i, "username": f"u{i}", "name": f"User {i}", "email": f"u{i}@x.test"} for i in range(1, people)
        ],
        "projects": [
            {"organization": ORGANIZATION, "slug": slug, "status": "inactive" if slug == "retired" else "active"}
            for slug in slugs
        ],
        "teams": [
            {"organization": ORGANIZATION, "slug": "t1", "projects": ["third", "fourth", "silent"]},
            {"organization": ORGANIZATION, "slug": "t2", "projects": ["busy"]},
            *({"organization": ORGANIZATION, "slug": f"t{number}"} for number in range(3, TEAM_COUNT + 1)),
        ],
        "members": [
            {
                "organization": ORGANIZATION,
                "user": f"u{i}",
                "role": "owner" if i == 1 else "member",
                "teams": ["t1"] if i == 2 else [],
            }
            for i in range(1, people)
        ],
        "tokens": [{"token": TOKEN, "user": "u1"}, {"token": MEMBER_TOKEN, "user": "u2"}],
    }


def rule(number: int, generation: int, teams: list[int]) -> Definition:
    """Return a rule's definition in a generation. Four in five rules have a team, and one in five uses transactions."""
    is_oldest = number == OLDEST_RULE
    environment = "legacy" if is_oldest else (None, "production", "production", "staging")[number % 4]
    other_team = teams[number // 5 % (TEAM_COUNT - 1)] if number % 5 else None
    return Definition(
        name=f"Rule {number}, {generation}",
        query_type=QueryType.ERROR,
        dataset=(Dataset.TRANSACTIONS if number % 5 == 4 else Dataset.EVENTS).value,
        query="level:error",
        aggregate="count()",
        event_types=("error",),
        time_window=10,
        environment=environment,
        threshold_type=ThresholdType.ABOVE,
        resolve_threshold=None,
        threshold_period=1,
        comparison_delta=None,
        owner_team=teams[-1] if is_oldest else other_team,
        triggers=(Trigger(id=10_000 + number, label="critical", threshold=100.0, date_added=_LONG_AGO),),
    )


_LONG_AGO: Final = datetime(2024, 1, 1, tzinfo=UTC)


def generations(number: int) -> int:
    """Return how many generations the rule with this number has."""
    return 3 if number in (CHANGED_RULE, SILENT_RULE) or number % 7 == 1 else 1


def _write_rules(connection: Connection, organization: int) -> int:
    """Insert the rules and return the first rule's id. The ids are consecutive."""
    teams = list(connection.exec_driver_sql("SELECT id FROM teams ORDER BY id").scalars())
    insert = (
        "INSERT INTO alert_rules (organization_id, generation, definition, date_added, date_modified)"
        " VALUES (%s, %s, %s, now(), now()) RETURNING id"
    )
    ids = [
        connection.exec_driver_sql(
            insert, (organization, last, rule(number, last, teams).model_dump_json())
        ).scalar_one()
        for number in range(RULE_COUNT)
        for last in [generations(number)]
    ]
    earlier: Iterator[tuple[Any, ...]] = (
        (id_, generation, rule(number, generation, teams).model_dump_json())
        for number, id_ in enumerate(ids)
        for generation in range(1, generations(number))
    )
    connection.exec_driver_sql(
        "INSERT INTO alert_rule_generations (rule_id, generation, definition, date_modified)"
        " VALUES (%s, %s, %s, now())",
        list(earlier),
    )
    connection.exec_driver_sql(
        "INSERT INTO environments SELECT DISTINCT organization_id, definition->>'environment' FROM alert_rules"
        " WHERE definition->>'environment' IS NOT NULL"
    )
    return int(ids[0])


# Hashing makes an incident's values reproducible, whatever the batch size.
_PSEUDO_RANDOM: Final = """
CREATE OR REPLACE FUNCTION pg_temp.random(number int, seed int, bound int) RETURNS int LANGUAGE sql IMMUTABLE AS
$$ SELECT (abs(hashint4extended(number, seed)) %% bound)::int $$
"""

_INCIDENTS: Final = """
WITH facts AS (
    SELECT n, now() - interval '730 days' * (%(total)s - n) / %(total)s
              - interval '1 second' * pg_temp.random(n, 1, 5400) AS started,
           interval '1 second' * (60 * exp(pg_temp.random(n, 2, 1000) / 1000.0 * 7))::int AS lasted,
           CASE WHEN n > %(total)s * 0.97 AND pg_temp.random(n, 3, 100) < 40 THEN pg_temp.random(n, 4, 100)
                WHEN pg_temp.random(n, 3, 100) < 1 THEN pg_temp.random(n, 4, 100) ELSE -1 END AS unfinished,
           (ARRAY['Checkout', 'Search', 'Login', 'Payments', 'Inventory', 'Mail', 'Reports', 'Gateway', 'Billing',
                  'Catalog'])[1 + pg_temp.random(n, 5, 10)] || ' '
           || (ARRAY['latency is high', 'error rate above 5%%', 'answers slowly', 'is unreachable',
                     'queue keeps growing'])[1 + pg_temp.random(n, 6, 5)]
           || ' in ' || (ARRAY['eu-west', 'us-east', 'ap-south'])[1 + pg_temp.random(n, 7, 3)] || '-' || n %% 97
           || CASE WHEN pg_temp.random(n, 8, 300) = 0 THEN ', quota' WHEN pg_temp.random(n, 8, 80000) = 1 THEN ', zebra'
                   WHEN n < %(total)s * 0.04 THEN ', cutover' ELSE '' END AS title
    FROM generate_series(%(first)s::int, %(last)s::int) AS n
), with_drawn_rule AS (
    -- Cubing favours the first rules.
    SELECT *, floor(%(rules)s * power(pg_temp.random(n, 14, 10000) / 10000.0, 3))::int AS drawn FROM facts
), with_rule AS (
    -- Rules on transactions opened most incidents of the sixth project.
    SELECT *, CASE WHEN n < %(total)s * 0.04 AND pg_temp.random(n, 13, 10) = 0 THEN %(oldest_rule)s
                   WHEN pg_temp.random(n, 9, 1000) BETWEEN 960 AND 979 THEN least(drawn / 5 * 5 + 4, 294)
                   WHEN pg_temp.random(n, 13, 7) = 0 OR drawn = %(oldest_rule)s THEN NULL
                   WHEN drawn = %(rare_rule)s AND n %% 100 > 0 THEN NULL
                   ELSE drawn END AS rule
    FROM with_drawn_rule
)
INSERT INTO incidents (organization_id, identifier, title, status, status_method, type, dedup_key, version,
                       event_sequence, date_started, date_detected, date_added, date_closed, last_activity_at,
                       alert_rule_id, alert_rule_generation)
SELECT %(organization)s, n, title,
       CASE WHEN unfinished < 0 THEN 2 WHEN unfinished < 10 THEN 20 WHEN unfinished < 30 THEN 10 ELSE 1 END,
       CASE WHEN unfinished < 0 THEN 1 ELSE 3 END, 0, 'key-' || n, 2, 1, started, started, started,
       CASE WHEN unfinished < 0 THEN least(started + lasted, now()) END, least(started + lasted, now()),
       %(first_rule)s + rule,
       CASE WHEN rule = %(silent_rule)s THEN 1 + n * 2 / (%(total)s + 1)
            WHEN rule = %(changed_rule)s OR rule %% 7 = 1 THEN 1 + n * 3 / (%(total)s + 1)
            WHEN rule IS NOT NULL THEN 1 END
FROM with_rule
"""

_INCIDENT_PROJECTS: Final = """
WITH shares AS (
    SELECT p.id, s.slug, sum(s.share) OVER w AS upper, sum(s.share) OVER w - s.share AS lower
    FROM unnest(%(slugs)s::text[], %(shares)s::int[]) WITH ORDINALITY AS s(slug, share, position)
    JOIN projects p ON p.slug = s.slug AND p.organization_id = %(organization)s
    WINDOW w AS (ORDER BY s.position)
), drawn AS (
    SELECT i.id, i.identifier::int AS n, pg_temp.random(i.identifier::int, 9, 1000) AS draw
    FROM incidents i
    WHERE i.organization_id = %(organization)s AND i.identifier BETWEEN %(first)s AND %(last)s
), assigned AS (
    -- The silent project keeps only the old incidents of its share.
    SELECT r.id, r.n, CASE WHEN s.slug = 'silent' AND r.n > %(total)s * 0.3 THEN %(busiest)s ELSE s.id END AS project
    FROM drawn r JOIN shares s ON r.draw >= s.lower AND r.draw < s.upper
)
INSERT INTO incident_projects (incident_id, project_id)
SELECT id, project FROM assigned
UNION SELECT id, %(second)s FROM assigned WHERE pg_temp.random(n, 10, 10) = 0
UNION SELECT id, %(tiny)s FROM assigned WHERE n %% (%(total)s / 100) = 7
UNION SELECT id, (SELECT min(p.id) FROM projects p WHERE p.slug LIKE 'small-%%') + pg_temp.random(n, 11, 40)
      FROM assigned WHERE pg_temp.random(n, 12, 50) = 0
"""

_ACTIVITIES: Final = """
INSERT INTO incident_activities (incident_id, user_id, type, value, previous_value, comment, date_added,
                                 notification_uuid)
SELECT i.id, a.author, a.type, a.value, a.previous, a.comment, a.at, gen_random_uuid()
FROM incidents i CROSS JOIN LATERAL (
    SELECT NULL::bigint AS author, 4 AS type, NULL AS value, NULL AS previous, NULL AS comment, i.date_started AS at
    UNION ALL SELECT NULL, 1, NULL, NULL, NULL, i.date_added
    UNION ALL SELECT 3, 2, '2', '1', NULL, i.date_closed WHERE i.status = 2 AND i.identifier %% 4 = 0
    UNION ALL SELECT 4, 3, NULL, NULL, 'Looking into it.', i.date_started WHERE i.identifier %% 8 = 0
) AS a
WHERE i.organization_id = %(organization)s AND i.identifier BETWEEN %(first)s AND %(last)s
"""

_SEEN: Final = """
INSERT INTO incident_seen (incident_id, user_id, last_seen)
SELECT i.id, 3 + (i.identifier + s) %% 40, i.date_started + interval '1 minute' * s
FROM incidents i CROSS JOIN generate_series(1, 3) AS s
WHERE i.organization_id = %(organization)s AND i.identifier BETWEEN %(first)s AND %(last)s
  AND i.identifier %% 4 = s %% 4
"""


def fill(engine: Engine, *, total: int) -> None:
    """Insert the organization, its rules, and ``total`` incidents with their projects, activities and seen rows."""
    with engine.begin() as connection:
        import_directory(connection, directory())
        organization = connection.exec_driver_sql("SELECT id FROM organizations").scalar_one()
        rows = connection.exec_driver_sql("SELECT slug, id FROM projects").all()
        first_rule = _write_rules(connection, organization)
    projects = {row.slug: row.id for row in rows}
    parameters = {
        "organization": organization,
        "total": total,
        "slugs": list(PROJECTS),
        "shares": list(PROJECTS.values()),
        "busiest": projects["busy"],
        "second": projects["second"],
        "tiny": projects["tiny"],
        "rules": RULE_COUNT,
        "first_rule": first_rule,
        "oldest_rule": OLDEST_RULE,
        "changed_rule": CHANGED_RULE,
        "silent_rule": SILENT_RULE,
        "rare_rule": RARE_RULE,
    }
    with engine.connect() as connection:
        connection.exec_driver_sql("SET synchronous_commit = off")
        connection.exec_driver_sql(_PSEUDO_RANDOM)
        for first in range(1, total + 1, BATCH_SIZE):
            batch = parameters | {"first": first, "last": min(first + BATCH_SIZE - 1, total)}
            for statement in (_INCIDENTS, _INCIDENT_PROJECTS, _ACTIVITIES, _SEEN):
                connection.exec_driver_sql(statement, batch)
            connection.commit()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
