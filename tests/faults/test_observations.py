"""Observations are applied once and in order, as a reference model predicts, whichever workers fail."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from sqlalchemy import update

from models.messaging.command_ledger import commands
from tasks.commands.base import Command
from tasks.commands.comments import PostComment
from tests.builders import a_trigger, an_action
from tests.faults.ledger import apply_in_killed_process, end_back_off, states
from tests.handlers.acme import Acme
from tests.handlers.observed_rule import START, ObservedRule
from tests.harness import Harness

MEM, ANA = 11, 12
LABELS = {"warning": 50, "critical": 100}


@pytest.fixture
def acme(harness: Harness) -> Acme:
    return Acme(harness.engine)


@pytest.fixture
def watch(harness: Harness, acme: Acme) -> ObservedRule:
    return observed_rule(harness, acme)


def observed_rule(harness: Harness, acme: Acme) -> ObservedRule:
    """Return a rule that notifies Mem of values above 50 (warning) and Ana of values above 100 (critical)."""
    return ObservedRule(
        harness, acme, a_trigger("critical", 100, an_action(ANA)), a_trigger("warning", 50, an_action(MEM))
    )


# --- order, with several workers ---------------------------------------------------------------------------------


@dataclass
class RuleModel:
    """A reference model of one rule on one project. All values must arrive within ten minutes."""

    last: datetime = START - timedelta(days=1)
    status: int | None = None
    active: set[str] = field(default_factory=set)
    ever_fired: set[str] = field(default_factory=set)
    fired_in_incident: set[str] = field(default_factory=set)
    incidents: int = 0
    changes: list[tuple[int, int]] = field(default_factory=list)
    deliveries: list[tuple[int, str, int]] = field(default_factory=list)

    def observe(self, value: float, timestamp: datetime) -> tuple[int, list[str], list[str], str | None]:
        """Apply a value; return the HTTP status, the fired and the resolved triggers, and why it was ignored."""
        if timestamp <= self.last:
            return 200, [], [], "repeated timestamp" if timestamp == self.last else "out of order"
        self.last = timestamp
        before = self.status or 1
        fired: list[str] = []
        resolved: list[str] = []
        cooling_down = False
        for label, threshold in LABELS.items():
            if value > threshold and label not in self.active:
                cooling_down |= label in self.ever_fired
                if label not in self.ever_fired:
                    fired.append(label)
                    self._fire(label)
            elif value <= threshold and label in self.active:
                resolved.append(label)
                self.active.remove(label)
                self._update_status()
        now = self.changes[-1][1] if fired or resolved else before
        if now != before:
            self._notify(before, now)
        if fired or resolved or not cooling_down:
            return 201, fired, resolved, None
        return 200, [], [], "cooling down"

    def _fire(self, label: str) -> None:
        if self.status is None:
            self.incidents += 1
            self.status, self.fired_in_incident = 1, set()
        self.active.add(label)
        self.ever_fired.add(label)
        self.fired_in_incident.add(label)
        self._update_status()

    def _update_status(self) -> None:
        new = 20 if "critical" in self.active else 10 if self.active else 2
        if new != self.status:
            self.changes.append((self.status or 1, new))
        self.status = None if new == 2 else new

    def _notify(self, before: int, now: int) -> None:
        method = "fire" if now == 20 or before == 1 else "resolve"
        everyone = now == 20 or (method == "resolve" and "critical" in self.fired_in_incident)
        self.deliveries += [(person, method, now) for person in ([MEM, ANA] if everyone else [MEM])]


def shuffled_values(rng: random.Random, count: int) -> list[tuple[float, datetime]]:
    """Return values that are a minute apart; some arrive late and some twice."""
    values = [(rng.choice([10, 30, 60, 80, 120, 150]), START + timedelta(minutes=at)) for at in range(count)]
    again = rng.sample(values, count // 3)
    keys = [(index + rng.uniform(0, 4), each) for index, each in enumerate(values)]
    keys += [(values.index(each) + rng.uniform(1, 9), each) for each in again]
    return [each for _, each in sorted(keys)]


@contextmanager
def three_running_workers(harness: Harness) -> Iterator[None]:
    """Run three workers for the duration of the block."""
    stopped = threading.Event()

    def work(name: str) -> None:
        worker = harness.applier(name)
        while not stopped.wait(0.02):
            worker.drain(())

    threads = [threading.Thread(target=work, args=(f"worker-{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_and_repeated_values_on_three_workers_match_the_reference_model(
    harness: Harness, acme: Acme, seed: int
) -> None:
    rng = random.Random(seed)
    watches = [observed_rule(harness, acme) for _ in range(4)]
    models = [RuleModel() for _ in watches]
    streams = [shuffled_values(rng, 45) for _ in watches]
    turns = [index for index, stream in enumerate(streams) for _ in stream]
    rng.shuffle(turns)
    expected, ids = [], []

    with three_running_workers(harness):
        for start in range(0, len(turns), 40):
            asked: list[Command] = []
            for index in turns[start : start + 40]:
                value, timestamp = streams[index].pop(0)
                expected.append(models[index].observe(value, timestamp))
                asked.append(watches[index].observation(value, timestamp=timestamp.isoformat()))
            ids += harness.accept_all(asked, **watches[0].by_service())
    harness.apply()

    answers = [(row["outcome_status"], row["outcome_body"]) for row in map(harness.ledger_row, ids)]
    assert [(code, body["fired"], body["resolved"], body.get("ignored")) for code, body in answers] == expected
    assert {row["attempts"] for row in map(harness.ledger_row, ids)} == {1}
    for watch, model in zip(watches, models, strict=True):
        assert_matches(model, watch)
    opened = sorted(row.identifier for watch in watches for row in watch.incidents())
    assert opened == list(range(2, 2 + len(opened)))


def assert_matches(model: RuleModel, watch: ObservedRule) -> None:
    """Assert that the rule's incidents, status changes, deliveries and events match the model."""
    found = watch.incidents()
    assert (len(found), watch.status_changes()) == (model.incidents, model.changes)
    deliveries = watch.rows("SELECT user_id, method, status FROM deliveries WHERE rule_id = :rule ORDER BY id")
    assert sorted(tuple(row) for row in deliveries) == sorted(model.deliveries)
    # Opening and each status change increment the version and emit an event, without a gap.
    assert sum(row.version for row in found) == model.incidents + len(model.changes)
    for row in found:
        sequences = [int(event["sequence"]) for event in watch.events(f"incidents/{row.identifier}")]
        assert sequences == list(range(1, row.version + 1))
    sequences = [int(event["sequence"]) for event in watch.events(f"alert-rules/{watch.rule_id}")]
    assert sequences == list(range(1, len(sequences) + 1))


