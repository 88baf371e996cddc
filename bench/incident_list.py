"""Measure the incident list on a million incidents, filter by filter, and save a report in ``bench/results``.

For each filter, measure two pages, which are reached by cursor: the first page, and page 5,000 (or the last page, if
there are fewer). The planning and execution times are from ``EXPLAIN (ANALYZE)``. The response time is that of an HTTP
request to a gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.datastructures import QueryParams

from bench.incident_dataset import CHANGED_RULE, OLDEST_RULE, ORGANIZATION, RARE_RULE, SILENT_RULE, TOKEN, fill
from bench.load_generator import HOST
from bench.machine import environment, environment_lines
from bench.output import current_commit, progress, save, temporary_directory
from gateway.http.pagination import Cursor, Page
from gateway.reads.database import QueryRunner
from gateway.reads.incident_filters import IncidentFilter
from gateway.reads.incident_list import IncidentList
from gateway.reads.incident_list_pages import page_keys
from models.database.migrate import migrate
from models.enums import CallerKind, Feature, Role
from models.policy import Actor, OrganizationFacts
from tasks.startup import free_port
from workers.stack.own_processes import GatewayProcess
from workers.stack.servers import EmbeddedServers, embedded_servers

Database = psycopg.Connection[Any]

PAGE_ROWS: Final = 25
FAR_PAGE: Final = 5_000
EXPLAIN_RUNS: Final = 9
HTTP_RUNS: Final = 15

POSTGRES_GOAL_MS: Final = 15
HTTP_GOAL_MS: Final = 40

_EIGHT: Final = ("busy", "second", "third", "fourth", "fifth", "sixth", "silent", "tiny")

PROJECTS: Final = {
    "all (50)": "project=-1",
    "eight": "&".join(f"projectSlug={slug}" for slug in _EIGHT),
    "thirty small": "&".join(f"projectSlug=small-{number}" for number in range(30)),
    "busy": "projectSlug=busy",
    "sixth": "projectSlug=sixth",
    "silent": "projectSlug=silent",
    "tiny": "projectSlug=tiny",
    "empty": "projectSlug=empty",
}


EVENTS_ONLY: Final = "events only"
"""Prefix for the names of filters that are measured as in an organization without the performance feature."""


def filters(now: datetime, rule: int, teams: Sequence[int]) -> dict[str, str]:
    """Return the query string of each filter, keyed by a name that states how selective the filter is.

    ``rule`` is the id of the first rule.

    Do not change the names: reports are compared by them.
    """
    hour, year = (f"{now - ago:%Y-%m-%dT%H:%M:%SZ}" for ago in (timedelta(hours=1), timedelta(days=365)))
    return {
        "none": "",
        "open": "status=open",
        "closed": "status=closed",
        "warning": "status=warning",
        "critical": "status=critical",
        "start an hour ago": f"start={hour}",
        "start a year ago": f"start={year}",
        "start a year ago, closed": f"start={year}&status=closed",
        "end a year ago": f"end={year}",
        "unassigned": "team=unassigned",
        "title: one in five": "title=latency",
        "title: one in 300": "title=quota",
        "title: a dozen": "title=zebra",
        "title: only the oldest 4 %": "title=cutover",
        "title: long, of common parts": "title=latency+is+high+in+eu-west-42",
        "title: long, of common parts, nowhere": "title=latency+is+unreachable",
        "title: nowhere": "title=xyzzy",
        "three letters: one in five": "title=lat",
        "three letters: one in 300": "title=uot",
        "three letters: a dozen": "title=zeb",
        "three letters: only the oldest 4 %": "title=cut",
        "three letters: one in 97": "title=-42",
        "three letters: nowhere": "title=xyz",
        "title: one in five, closed": "title=latency&status=closed",
        "title: one in five, critical": "title=latency&status=critical",
        "title: one in five, start a year ago": f"title=latency&start={year}",
        "title: one in five, end a year ago": f"title=latency&end={year}",
        "title: one in 300, open": "title=quota&status=open",
        "title: one in 300, critical": "title=quota&status=critical",
        "title: one in 300, start a year ago, closed": f"title=quota&start={year}&status=closed",
        "title: a dozen, open": "title=zebra&status=open",
        "title: a dozen, start a year ago": f"title=zebra&start={year}",
        "title: only the oldest 4 %, open": "title=cutover&status=open",
        "title: only the oldest 4 %, end a year ago": f"title=cutover&end={year}",
        "title: only the oldest 4 %, start a year ago": f"title=cutover&start={year}",
        "title: long, of common parts, warning": "title=latency+is+high+in+eu-west-42&status=warning",
        "title: long, of common parts, nowhere, closed": "title=latency+is+unreachable&status=closed",
        "title: nowhere, start a year ago, open": f"title=xyzzy&start={year}&status=open",
    } | _filters_by_rule(rule, teams, year)


def _filters_by_rule(rule: int, teams: Sequence[int], year: str) -> dict[str, str]:
    common, rare, oldest = f"alertRule={rule}", f"alertRule={rule + 200}", f"alertRule={rule + OLDEST_RULE}"
    team, small, old_team = (f"team={teams[at]}" for at in (0, 18, -1))
    return {
        "rule: one in eight": common,
        "rule: one in 1,300": rare,
        "rule: a dozen": f"alertRule={rule + RARE_RULE}",
        "rule: only among the oldest": oldest,
        "rule: as it is, a third of it": f"alertRule={rule + CHANGED_RULE}",
        "rule: as it is, nothing": f"alertRule={rule + SILENT_RULE}",
        "rule: with snapshots": f"alertRule={rule + SILENT_RULE}&includeSnapshots=1",
        "rule: nowhere": f"alertRule={rule + 9_999}",
        "environment: half": "environment=production",
        "environment: only among the oldest": "environment=legacy",
        "environments: two": "environment=legacy&environment=staging",
        "team: one in ten": team,
        "team: one in 80": small,
        "team: only among the oldest": old_team,
        "team: only among the oldest, or none": f"{old_team}&team=unassigned",
        "teams: ten": "&".join(f"team={each}" for each in teams[10:]),
        "rule: one in eight, critical": f"{common}&status=critical",
        "rule: one in eight, closed": f"{common}&status=closed",
        "rule: one in eight, start a year ago": f"{common}&start={year}",
        "rule: one in eight, end a year ago": f"{common}&end={year}",
        "rule: one in 1,300, open": f"{rare}&status=open",
        "rule: one in 1,300, closed": f"{rare}&status=closed",
        "rule: a dozen, warning": f"alertRule={rule + RARE_RULE}&status=warning",
        "rule: only among the oldest, open": f"{oldest}&status=open",
        "rule: only among the oldest, start a year ago": f"{oldest}&start={year}",
        "environment: only among the oldest, critical": "environment=legacy&status=critical",
        "environment: half, team: one in 80": f"environment=production&{small}",
        "environment: half, rule elsewhere": f"environment=production&{oldest}",
        "team: one in ten, warning": f"{team}&status=warning",
        "team: one in 80, closed, start a year ago": f"{small}&status=closed&start={year}",
        "rule: one in eight, title: one in five": f"{common}&title=latency",
        "rule: one in eight, title: one in 300": f"{common}&title=quota",
        "rule: one in eight, title: a dozen": f"{common}&title=zebra",
        "rule: one in 1,300, title: one in five": f"{rare}&title=latency",
        "rule: one in 1,300, title: two letters": f"{rare}&title=la",
        "rule: only among the oldest, title: one in five": f"{oldest}&title=latency",
        "rule: only among the oldest, title: nowhere": f"{oldest}&title=xyzzy",
        "team: one in ten, title: long, of common parts": f"{team}&title=latency+is+high+in+eu-west-42",
        "team: one in 80, title: only the oldest 4 %": f"{small}&title=cutover",
        EVENTS_ONLY: "",
        f"{EVENTS_ONLY}, critical": "status=critical",
        f"{EVENTS_ONLY}, start a year ago, closed": f"start={year}&status=closed",
        f"{EVENTS_ONLY}, title: one in 300": "title=quota",
        f"{EVENTS_ONLY}, title: nowhere": "title=xyzzy",
        f"{EVENTS_ONLY}, rule: one in 1,300": rare,
        f"{EVENTS_ONLY}, rule of transactions": f"alertRule={rule + 4}",
        f"{EVENTS_ONLY}, team: one in 80, environment: half": f"{small}&environment=production",
    }


class PageFigures(NamedTuple):
    """The cost of one page of the list: the median times in PostgreSQL and over HTTP, and its query plans.

    ``fastest_ms`` and ``buffers`` (the table and index pages read) show the cost on a machine without other load.
    """

    cursor: Cursor
    postgres_ms: float
    fastest_ms: float
    buffers: int
    http_ms: float
    plans: list[str]


def main() -> int:
    """Write the incidents, measure the list, save the report, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.incident_list", description=__doc__)
    parser.add_argument("--incidents", type=int, default=1_000_000, help="number of incidents to write")
    parser.add_argument(
        "--data", type=Path, help="keep the incidents in this directory; existing ones are measured again"
    )
    options = parser.parse_args()
    began = datetime.now(UTC)
    with ExitStack() as cleanup:
        servers = cleanup.enter_context(embedded_servers(options.data or temporary_directory(cleanup)))
        engine = create_engine(servers.database_url.replace("postgresql:", "postgresql+psycopg:", 1))
        migrate(engine)
        if not _count(engine):
            progress(f"writing {options.incidents} incidents")
            fill(engine, total=options.incidents)
        result = {
            "measured_at": began.isoformat(timespec="seconds"),
            "commit": current_commit(),
            "incidents": _count(engine),
            "bytes": _bytes(engine),
            **environment(servers),
            "lists": list(_measure(servers, engine, began, cleanup)),
        }
    page = "\n".join(_lines(result))
    print(page)
    save(result, page, began, suffix="-lists", compress=True)
    return 0


