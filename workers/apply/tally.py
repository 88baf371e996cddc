"""What a batch's result adds to the worker's metrics."""

from __future__ import annotations

from collections import Counter, defaultdict

import orjson

from models.enums import CommandState
from models.messaging.command_ledger import CommandOutcome
from models.refusals import reason_code
from workers.apply.applier import BatchResult
from workers.apply.metrics import WorkerMetrics


def count_batch(metrics: WorkerMetrics, result: BatchResult) -> None:
    """Count the commands that a batch has finished, and observe how long they waited and took."""
    outcomes = Counter((claimed.type, outcome.state.value, _reason(outcome)) for claimed, outcome in result.applied)
    outcomes.update((command.type, CommandState.DEAD.value, reason.value) for command, reason in result.dead)
    metrics.count_finished(outcomes)
    if result.applied:
        waits: dict[str, list[float]] = defaultdict(list)
        for claimed, _ in result.applied:
            # Two clocks: `tocsin doctor` says how far they are apart.
            waits[claimed.lane].append(max(0.0, result.started_at - claimed.accepted_at.timestamp()))
        metrics.observe_batch(waits, result.seconds)


def _reason(outcome: CommandOutcome) -> str:
    """Return the code of the outcome's problem details, or an empty string if it was applied."""
    if outcome.state is not CommandState.REJECTED:
        return ""
    members = {} if outcome.problem is None else orjson.loads(outcome.problem)
    return str(members.get("code", reason_code(outcome.status)))
