"""The loads of ``bench.stress``. Each takes a running stack and a scale, and returns its figures.

A figure is infinite if the load gave up. The scale multiplies the number of commands that wait.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Final

import psycopg

from bench import claim_cost
from bench.stress_stack import PERSON, SERVICE, SETUP_SECONDS, Stack, StressError, comment_on, open_item
from models.types import JSON

Figures = tuple[float, ...]
Measure = Callable[[Stack, float], Figures]

INCIDENTS: Final = 200
GIVE_UP_SECONDS: Final = 100.0
UNRELATED_GIVE_UP_SECONDS: Final = 40.0
BURSTS: Final = 15
REOPENINGS: Final = 60
RULES: Final = 50
FLOOR_SECONDS: Final = 6.0
"""How many seconds the relay gets to raise the floor (every two seconds)."""


# --- one command among many ------------------------------------------------------------------------------------


def interactive(stack: Stack, scale: float) -> Figures:
    """Return the seconds until a comment by hand is applied while 12,000 bulk comments on 200 incidents wait."""
    *busy, other = stack.open_incidents(INCIDENTS + 1)
    stack.stop_workers()
    stack.comment_in_bulk(busy, _scaled(12_000, scale))
    began_at = stack.start_workers()
    # The workers have begun, so that their start does not count.
    _wait_until(lambda: _finished_since(stack, began_at) > 0)
    return (_seconds_to_apply(stack, [stack.comment(other)], GIVE_UP_SECONDS),)


def stalled(stack: Stack, scale: float) -> Figures:
    """Return how many times as long 200 comments on 200 incidents take while another incident stalls."""
    *others, stalled = stack.open_incidents(INCIDENTS + 1)
    free = _burst_seconds(stack, others)
    stack.stop_workers()
    _defer(stack, stack.comment_in_bulk([stalled], _scaled(1_500, scale))[0])
    stack.start_workers()
    return (_burst_seconds(stack, others) / free,)


def storm(stack: Stack, scale: float) -> Figures:
    """Return the seconds until 60 single comments on keyed incidents are applied while 140,000 `incident.open` wait."""
    return (_storm(stack, scale, _comment_at_once),)


def storm_bulk(stack: Stack, scale: float) -> Figures:
    """Return the same figure as :func:`storm`, for 60 comments in a single bulk request."""
    return (_storm(stack, scale, lambda stack, numbers: stack.comment_in_bulk(numbers, len(numbers))),)


def _storm(stack: Stack, scale: float, comment: Callable[[Stack, Sequence[str]], list[str]]) -> float:
    numbers = stack.open_incidents(60, dedupKey="held-{}")
    stack.stop_workers()
    stack.submit([open_item("Storm", f"storm-{each}") for each in range(_scaled(140_000, scale))], token=SERVICE)
    ids = comment(stack, numbers)
    # Autovacuum would do the same soon. Doing it here makes the figures independent of when that happens.
    stack.sql("ANALYZE commands")
    began_at = stack.start_workers()
    return _seconds_to_apply(stack, ids, GIVE_UP_SECONDS, since=began_at)


def _comment_at_once(stack: Stack, numbers: Sequence[str]) -> list[str]:
    with ThreadPoolExecutor(len(numbers)) as people:
        return list(people.map(stack.comment, numbers))


def unrelated(stack: Stack, _scale: float) -> Figures:
    """Return the seconds until an incident is opened while another one, which has a key, is in back-off."""
    [number] = stack.open_incidents(1, dedupKey="back-off")
    stack.stop_workers()
    _defer(stack, stack.comment(number))
    stack.submit([{"type": "incident.set_status", "incident": "dedup:back-off", "status": 20}])
    stack.start_workers()
    # By now, the workers have found the waiting commands.
    time.sleep(2)
    ids = stack.submit([open_item("Unrelated")], token=SERVICE)
    return (_seconds_to_apply(stack, ids, UNRELATED_GIVE_UP_SECONDS),)


def _burst_seconds(stack: Stack, numbers: Sequence[str]) -> float:
    """Return the median of the seconds until a comment on each of these incidents is applied.

    The first burst is not counted. No burst begins after ``GIVE_UP_SECONDS``.
    """
    until = time.monotonic() + GIVE_UP_SECONDS
    bursts = [_burst(stack, numbers)]
    while len(bursts) <= BURSTS and time.monotonic() < until:
        bursts.append(_burst(stack, numbers))
    return median(bursts[1:] or bursts)


def _burst(stack: Stack, numbers: Sequence[str]) -> float:
    ids = stack.submit([comment_on(number) for number in numbers])
    return _seconds_to_apply(stack, ids, GIVE_UP_SECONDS)


def _defer(stack: Stack, command: str) -> None:
    """Defer a command, as after a failed attempt, for longer than the load lasts."""
    stack.sql(
        "UPDATE commands SET attempts = 1, next_attempt_at = clock_timestamp() + interval '1 hour' WHERE id = %s::uuid",
        command,
    )


# --- rates -----------------------------------------------------------------------------------------------------


def drain(stack: Stack, scale: float) -> Figures:
    """Return the seconds in which two workers apply 10,000 comments on 200 incidents."""
    numbers = stack.open_incidents(INCIDENTS)
    return (_seconds_to_drain(stack, [comment_on(numbers[n % INCIDENTS]) for n in range(_scaled(10_000, scale))]),)


def statistics(stack: Stack, scale: float) -> Figures:
    """Return the comments applied per second: 15,000 on 5,000 incidents, with the statistics of an empty queue."""
    numbers = stack.open_incidents(_scaled(5_000, scale))
    stack.settle()
    stack.sql("ALTER TABLE commands SET (autovacuum_enabled = false)")
    stack.sql("VACUUM (ANALYZE) commands")
    items = [comment_on(number) for _ in range(3) for number in numbers]
    return (len(items) / _seconds_to_drain(stack, items),)


def observations(stack: Stack, scale: float) -> Figures:
    """Return the throughput of two workers divided by that of one, for observed values of 50 rules."""
    created = stack.outcomes(stack.submit([_rule(number) for number in range(RULES)]))
    rules = [int(body["id"]) for body in created]
    values = _values(rules)
    stack.outcomes(stack.submit([next(values) for _ in range(RULES)], token=SERVICE))
    items = [next(values) for _ in range(_scaled(20_000, scale))]
    rates: dict[int, list[float]] = {1: [], 2: []}
    # In this order, the growth of the tables affects one and two workers alike.
    for workers in (1, 2, 2, 1):
        _submit_to_stopped_workers(stack, items, token=SERVICE)
        stack.start_workers(workers)
        rates[workers].append(_rate_from_now_on(stack))
        items = [next(values) for _ in items]
    return (sum(rates[2]) / sum(rates[1]),)


def _seconds_to_drain(stack: Stack, items: Sequence[JSON]) -> float:
    """Submit commands, and return the seconds in which two workers, started after that, apply all of them."""
    ids = _submit_to_stopped_workers(stack, items)
    began_at = stack.start_workers()
    stack.finish(within_seconds=SETUP_SECONDS)
    stack.outcomes(ids)
    return _seconds_between(began_at, _last_finished_at(stack))


def _submit_to_stopped_workers(stack: Stack, items: Sequence[JSON], *, token: str = PERSON) -> list[str]:
    stack.settle()
    stack.stop_workers()
    return stack.submit(items, token=token)


def _rate_from_now_on(stack: Stack) -> float:
    """Wait until nothing waits, and return the commands finished per second, without those finished before."""
    began_at = stack.now()
    stack.finish(within_seconds=SETUP_SECONDS)
    return _finished_since(stack, began_at) / _seconds_between(began_at, _last_finished_at(stack))


def _rule(number: int) -> JSON:
    return {
        "type": "alert_rule.create",
        "name": f"Errors of shard {number}",
        "aggregate": "count()",
        "query": "",
        "timeWindow": 10,
        "thresholdType": 0,
        "environment": "prod",
        "projects": ["p1"],
        "triggers": [{"label": "critical", "alertThreshold": 50}],
    }


def _values(rules: Sequence[int]) -> Iterator[JSON]:
    """Yield values above the threshold, which cycle through the rules, each a second later than the one before."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    while True:
        for rule in rules:
            yield {
                "type": "metric.observe",
                "alertRule": rule,
                "project": "p1",
                "value": 60,
                "timestamp": at.isoformat(),
            }
            at += timedelta(seconds=1)


