"""``python -m bench.lists``: the list of a million incidents, filter by filter; a page, also under ``bench/results``.

For each filter the first page and page 5,000 (the last one, if there are fewer), reached by their cursors: planning and
execution by ``EXPLAIN (ANALYZE)``, and over HTTP through a gateway that runs as in production.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import http.client
import json
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

from bench.load import HOST
from bench.machine import machine, versions
from bench.million import CHANGED_RULE, OLDEST_RULE, ORGANIZATION, RARE_RULE, SILENT_RULE, TOKEN, fill
from bench.run import RESULTS, commit, say, temporary
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

ROWS: Final = 25
FAR: Final = 5_000
"""The page that is far from the first."""

EXPLAINED: Final = 9

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
"""Filters whose names begin so are read as in an organization without the performance feature."""


def filters(now: datetime, rule: int, teams: Sequence[int]) -> dict[str, str]:
    """Every filter, by what is worth knowing of it; ``rule`` is the first one's id."""
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


class Place(NamedTuple):
    """A page of a list: its cursor, and what it took. ``plans`` are those of the statements it needed.

    ``fastest_ms`` and ``buffers`` (pages of tables and indexes looked at) say what is left of PostgreSQL's time where
    nothing else runs on the machine.
    """

    cursor: Cursor
    postgres_ms: float
    fastest_ms: float
    buffers: int
    http_ms: float
    plans: list[str]


def main() -> int:
    """Fill, measure, print, save."""
    parser = argparse.ArgumentParser(prog="python -m bench.lists", description=__doc__)
    parser.add_argument("--incidents", type=int, default=1_000_000, help="how many; a million takes four minutes")
    parser.add_argument("--data", type=Path, help="keep the servers' files here; incidents that are there are measured")
    wishes = parser.parse_args()
    began = datetime.now(UTC)
    with ExitStack() as cleanup:
        servers = cleanup.enter_context(embedded_servers(wishes.data or temporary(cleanup)))
        engine = create_engine(servers.database_url.replace("postgresql:", "postgresql+psycopg:", 1))
        migrate(engine)
        if not _count(engine):
            say(f"writing {wishes.incidents} incidents")
            fill(engine, total=wishes.incidents)
        result = {
            "measured_at": began.isoformat(timespec="seconds"),
            "commit": commit(),
            "incidents": _count(engine),
            "bytes": _bytes(engine),
            "machine": machine(),
            "versions": versions(servers),
            "lists": list(_measure(servers, engine, began, cleanup)),
        }
    page = "\n".join(_page(result))
    print(page)
    stem = RESULTS / f"{began:%Y-%m-%d}-{result['commit']}-lists"
    stem.with_name(stem.name + ".json.gz").write_bytes(gzip.compress(json.dumps(result, indent=1).encode(), mtime=0))
    stem.with_name(stem.name + ".md").write_text(page + "\n")
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
    wished = filters(now, rules[0], teams)
    queries = {(name, places): f"{PROJECTS[places]}&{wished[name]}" for name in wished for places in PROJECTS}
    for (name, places), query in queries.items():
        features = frozenset(Feature) - {Feature.PERFORMANCE} if name.startswith(EVENTS_ONLY) else frozenset(Feature)
        database.execute("UPDATE organizations SET features = %s", ([each.value for each in features],))
        selection = asyncio.run(_selection(engine, query, features))
        key, pages = _far_key(database, selection)
        first = _place(database, port, query, selection, Cursor())
        far = _place(database, port, query, selection, Cursor(key)) if key else None
        say(f"{places}, {name}: {first.postgres_ms} ms, {first.http_ms} ms over HTTP")
        yield {
            "projects": places,
            "filter": name,
            "query": query,
            "pages": pages,
            "first": first._asdict() | {"cursor": None},
            "far": far and far._asdict() | {"cursor": far.cursor.encode()},
        }


async def _selection(engine: Engine, query: str, features: frozenset[Feature]) -> IncidentFilter:
    owner = Actor(kind=CallerKind.USER, user_id=1, role=Role.OWNER)
    organization = OrganizationFacts(_organization(engine), ORGANIZATION, features)
    asking = create_async_engine(engine.url)
    reads = IncidentList(QueryRunner(asking, seconds=5))
    found = await reads.parse_filter(QueryParams(query), owner, organization)
    await asking.dispose()
    return found