def _measure(servers: EmbeddedServers, engine: Engine, now: datetime, cleanup: ExitStack) -> Iterator[dict[str, Any]]:
    port = free_port(HOST, 0)
    gateway = GatewayProcess(HOST, port, logs=servers.data_dir.logs, environment={**os.environ, **servers.environment})
    cleanup.callback(gateway.stop)
    gateway.start()
    gateway.wait_ready()
    database: Database = cleanup.enter_context(
        psycopg.connect(servers.database_url, autocommit=True, row_factory=namedtuple_row)
    )
    database.execute("SET timezone = 'UTC'")
    rules = [id_ for (id_,) in database.execute("SELECT id FROM alert_rules ORDER BY id")]
    teams = [id_ for (id_,) in database.execute("SELECT id FROM teams ORDER BY id")]
    by_name = filters(now, rules[0], teams)
    queries = {(name, scope): f"{PROJECTS[scope]}&{query}" for name, query in by_name.items() for scope in PROJECTS}
    for (name, scope), query in queries.items():
        features = frozenset(Feature) - {Feature.PERFORMANCE} if name.startswith(EVENTS_ONLY) else frozenset(Feature)
        database.execute("UPDATE organizations SET features = %s", ([each.value for each in features],))
        incident_filter = asyncio.run(_parse_filter(engine, query, features))
        key, pages = _far_key(database, incident_filter)
        first = _measure_page(database, port, query, incident_filter, Cursor())
        far = _measure_page(database, port, query, incident_filter, Cursor(key)) if key else None
        progress(f"{scope}, {name}: {first.postgres_ms} ms, {first.http_ms} ms over HTTP")
        yield {
            "projects": scope,
            "filter": name,
            "query": query,
            "pages": pages,
            "first": first._asdict() | {"cursor": None},
            "far": far and far._asdict() | {"cursor": far.cursor.encode()},
        }