# --- history and order -----------------------------------------------------------------------------------------


def snapshot(stack: Stack, scale: float) -> Figures:
    """Return the milliseconds of a claim and a sweep while a snapshot older than 500,000 finished commands is open."""
    stack.stop_workers()
    with psycopg.connect(stack.database_url) as old:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT 1")
        for _ in range(10):
            _finish_commands(stack, _scaled(50_000, scale))
        time.sleep(FLOOR_SECONDS)
        stack.stop_services()
        cost = json.loads(stack.run_module(Path(claim_cost.__file__), stack.database_url))
    return cost["claim"], cost["sweep"]


def _finish_commands(stack: Stack, count: int) -> None:
    """Write commands that are accepted and applied while a snapshot is open."""
    stack.sql(_ACCEPT_PASSED.format(count))
    stack.sql(_APPLY_PASSED)


_ACCEPT_PASSED: Final = """
INSERT INTO commands (id, type, subject, lane, organization_id, user_id, caller, payload)
SELECT gen_random_uuid(), 'comment.post', 'incident:1:' || 100000 + g % 500, 'commands', 1, 1, 'passed',
       jsonb_build_object('incident', '1', 'comment', 'passed')
FROM generate_series(1, {}) AS g
"""
_APPLY_PASSED: Final = """
UPDATE commands SET state = 'applied', outcome_status = 201, finished_at = clock_timestamp(), attempts = 1
WHERE caller = 'passed' AND state = 'accepted'
"""