def test_values_and_comments_leave_no_gaps_in_an_incidents_versions(
    harness: Harness, acme: Acme, watch: ObservedRule
) -> None:
    watch.observe(60)
    [incident] = watch.incidents()
    comment = PostComment.model_validate({"incident": incident.identifier, "comment": "Looking."})
    ids = []

    with three_running_workers(harness):
        for number in range(30):
            ids += harness.accept_all([watch.observation(70)] * 3, **watch.by_service())
            ids.append(harness.accept(comment, **acme.by("mem" if number % 2 else "ana")))
    harness.apply()

    [incident] = watch.incidents()
    assert {row["attempts"] for row in map(harness.ledger_row, ids)} == {1}
    assert incident.version == 2 + 30
    sequences = [int(event["sequence"]) for event in watch.events(f"incidents/{incident.identifier}")]
    assert sequences == list(range(1, 2 + 30 + 1))


# --- crashes -----------------------------------------------------------------------------------------------------


def test_a_value_that_kills_its_worker_is_dead_after_five_attempts_and_the_others_are_unaffected(
    harness: Harness, watch: ObservedRule
) -> None:
    values = [10, 60, 120, 66.6, 80, 10]
    ids = harness.accept_all([watch.observation(value) for value in values], **watch.by_service())

    deaths = 0
    while "accepted" in states(harness, ids):
        deaths += (
            apply_in_killed_process(harness, "metric.observe", lambda command: command.value == 66.6) == -signal.SIGKILL
        )
        end_back_off(harness)

    assert deaths == 5
    assert states(harness, ids) == ["applied"] * 3 + ["dead"] + ["applied"] * 2
    assert watch.status_changes() == [(1, 10), (10, 20), (20, 10), (10, 2)]
    assert [row.value for row in watch.rows("SELECT value FROM alert_rule_observations ORDER BY number")] == [
        10, 60, 120, 80, 10,
    ]  # fmt: skip


def test_a_worker_that_dies_before_committing_leaves_no_partial_changes(harness: Harness, watch: ObservedRule) -> None:
    ids = harness.accept_all([watch.observation(value) for value in (60, 120, 10)], **watch.by_service())
    apply_in_killed_process(harness, "metric.observe", lambda command: command.value == 10)
    before = (watch.incidents(), watch.deliveries(), watch.observation_results())

    harness.apply()
    end_back_off(harness)
    harness.apply()

    assert before == ([], [], [])
    assert states(harness, ids) == ["applied"] * 3
    assert watch.status_changes() == [(1, 10), (10, 20), (20, 2)]


# --- batches -----------------------------------------------------------------------------------------------------


def test_a_retried_value_is_applied_in_a_batch_of_its_own(harness: Harness, watch: ObservedRule) -> None:
    first, second = watch.accept(60), watch.accept(120)
    with harness.engine.begin() as connection:
        connection.execute(update(commands).where(commands.c.id == first).values(attempts=1))

    harness.apply()

    assert [done.finished for done in harness.results] == [[first], [second]]


def test_a_thousand_values_for_one_rule_are_applied_in_few_transactions(harness: Harness, watch: ObservedRule) -> None:
    ids = harness.accept_all(
        [watch.observation(60 if number % 2 else 10) for number in range(1000)], **watch.by_service()
    )

    harness.apply()

    assert set(states(harness, ids)) == {"applied"}
    assert len(harness.results) == 5
