"""``python -m bench.observations``: values of alert rules through bulk requests; a table, also under ``bench/results``.

Requests of 1,000 values each, first with the workers stopped (accepted a second), then worked off (applied a second,
and in how many transactions). Once all values are of one rule, once spread over two hundred; every rule has an open
incident, so that every answer carries one.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final

from sqlalchemy import insert, text

from bench.load import HOST
from bench.machine import machine, versions
from bench.run import RESULTS, commit, say, temporary
from bench.sides import ORGANIZATION, Tocsin
from models.alert_rules.alert_rule import Definition, Trigger, alert_rule_projects, alert_rules
from models.alert_rules.enums import QueryType, ThresholdType
from models.directory.importer import import_directory
from models.directory.tables import organizations, projects
from models.enums import JSON
from workers.stack.servers import embedded_servers

TOKEN: Final = "bench-metrics"
ITEMS: Final = 1_000
"""Values of a request: as many as one may carry."""

CONNECTIONS: Final = 4
WITHIN_SECONDS: Final = 300

_PROGRESS: Final = """
SELECT count(*) FILTER (WHERE state = 'applied') AS applied, count(DISTINCT xmin::text) AS transactions,
       extract(epoch FROM max(finished_at) - min(finished_at)) AS seconds
FROM commands WHERE type = 'metric.observe' AND accepted_at > :mark AND finished_at IS NOT NULL
"""


class Watched(Tocsin):
    """tocsin with rules that are observed: warning above 50, critical above 100."""

    def watch(self, number: int) -> list[int]:
        """So many new rules; their ids."""
        with self.engine.begin() as connection:
            import_directory(connection, {"tokens": [_TOKEN]})
            organization = connection.execute(organizations.select()).one().id
            project = connection.execute(projects.select()).one().id
            now = connection.execute(text("SELECT now()")).scalar_one()
            row = {"organization_id": organization, "date_added": now, "date_modified": now}
            rows = [row | {"definition": _definition(place, now)} for place in range(number)]
            ids = list(connection.execute(insert(alert_rules).returning(alert_rules.c.id), rows).scalars())
            connection.execute(insert(alert_rule_projects), [{"rule_id": id_, "project_id": project} for id_ in ids])
        return ids

    def progress(self, mark: Any) -> Any:
        """How far the values are that were accepted since."""
        with self.engine.connect() as connection:
            return connection.execute(text(_PROGRESS), {"mark": mark}).one()


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(prog="python -m bench.observations", description=__doc__)
    parser.add_argument("--requests", type=int, default=20, help="of 1,000 values each, for each load")
    parser.add_argument("--save", action=argparse.BooleanOptionalAction, default=True, help="under bench/results")
    wishes = parser.parse_args()
    began = datetime.now(UTC)
    with ExitStack() as cleanup:
        servers = cleanup.enter_context(embedded_servers(temporary(cleanup)))
        side = Watched(servers, subjects=1, workers=2)
        loads = [_measure(side, rules, wishes.requests) for rules in (1, 200)]
        result = {
            "measured_at": began.isoformat(timespec="seconds"),
            "commit": commit(),
            "values_a_request": ITEMS,
            "requests": wishes.requests,
            "workers": side.workers,
            # Whoever else was at work: figures of a busy machine are low.
            "load_average": os.getloadavg()[1],
            "machine": machine(),
            "versions": versions(servers),
            "loads": loads,
        }
    page = "\n".join(_page(result))
    print(page)
    if wishes.save:
        stem = RESULTS / f"{began:%Y-%m-%d}-{result['commit']}-observations"
        stem.with_name(stem.name + ".json").write_text(json.dumps(result, indent=2) + "\n")
        stem.with_name(stem.name + ".md").write_text(page + "\n")
        say(f"saved as {os.path.relpath(stem)}.md and .json")
    return 0


def _measure(side: Watched, number: int, requests: int) -> dict[str, Any]:
    rules = side.watch(number)
    bodies = _bodies(rules)
    say(f"values of {number} rule{'s' if number > 1 else ''}")
    try:
        side.start(side.doorway())
        side.start(side.workforce())
        # Every rule opens its incident; this is not measured.
        _post(side.port, next(bodies))
        _wait(side, datetime(2000, 1, 1, tzinfo=UTC), ITEMS)
        side.stop()
        side.start(side.doorway())
        ready = [next(bodies) for _ in range(requests)]
        mark, before = side.mark(), time.perf_counter()
        with ThreadPoolExecutor(CONNECTIONS) as senders:
            statuses = list(senders.map(lambda body: _post(side.port, body), ready))
        accepting = time.perf_counter() - before
        side.start(side.workforce())
        # Whoever is told "unavailable" sends again; here only what was accepted counts.
        values = statuses.count(http.HTTPStatus.ACCEPTED) * ITEMS
        done = _wait(side, mark, values)
    finally:
        side.stop()
    return {
        "rules": number,
        "statuses": {str(status): statuses.count(status) for status in set(statuses)},
        "accepted_per_second": round(values / accepting),
        "applied": done.applied,
        "applied_per_second": round(done.applied / float(done.seconds)),
        "transactions": done.transactions,
        "values_a_transaction": round(done.applied / done.transactions),
    }


def _bodies(rules: list[int]) -> Iterator[bytes]:
    """Requests without end: the rules in turn, each value a second after the one before."""
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for number in count():
        moments = (began + timedelta(seconds=number * ITEMS + place) for place in range(ITEMS))
        yield json.dumps(
            {
                "commands": [
                    {
                        "type": "metric.observe",
                        "alertRule": rules[place % len(rules)],
                        "project": "p1",
                        "value": 60 + place % 30,
                        "timestamp": moment.isoformat(),
                    }
                    for place, moment in enumerate(moments)
                ]
            }
        ).encode()


def _post(port: int, body: bytes) -> int:
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    connection.request("POST", f"/api/0/organizations/{ORGANIZATION}/commands/", body, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def _wait(side: Watched, mark: Any, values: int) -> Any:
    """How it went, once so many values are applied.

    :raises TimeoutError: it takes too long.
    """
    until = time.monotonic() + WITHIN_SECONDS
    while (done := side.progress(mark)).applied < values:
        if time.monotonic() > until:
            raise TimeoutError(f"{done.applied} of {values} values applied")
        time.sleep(0.2)
    return done


_TOKEN: Final[dict[str, JSON]] = {
    "token": TOKEN,
    "organization": ORGANIZATION,
    "name": "metrics",
    "kind": "service",
    "scopes": ["alerts:write"],
}


def _definition(place: int, now: datetime) -> JSON:
    triggers = (("critical", 100.0), ("warning", 50.0))
    said = Definition(
        name=f"Errors of shard {place}",
        query_type=QueryType.ERROR,
        dataset="events",
        query="level:error",
        aggregate="count()",
        event_types=("error",),
        time_window=10,
        environment=None,
        threshold_type=ThresholdType.ABOVE,
        resolve_threshold=None,
        threshold_period=1,
        comparison_delta=None,
        triggers=tuple(
            Trigger(id=10_000_000 + 2 * place + number, label=label, threshold=threshold, date_added=now)
            for number, (label, threshold) in enumerate(triggers)
        ),
    )
    return said.model_dump(mode="json")


def _page(result: dict[str, Any]) -> Iterator[str]:
    yield f"# Values in bulk, measured {result['measured_at']} at {result['commit']}"
    yield ""
    yield (
        f"{result['requests']} requests of {result['values_a_request']:,} values for each load, over {CONNECTIONS}"
        f" connections; {result['workers']} workers."
    )
    yield ""
    yield "| rules | accepted/s | applied/s | transactions | values each |"
    yield "|---:|---:|---:|---:|---:|"
    for each in result["loads"]:
        cells = (
            each["rules"], f"{each['accepted_per_second']:,}", f"{each['applied_per_second']:,}", each["transactions"],
            each["values_a_transaction"],
        )  # fmt: skip
        yield "| " + " | ".join(map(str, cells)) + " |"
    yield ""
    yield f"* load average of the five minutes before the end: {result['load_average']:.1f}"
    yield "* " + ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    yield "* " + ", ".join(f"{name} {value}" for name, value in result["versions"].items())


if __name__ == "__main__":
    sys.exit(main())
