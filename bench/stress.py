"""Measure tocsin under stress in this checkout and in an older one, alternately, and compare the figures with goals.

Every load runs on a stack of its own: embedded servers, a database, and the processes of one of the checkouts. Both use
this checkout's Python environment. The exit code is 0 if every goal is met, and 1 otherwise.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import psycopg

from bench import stress_loads
from bench.compare import HERE, CheckoutError, check_imports
from bench.output import progress
from bench.stress_loads import Figures, Measure
from bench.stress_stack import StressError, running_stack
from workers.stack.managed_process import StackError


@dataclass(frozen=True)
class Goal:
    """What a figure of this checkout has to be. ``is_met`` takes the medians of the base and of this checkout."""

    text: str
    is_met: Callable[[float, float], bool]


@dataclass(frozen=True)
class Figure:
    """A figure that a load measures, and its goal. A load that gives up does so after ``limit`` units."""

    label: str
    unit: str
    goal: Goal
    limit: float = math.inf


@dataclass(frozen=True)
class Load:
    """A load and the figures that it measures, in order."""

    measure: Measure
    figures: tuple[Figure, ...]


def at_most(most: float) -> Goal:
    """Return the goal that the figure is at most ``most``."""
    return Goal(f"≤ {most:g}", lambda _, this: this <= most)


def at_least(least: float) -> Goal:
    """Return the goal that the figure is at least ``least``."""
    return Goal(f"≥ {least:g}", lambda _, this: this >= least)


def at_most_of_base(times: float) -> Goal:
    """Return the goal that the figure is at most ``times`` that of the base."""
    return Goal(f"≤ {times:g} × base", lambda base, this: this <= times * base)


def at_least_of_base(times: float) -> Goal:
    """Return the goal that the figure is at least ``times`` that of the base."""
    return Goal(f"≥ {times:g} × base", lambda base, this: this >= times * base)


_GIVE_UP: Final = stress_loads.GIVE_UP_SECONDS
LOADS: Final[Mapping[str, Load]] = {
    "interactive": Load(
        stress_loads.interactive,
        (Figure("one comment while 12,000 bulk comments on 200 incidents wait", "s", at_most(0.5), _GIVE_UP),),
    ),
    "stalled": Load(
        stress_loads.stalled,
        (Figure("200 comments on 200 incidents, with / without 1,500 commands stalled", "×", at_most(1.2)),),
    ),
    "storm": Load(
        stress_loads.storm,
        (Figure("60 comments by hand on keyed incidents, 140,000 keyed openings wait", "s", at_most(3), _GIVE_UP),),
    ),
    "storm_bulk": Load(
        stress_loads.storm_bulk,
        (Figure("60 comments in one bulk request, the rest as above", "s", at_most(3), _GIVE_UP),),
    ),
    "unrelated": Load(
        stress_loads.unrelated,
        (
            Figure(
                "an unrelated opening while one incident is in back-off",
                "s",
                at_most(0.5),
                stress_loads.UNRELATED_GIVE_UP_SECONDS,
            ),
        ),
    ),
    "drain": Load(
        stress_loads.drain, (Figure("drain of 10,000 commands on 200 incidents", "s", at_most_of_base(0.5)),)
    ),
    "statistics": Load(
        stress_loads.statistics,
        (Figure("15,000 on 5,000 incidents, statistics of an empty queue", "applied/s", at_least_of_base(2)),),
    ),
    "snapshot": Load(
        stress_loads.snapshot,
        (
            Figure("claim with an old snapshot and 500,000 commands passed", "ms", at_most(15)),
            Figure("sweep with an old snapshot and 500,000 commands passed", "ms", at_most(15)),
        ),
    ),
    "reopened": Load(
        stress_loads.reopened, (Figure("reopen by number, then change by key, 60 rounds", "wrong", at_most(0)),)
    ),
    "observations": Load(
        stress_loads.observations,
        (Figure("observations of 50 rules, two workers / one worker", "×", at_least(1.6)),),
    ),
}


@dataclass(frozen=True)
class Options:
    """The options of a run."""

    base: Path
    rounds: int
    only: Sequence[str]
    scale: float
    data: Path | None


Results = Mapping[tuple[str, Path], Sequence[Figures]]
"""The figures of each round in which a load could be measured, by load and checkout."""


def main() -> int:
    """Measure the loads, print the table, and return the exit code."""
    options = _parse_options()
    # Ends the running stack and removes its files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        for checkout in (HERE, options.base):
            check_imports(checkout)
    except CheckoutError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    rows = list(_rows(options, measure_all(options)))
    print(_table(options, rows))
    return 0 if all(row.is_met for row in rows) else 1


def _parse_options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m bench.stress", description=__doc__)
    parser.add_argument("base", type=Path, help="the directory of the older checkout")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each load per checkout (default: 5)")
    parser.add_argument("--only", action="append", choices=LOADS, help="measure only this load; may be repeated")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of commands (default: 1)")
    parser.add_argument("--data", type=Path, help="keep the servers' files and all logs in this new directory")
    options = parser.parse_args()
    return Options(options.base.resolve(), options.rounds, options.only or list(LOADS), options.scale, options.data)


def measure_all(options: Options) -> Results:
    """Run each load in both checkouts, which alternate in going first. Report loads that fail, and go on."""
    results: dict[tuple[str, Path], list[Figures]] = defaultdict(list)
    for number in range(1, options.rounds + 1):
        for name in options.only:
            for checkout in (options.base, HERE) if number % 2 else (HERE, options.base):
                began = time.monotonic()
                data = options.data and options.data / f"{number}-{name}-{'this' if checkout == HERE else 'base'}"
                try:
                    with running_stack(checkout, data) as stack:
                        figures = LOADS[name].measure(stack, options.scale)
                except (StressError, StackError, OSError, psycopg.Error, subprocess.SubprocessError) as error:
                    progress(f"round {number}, {name}, {checkout}: failed: {error}")
                    continue
                results[name, checkout].append(figures)
                text = ", ".join(map(_format, LOADS[name].figures, figures))
                progress(f"round {number}, {name}, {checkout}: {text} ({time.monotonic() - began:.0f} s)")
    return results


@dataclass(frozen=True)
class Row:
    """A row of the table: the medians of a figure, which are NaN if no round could be measured."""

    figure: Figure
    base: float
    this: float

    @property
    def is_met(self) -> bool:
        """Whether the goal is met. It is not if this checkout, or a base that the goal names, was not measured."""
        return self.figure.goal.is_met(self.base, self.this)


def _rows(options: Options, results: Results) -> Iterator[Row]:
    for name in options.only:
        for index, figure in enumerate(LOADS[name].figures):
            base, this = (_median(results.get((name, checkout), []), index) for checkout in (options.base, HERE))
            yield Row(figure, base, this)


def _median(rounds: Sequence[Figures], index: int) -> float:
    return median(each[index] for each in rounds) if rounds else math.nan


def _table(options: Options, rows: Sequence[Row]) -> str:
    facts = f"medians of {options.rounds} rounds, scale {options.scale:g}, load average {os.getloadavg()[1]:.1f}"
    lines = [
        f"This checkout compared with {options.base}: {facts}",
        "",
        "| load | base | this | this / base | goal | met |",
        "|---|---:|---:|---:|---|---|",
    ]
    for row in rows:
        figures = f"{_format(row.figure, row.base)} | {_format(row.figure, row.this)} | {_ratio(row)}"
        lines.append(f"| {row.figure.label} | {figures} | {row.figure.goal.text} | {'yes' if row.is_met else 'no'} |")
    return "\n".join(lines)


def _ratio(row: Row) -> str:
    if not row.base or not math.isfinite(row.base) or not math.isfinite(row.this):
        return "–"
    return f"{row.this / row.base:.2f}"


def _format(figure: Figure, value: float) -> str:
    if math.isnan(value):
        return "failed"
    if math.isinf(value):
        return f"> {figure.limit:g} {figure.unit}" if math.isfinite(figure.limit) else "gave up"
    return f"{value:,.2f} {figure.unit}" if value < 100 else f"{value:,.0f} {figure.unit}"


if __name__ == "__main__":
    sys.exit(main())