def _far_key(database: Database, selection: IncidentFilter) -> tuple[tuple[Any, ...] | None, int]:
    """What stands before the far page, and how many pages there are up to it."""
    found = _ask(database, selection, Page(Cursor(), FAR * ROWS))
    pages = min(-(-len(found) // ROWS), FAR)
    before = found[(pages - 1) * ROWS - 1] if pages > 1 else None
    return before and (before.date_started, before.incident_id), pages


def _place(database: Database, port: int, query: str, selection: IncidentFilter, cursor: Cursor) -> Place:
    page = Page(cursor, ROWS)
    runs = [_explain(database, selection, page) for _ in range(EXPLAINED)]
    path = f"/api/0/organizations/{ORGANIZATION}/incidents/?{query}" + (
        f"&cursor={cursor.encode()}" if cursor.key else ""
    )
    times, plans = [ms for ms, _ in runs], runs[-1][1]
    buffers = sum(int(found[1]) for plan in plans if (found := _BUFFERS.search(plan)))
    return Place(cursor, round(median(times), 2), round(min(times), 2), buffers, _http(port, path), plans)


def _explain(database: Database, selection: IncidentFilter, page: Page) -> tuple[float, list[str]]:
    """Planning and execution of what the page needs, in milliseconds, and the plans."""
    plans: list[str] = []

    def explain(statement: str, parameters: dict[str, Any]) -> None:
        asked = database.execute(f"EXPLAIN (ANALYZE, BUFFERS) {statement}".encode(), parameters)
        plans.append("\n".join(line for (line,) in asked))

    _ask(database, selection, page, before_each=explain)
    times = (line.split()[2] for plan in plans for line in plan.splitlines() if line.startswith(_TIMES))
    return sum(map(float, times)), plans


_TIMES: Final = ("Planning Time", "Execution Time")
_BUFFERS: Final = re.compile(r"Buffers: shared hit=(\d+)")
"""The first of a plan is that of the whole statement; all of it is in memory by the last run."""


def _ask(
    database: Database,
    selection: IncidentFilter,
    page: Page,
    *,
    before_each: Callable[[str, dict[str, Any]], None] | None = None,
) -> Sequence[Any]:
    asking = page_keys(selection, page)
    try:
        statement, parameters = next(asking)
        while True:
            if before_each:
                before_each(statement, parameters)
            statement, parameters = asking.send(database.execute(statement.encode(), parameters).fetchall())
    except StopIteration as end:
        found: Sequence[Any] = end.value
        return found


def _http(port: int, path: str, *, times: int = 15) -> float:
    connection = http.client.HTTPConnection(HOST, port)
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        body = answer.read()
        taken.append(1000 * (time.perf_counter() - began))
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{answer.status} for {path}: {body[:200]!r}")
    return round(median(taken), 2)


def _count(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM incidents").scalar_one())


def _organization(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT id FROM organizations").scalar_one())


def _bytes(engine: Engine) -> dict[str, int]:
    relations = "SELECT relname, pg_relation_size(oid) FROM pg_class WHERE relname ~ '^incident' ORDER BY relname"
    with engine.connect() as connection:
        return {row.relname: row.pg_relation_size for row in connection.exec_driver_sql(relations)}


def _page(result: dict[str, Any]) -> Iterator[str]:
    yield f"# Lists of {result['incidents']:,} incidents, measured {result['measured_at']} at {result['commit']}"
    yield ""
    yield f"Goals: {POSTGRES_GOAL_MS} ms in PostgreSQL (planning and execution), {HTTP_GOAL_MS} ms over HTTP (p50)."
    yield f"Far is page {FAR:,}, or the last one. What misses its goal is bold. The plans are in the other file (gzip)."
    yield f"PostgreSQL: the median of {EXPLAINED} runs, the fastest, and the buffers it looked at."
    yield ""
    yield "| projects | filter | pages | first: ms | fastest | buffers | far: ms | fastest | buffers | HTTP | far |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for each in result["lists"]:
        first, far = each["first"], each["far"] or {}
        cells = [
            *(
                shown
                for at in (first, far)
                for shown in (
                    _shown(at.get("postgres_ms"), POSTGRES_GOAL_MS),
                    _shown(at.get("fastest_ms"), POSTGRES_GOAL_MS),
                    at.get("buffers", "–"),
                )
            ),
            *(_shown(at.get("http_ms"), HTTP_GOAL_MS) for at in (first, far)),
        ]
        pages = f"{FAR:,} or more" if each["pages"] == FAR else each["pages"]
        yield f"| {each['projects']} | {each['filter']} | {pages} | {' | '.join(map(str, cells))} |"
    yield ""
    yield "* " + ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in result["bytes"].items() if size > 2**20)
    yield "* " + ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    yield "* " + ", ".join(f"{name} {value}" for name, value in result["versions"].items())


def _shown(milliseconds: float | None, goal: float) -> str:
    if milliseconds is None:
        return "–"
    return f"{milliseconds:.1f}" if milliseconds <= goal else f"**{milliseconds:.1f}**"


if __name__ == "__main__":
    sys.exit(main())
