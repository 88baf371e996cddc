"""Measure tocsin and the baseline alternately on the same servers, and save a report in ``bench/results``."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import report
from bench.machine import environment
from bench.output import current_commit, progress, save, temporary_directory
from bench.systems import Baseline, System, Tocsin, run_load, wait_until_applied
from workers.stack.managed_process import StackError
from workers.stack.servers import EmbeddedServers, embedded_servers

WARM_UP_COMMANDS = 200


@dataclass(frozen=True)
class Size:
    """The size of a run: the numbers of rounds, of commands per system and phase, and of worker processes.

    The baseline gets fewer commands, because its rates do not depend on their number.
    """

    rounds: int
    tocsin: int
    baseline: int
    waits: int
    subjects: int = 200
    workers: int = 2
    connections: int = 64


FULL = Size(rounds=3, tocsin=20_000, baseline=1_500, waits=100)
QUICK = Size(rounds=1, tocsin=6_000, baseline=1_000, waits=40)


def main() -> int:
    """Run the benchmark and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small round, in less than a minute")
    parser.add_argument("--only", choices=["tocsin", "baseline"], help="measure one system and save nothing")
    parser.add_argument("--data", type=Path, help="keep the servers' files and all logs in this new directory")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    started_at = datetime.now(UTC)
    try:
        with ExitStack() as cleanup:
            servers = cleanup.enter_context(embedded_servers(options.data or temporary_directory(cleanup)))
            rounds = _measure(servers, size, only=options.only)
            facts = environment(servers)
    except (StackError, TimeoutError, subprocess.CalledProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    result = {
        "measured_at": started_at.isoformat(timespec="seconds"),
        "commit": current_commit(),
        "seconds": round((datetime.now(UTC) - started_at).total_seconds()),
        "quick": options.quick,
        "size": dataclasses.asdict(size),
        **facts,
        "rounds": rounds,
    }
    if not options.only:
        result["ratios"] = report.ratios(rounds)
    page = report.page(result)
    print(page)
    if not options.only:
        save(result, page, started_at, suffix="-quick" if options.quick else "")
    return 0


def _measure(servers: EmbeddedServers, size: Size, *, only: str | None) -> list[dict[str, Any]]:
    systems: list[System] = []
    if only != "baseline":
        systems.append(Tocsin(servers, subjects=size.subjects, workers=size.workers))
    if only != "tocsin":
        systems.append(Baseline(servers, subjects=size.subjects, workers=size.workers))
    rounds = []
    for number in range(1, size.rounds + 1):
        figures: dict[str, Any] = {}
        # Alternate the order, so that neither system always runs on the warmer machine.
        for system in systems if number % 2 else reversed(systems):
            progress(f"round {number} of {size.rounds}: {system.name}")
            figures[system.name] = _round(system, size)
        rounds.append(figures)
    return rounds


def _round(system: System, size: Size) -> dict[str, Any]:
    """Run one round and return its figures.

    Submit commands while the workers are stopped, let the workers drain the backlog, then post one command at a time.
    """
    count = size.tocsin if system.name == "tocsin" else size.baseline
    try:
        system.start(system.serving_processes())
        began_at = system.database_time()
        accept = {"mode": "accept", "connections": size.connections, "prefer": system.accept_prefer}
        warm_up = run_load(system.load(**accept, count=WARM_UP_COMMANDS))
        cpu = system.cpu_seconds()
        accepting = run_load(system.load(**accept, count=count))
        accept_cpu = _difference(system.cpu_seconds(), cpu)
        accepted, warm = accepting["statuses"].get("202", 0), warm_up["statuses"].get("202", 0)
        cpu, before = system.cpu_seconds(), time.monotonic()
        system.start(system.worker_processes())
        started = time.monotonic() - before
        applied = wait_until_applied(system, began_at, accepted + warm, within_seconds=60)
        apply_cpu = _difference(system.cpu_seconds(), cpu)
        latency = {"mode": "latency", "connections": 1, "prefer": system.latency_prefer, "count": size.waits}
        waits = run_load(system.load(**latency))
    finally:
        system.stop()
    done = applied.progress
    return {
        "accept": {
            "commands": accepted,
            "statuses": accepting["statuses"],
            "seconds": round(accepting["seconds"], 3),
            "per_second": round(accepted / accepting["seconds"]),
            "latency_ms": accepting["latency_ms"],
            "generator_cpu_seconds": round(accepting["generator_cpu_seconds"], 2),
            "cpu_seconds": accept_cpu,
        },
        "apply": {
            "commands": done.finished,
            "applied": done.applied,
            "inbox_rows": done.inbox,
            "first_to_last_seconds": round(done.finish_seconds, 3),
            "first_to_last_inbox_seconds": round(done.inbox_seconds, 3),
            "per_second": round(_rate(done.applied, done.finish_seconds)),
            "inbox_per_second": round(_rate(done.inbox, done.inbox_seconds)),
            "wall_seconds_to_finished": round(started + applied.finished_after, 2),
            "wall_seconds_to_inbox": round(started + applied.inbox_after, 2),
            "wall_seconds_to_idle": round(started + applied.idle_after, 2),
            "cpu_seconds": apply_cpu,
        },
        "wait": waits,
    }


def _rate(count: int, seconds: float) -> float:
    return (count - 1) / seconds if seconds > 0 else 0.0


def _difference(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {name: round(used - before.get(name, 0.0), 2) for name, used in after.items()}


if __name__ == "__main__":
    sys.exit(main())
