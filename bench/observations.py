"""Measure bulk requests that send values for alert rules, and save a report in ``bench/results``.

Each request has 1,000 values. They are accepted while the workers are stopped, and then applied. The report states the
values per second in each phase, and the values per transaction. One run uses a single rule, another uses two hundred.
Every rule has an open incident, so every outcome contains an incident.
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

from bench.load_generator import HOST
from bench.machine import environment, environment_lines
from bench.output import current_commit, progress, save, temporary_directory
from bench.systems import ORGANIZATION, Tocsin
from models.alert_rules.alert_rule import Definition, Trigger, alert_rule_projects, alert_rules
from models.alert_rules.enums import QueryType, ThresholdType
from models.directory.importer import import_directory
from models.directory.tables import organizations, projects
from models.types import JSON
from workers.stack.servers import embedded_servers

TOKEN: Final = "bench-metrics"
REQUEST_VALUES: Final = 1_000
"""The number of values per request, which is the maximum allowed."""

CONNECTIONS: Final = 4
WITHIN_SECONDS: Final = 300

_PROGRESS: Final = """
SELECT count(*) FILTER (WHERE state = 'applied') AS applied, count(DISTINCT xmin::text) AS transactions,
       extract(epoch FROM max(finished_at) - min(finished_at)) AS seconds
FROM commands WHERE type = 'metric.observe' AND accepted_at > :began_at AND finished_at IS NOT NULL
"""


class TocsinWithRules(Tocsin):
    """tocsin with alert rules that have two thresholds: warning above 50 and critical above 100."""

    def create_rules(self, count: int) -> list[int]:
        """Create ``count`` rules and return their ids."""
        with self.engine.begin() as connection:
            import_directory(connection, {"tokens": [_TOKEN]})
            organization = connection.execute(organizations.select()).one().id
            project = connection.execute(projects.select()).one().id
            now = connection.execute(text("SELECT now()")).scalar_one()
            row = {"organization_id": organization, "date_added": now, "date_modified": now}
            rows = [row | {"definition": _definition(number, now)} for number in range(count)]
            ids = list(connection.execute(insert(alert_rules).returning(alert_rules.c.id), rows).scalars())
            connection.execute(insert(alert_rule_projects), [{"rule_id": id_, "project_id": project} for id_ in ids])
        return ids

    def observed_since(self, began_at: Any) -> Any:
        """Return the progress of the values accepted since ``began_at``, by the database's clock."""
        with self.engine.connect() as connection:
            return connection.execute(text(_PROGRESS), {"began_at": began_at}).one()


def main() -> int:
    """Run the benchmark and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.observations", description=__doc__)
    parser.add_argument("--requests", type=int, default=20, help="requests per load, of 1,000 values each")
    parser.add_argument(
        "--save", action=argparse.BooleanOptionalAction, default=True, help="save a report in bench/results"
    )
    options = parser.parse_args()
    began = datetime.now(UTC)
    with ExitStack() as cleanup:
        servers = cleanup.enter_context(embedded_servers(temporary_directory(cleanup)))
        system = TocsinWithRules(servers, subjects=1, workers=2)
        loads = [_measure(system, rules, options.requests) for rules in (1, 200)]
        result = {
            "measured_at": began.isoformat(timespec="seconds"),
            "commit": current_commit(),
            "values_per_request": REQUEST_VALUES,
            "requests": options.requests,
            "workers": system.workers,
            # Other load on the machine lowers the figures.
            "load_average": os.getloadavg()[1],
            **environment(servers),
            "loads": loads,
        }
    page = "\n".join(_lines(result))
    print(page)
    if options.save:
        save(result, page, began, suffix="-observations")
    return 0


def _measure(system: TocsinWithRules, rule_count: int, requests: int) -> dict[str, Any]:
    rules = system.create_rules(rule_count)
    bodies = _bodies(rules)
    progress(f"values of {rule_count} rule{'s' if rule_count > 1 else ''}")
    try:
        system.start(system.serving_processes())
        system.start(system.worker_processes())
        # Not measured: the first request makes every rule open its incident.
        _post(system.port, next(bodies))
        _wait(system, datetime(2000, 1, 1, tzinfo=UTC), REQUEST_VALUES)
        system.stop()
        system.start(system.serving_processes())
        prepared = [next(bodies) for _ in range(requests)]
        began_at, before = system.database_time(), time.perf_counter()
        with ThreadPoolExecutor(CONNECTIONS) as senders:
            statuses = list(senders.map(lambda body: _post(system.port, body), prepared))
        accepting = time.perf_counter() - before
        system.start(system.worker_processes())
        # Requests that got a 503 do not count.
        values = statuses.count(http.HTTPStatus.ACCEPTED) * REQUEST_VALUES
        done = _wait(system, began_at, values)
    finally:
        system.stop()
    return {
        "rules": rule_count,
        "statuses": {str(status): statuses.count(status) for status in set(statuses)},
        "accepted_per_second": round(values / accepting),
        "applied": done.applied,
        "applied_per_second": round(done.applied / float(done.seconds)),
        "transactions": done.transactions,
        "values_per_transaction": round(done.applied / done.transactions),
    }


def _bodies(rules: list[int]) -> Iterator[bytes]:
    """Yield request bodies. Their values cycle through the rules, and each is a second later than the one before."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for number in count():
        times = (start + timedelta(seconds=number * REQUEST_VALUES + index) for index in range(REQUEST_VALUES))
        yield json.dumps(
            {
                "commands": [
                    {
                        "type": "metric.observe",
                        "alertRule": rules[index % len(rules)],
                        "project": "p1",
                        "value": 60 + index % 30,
                        "timestamp": at.isoformat(),
                    }
                    for index, at in enumerate(times)
                ]
            }
        ).encode()


def _post(port: int, body: bytes) -> int:
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    connection.request("POST", f"/api/0/organizations/{ORGANIZATION}/commands/", body, headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def _wait(system: TocsinWithRules, began_at: Any, values: int) -> Any:
    """Wait until ``values`` values have been applied, and return the progress.

    :raises TimeoutError: if this takes longer than ``WITHIN_SECONDS``.
    """
    until = time.monotonic() + WITHIN_SECONDS
    while (done := system.observed_since(began_at)).applied < values:
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


def _definition(number: int, now: datetime) -> JSON:
    triggers = (("critical", 100.0), ("warning", 50.0))
    definition = Definition(
        name=f"Errors of shard {number}",
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
            Trigger(id=10_000_000 + 2 * number + index, label=label, threshold=threshold, date_added=now)
            for index, (label, threshold) in enumerate(triggers)
        ),
    )
    return definition.model_dump(mode="json")


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"# Observations in bulk, measured {result['measured_at']} at {result['commit']}"
    yield ""
    yield (
        f"{result['requests']} requests of {result['values_per_request']:,} values per load, over {CONNECTIONS}"
        f" connections; {result['workers']} workers."
    )
    yield ""
    yield "| rules | accepted/s | applied/s | transactions | values per transaction |"
    yield "|---:|---:|---:|---:|---:|"
    for each in result["loads"]:
        cells = (
            each["rules"], f"{each['accepted_per_second']:,}", f"{each['applied_per_second']:,}", each["transactions"],
            each["values_per_transaction"],
        )  # fmt: skip
        yield "| " + " | ".join(map(str, cells)) + " |"
    yield ""
    yield f"* load average over five minutes: {result['load_average']:.1f}"
    yield from environment_lines(result)


if __name__ == "__main__":
    sys.exit(main())
