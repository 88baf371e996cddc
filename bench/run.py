"""``make bench``: tocsin and the plain way, in turn, on the same servers; a table, also under ``bench/results``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import report
from bench.machine import machine, versions
from bench.sides import Plain, Side, Tocsin, generate, wait_until_done
from workers.stack.managed_process import StackError
from workers.stack.servers import EmbeddedServers, embedded_servers

RESULTS = Path(__file__).parent / "results"
WARM_UP = 200


@dataclass(frozen=True)
class Size:
    """How much is measured. The plain way gets fewer commands: its rates do not depend on how many there are."""

    rounds: int
    tocsin: int
    plain: int
    waits: int
    subjects: int = 200
    workers: int = 2
    connections: int = 64


FULL = Size(rounds=3, tocsin=20_000, plain=1_500, waits=100)
QUICK = Size(rounds=1, tocsin=6_000, plain=1_000, waits=40)


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small round, less than a minute")
    parser.add_argument("--only", choices=["tocsin", "plain"], help="one side alone; nothing is saved")
    parser.add_argument("--data", type=Path, help="keep the servers' files and all logs in this new folder")
    wishes = parser.parse_args()
    size = QUICK if wishes.quick else FULL
    began = datetime.now(UTC)
    try:
        with ExitStack() as cleanup:
            data = wishes.data or temporary(cleanup)
            servers = cleanup.enter_context(embedded_servers(data))
            figures = _measure(servers, size, only=wishes.only)
            facts = {"machine": machine(), "versions": versions(servers)}
    except (StackError, TimeoutError, subprocess.CalledProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    result = {
        "measured_at": began.isoformat(timespec="seconds"),
        "commit": commit(),
        "seconds": round((datetime.now(UTC) - began).total_seconds()),
        "quick": wishes.quick,
        "size": dataclasses.asdict(size),
        **facts,
        "rounds": figures,
    }
    if not wishes.only:
        result["ratios"] = report.ratios(figures)
    page = report.page(result)
    print(page)
    if not wishes.only:
        _save(result, page, began)
    return 0


def _measure(servers: EmbeddedServers, size: Size, *, only: str | None) -> list[dict[str, Any]]:
    sides: list[Side] = []
    if only != "plain":
        sides.append(Tocsin(servers, subjects=size.subjects, workers=size.workers))
    if only != "tocsin":
        sides.append(Plain(servers, subjects=size.subjects, workers=size.workers))
    rounds = []
    for number in range(1, size.rounds + 1):
        figures: dict[str, Any] = {}
        # Whoever was first is last in the next round.
        for side in sides if number % 2 else reversed(sides):
            say(f"round {number} of {size.rounds}: {side.name}")
            figures[side.name] = _round(side, size)
        rounds.append(figures)
    return rounds


def _round(side: Side, size: Size) -> dict[str, Any]:
    """Accept with the workers stopped, let them work it off, then one request at a time."""
    count = size.tocsin if side.name == "tocsin" else size.plain
    try:
        side.start(side.doorway())
        mark = side.mark()
        posting = {"mode": "accept", "connections": size.connections, "prefer": side.accept_prefer}
        warm = generate(side.order(**posting, count=WARM_UP))
        cpu = side.cpu_seconds()
        accepting = generate(side.order(**posting, count=count))
        accept_cpu = _difference(side.cpu_seconds(), cpu)
        accepted, waiting = accepting["statuses"].get("202", 0), warm["statuses"].get("202", 0)
        cpu, before = side.cpu_seconds(), time.monotonic()
        side.start(side.workforce())
        started = time.monotonic() - before
        done, finished, inboxes, settled = wait_until_done(side, mark, accepted + waiting, within_seconds=60)
        apply_cpu = _difference(side.cpu_seconds(), cpu)
        order = {"mode": "latency", "connections": 1, "prefer": side.latency_prefer, "count": size.waits}
        waits = generate(side.order(**order))
    finally:
        side.stop()
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
            "outside_seconds_with_start": round(started + finished, 2),
            "outside_seconds_to_inbox_with_start": round(started + inboxes, 2),
            "outside_seconds_to_settled_with_start": round(started + settled, 2),
            "cpu_seconds": apply_cpu,
        },
        "wait": waits,
    }


def _rate(count: int, seconds: float) -> float:
    return (count - 1) / seconds if seconds > 0 else 0.0


def _difference(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {name: round(used - before.get(name, 0.0), 2) for name, used in after.items()}


def temporary(cleanup: ExitStack) -> Path:
    """A folder that goes when the run is over."""
    folder = Path(tempfile.mkdtemp(prefix="tocsin-bench-", dir="/tmp"))
    cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _save(result: dict[str, Any], page: str, at: datetime) -> None:
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{at:%Y-%m-%d}-{result['commit']}{'-quick' if result['quick'] else ''}"
    stem.with_name(stem.name + ".json").write_text(json.dumps(result, indent=2) + "\n")
    stem.with_name(stem.name + ".md").write_text(page + "\n")
    say(f"saved as {os.path.relpath(stem)}.md and .json")


def commit() -> str:
    """The commit that is measured."""
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"


def say(what: str) -> None:
    """Tell whoever waits how far it is."""
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