async def _parse_filter(engine: Engine, query: str, features: frozenset[Feature]) -> IncidentFilter:
    owner = Actor(kind=CallerKind.USER, user_id=1, role=Role.OWNER)
    organization = OrganizationFacts(_organization_id(engine), ORGANIZATION, features)
    async_engine = create_async_engine(engine.url)
    reads = IncidentList(QueryRunner(async_engine, seconds=5))
    incident_filter = await reads.parse_filter(QueryParams(query), owner, organization)
    await async_engine.dispose()
    return incident_filter


def _far_key(database: Database, incident_filter: IncidentFilter) -> tuple[tuple[Any, ...] | None, int]:
    """Return the key of the last row before the far page (``None`` if it is the first page), and that page's number."""
    found = _page_keys(database, incident_filter, Page(Cursor(), FAR_PAGE * PAGE_ROWS))
    pages = min(-(-len(found) // PAGE_ROWS), FAR_PAGE)
    before = found[(pages - 1) * PAGE_ROWS - 1] if pages > 1 else None
    return before and (before.date_started, before.incident_id), pages


def _measure_page(
    database: Database, port: int, query: str, incident_filter: IncidentFilter, cursor: Cursor
) -> PageFigures:
    page = Page(cursor, PAGE_ROWS)
    runs = [_explain(database, incident_filter, page) for _ in range(EXPLAIN_RUNS)]
    path = f"/api/0/organizations/{ORGANIZATION}/incidents/?{query}" + (
        f"&cursor={cursor.encode()}" if cursor.key else ""
    )
    times, plans = [ms for ms, _ in runs], runs[-1][1]
    buffers = sum(int(found[1]) for plan in plans if (found := _BUFFERS.search(plan)))
    return PageFigures(cursor, round(median(times), 2), round(min(times), 2), buffers, _http(port, path), plans)


def _explain(database: Database, incident_filter: IncidentFilter, page: Page) -> tuple[float, list[str]]:
    """Return the total planning and execution time of the page's statements in milliseconds, and their plans."""
    plans: list[str] = []

    def explain(statement: str, parameters: dict[str, Any]) -> None:
        lines = database.execute(f"EXPLAIN (ANALYZE, BUFFERS) {statement}".encode(), parameters)
        plans.append("\n".join(line for (line,) in lines))

    _page_keys(database, incident_filter, page, before_each=explain)
    times = (line.split()[2] for plan in plans for line in plan.splitlines() if line.startswith(_TIMES))
    return sum(map(float, times)), plans


_TIMES: Final = ("Planning Time", "Execution Time")
_BUFFERS: Final = re.compile(r"Buffers: shared hit=(\d+)")
"""Matches the buffers read. The first match in a plan covers the whole statement.

Only hits are matched, because every page is in memory by the last run.
"""


def _page_keys(
    database: Database,
    incident_filter: IncidentFilter,
    page: Page,
    *,
    before_each: Callable[[str, dict[str, Any]], None] | None = None,
) -> Sequence[Any]:
    statements = page_keys(incident_filter, page)
    try:
        statement, parameters = next(statements)
        while True:
            if before_each:
                before_each(statement, parameters)
            statement, parameters = statements.send(database.execute(statement.encode(), parameters).fetchall())
    except StopIteration as end:
        found: Sequence[Any] = end.value
        return found


def _http(port: int, path: str, *, runs: int = HTTP_RUNS) -> float:
    connection = http.client.HTTPConnection(HOST, port)
    taken = []
    for _ in range(runs):
        began = time.perf_counter()
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        response = connection.getresponse()
        body = response.read()
        taken.append(1000 * (time.perf_counter() - began))
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{response.status} for {path}: {body[:200]!r}")
    return round(median(taken), 2)


def _count(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM incidents").scalar_one())


def _organization_id(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT id FROM organizations").scalar_one())


def _bytes(engine: Engine) -> dict[str, int]:
    relations = "SELECT relname, pg_relation_size(oid) FROM pg_class WHERE relname ~ '^incident' ORDER BY relname"
    with engine.connect() as connection:
        return {row.relname: row.pg_relation_size for row in connection.exec_driver_sql(relations)}


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"# Lists of {result['incidents']:,} incidents, measured {result['measured_at']} at {result['commit']}"
    yield ""
    yield f"Goals: {POSTGRES_GOAL_MS} ms in PostgreSQL (planning and execution), {HTTP_GOAL_MS} ms over HTTP (p50)."
    yield f"Far: page {FAR_PAGE:,}, or the last one. Bold: above its goal. The plans are in the other file (gzip)."
    yield f"PostgreSQL: the median of {EXPLAIN_RUNS} runs, the fastest run, and the buffers read."
    yield ""
    yield "| projects | filter | pages | first: ms | fastest | buffers | far: ms | fastest | buffers | HTTP | far |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for each in result["lists"]:
        first, far = each["first"], each["far"] or {}
        cells = [
            *(
                cell
                for at in (first, far)
                for cell in (
                    _format(at.get("postgres_ms"), POSTGRES_GOAL_MS),
                    _format(at.get("fastest_ms"), POSTGRES_GOAL_MS),
                    at.get("buffers", "–"),
                )
            ),
            *(_format(at.get("http_ms"), HTTP_GOAL_MS) for at in (first, far)),
        ]
        pages = f"{FAR_PAGE:,} or more" if each["pages"] == FAR_PAGE else each["pages"]
        yield f"| {each['projects']} | {each['filter']} | {pages} | {' | '.join(map(str, cells))} |"
    yield ""
    yield "* " + ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in result["bytes"].items() if size > 2**20)
    yield from environment_lines(result)


def _format(milliseconds: float | None, goal: float) -> str:
    if milliseconds is None:
        return "–"
    return f"{milliseconds:.1f}" if milliseconds <= goal else f"**{milliseconds:.1f}**"


if __name__ == "__main__":
    sys.exit(main())