def reopened(stack: Stack, scale: float) -> Figures:
    """Return how often a change by key had a wrong outcome when it was sent after a command that reopens by number."""
    return (sum(_is_wrong_round(stack, f"reopened-{each}") for each in range(_scaled(REOPENINGS, scale))),)


def _is_wrong_round(stack: Stack, key: str) -> bool:
    [number] = stack.open_incidents(1, dedupKey=key)
    stack.outcomes(stack.submit([_status(number, 2)]))
    ids = stack.submit([_status(number, 1)]) + stack.submit([_status(f"dedup:{key}", 20)])
    try:
        stack.outcomes(ids)
    except StressError:
        return True
    return False


def _status(incident: str, status: int) -> JSON:
    return {"type": "incident.set_status", "incident": incident, "status": status}


# --- shared ----------------------------------------------------------------------------------------------------


def _scaled(count: int, scale: float) -> int:
    return max(1, round(count * scale))


def _seconds_to_apply(
    stack: Stack, ids: Sequence[str], give_up_seconds: float, *, since: datetime | None = None
) -> float:
    """Return the seconds from a time, or from the first acceptance, until the last of these commands is finished."""
    if not stack.finish(ids, within_seconds=give_up_seconds):
        return math.inf
    stack.outcomes(ids)
    times = "SELECT min(accepted_at), max(finished_at) FROM commands WHERE id = ANY(%s::uuid[])"
    first, last = stack.sql(times, list(ids))[0]
    return max(0.0, _seconds_between(since or first, last))


def _seconds_between(first: datetime, last: datetime) -> float:
    return (last - first).total_seconds()


def _last_finished_at(stack: Stack) -> datetime:
    last: datetime = stack.sql("SELECT max(finished_at) FROM commands")[0][0]
    return last


def _finished_since(stack: Stack, began_at: datetime) -> int:
    return int(stack.sql("SELECT count(*) FROM commands WHERE finished_at > %s", began_at)[0][0])


def _wait_until(condition: Callable[[], bool], *, within_seconds: float = 60) -> None:
    until = time.monotonic() + within_seconds
    while not condition():
        if time.monotonic() > until:
            raise StressError(f"the workers applied nothing within {within_seconds:.0f} s")
        time.sleep(0.02)
