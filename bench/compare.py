"""Compare tocsin in this checkout with tocsin in another one, in alternating runs on the same machine.

Each run executes ``python -m bench.run --quick --only tocsin`` in one of the checkouts, with that checkout's own
benchmark, servers and processes. The other checkout may be at an older commit. Both use this checkout's Python
environment.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from bench.output import progress

HERE: Final = Path(__file__).parents[1]
SOURCES: Final = (".", "clients/python")

_ACCEPTED: Final = re.compile(r"^\| accepted/s[^|]*\| ([\d,.]+) \|$", re.MULTILINE)
_APPLIED: Final = re.compile(r"^\| applied/s[^|]*\| ([\d,.]+) \|$", re.MULTILINE)


class Rates(NamedTuple):
    """Commands per second in one run."""

    accepted: float
    applied: float


class Round(NamedTuple):
    """The rates of both checkouts in one round."""

    this: Rates
    other: Rates


class CheckoutError(Exception):
    """Raised when a checkout cannot be benchmarked."""


def main() -> int:
    """Measure both checkouts alternately, print the rates, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("other", type=Path, help="the directory of the other checkout")
    parser.add_argument("--rounds", type=int, default=5, help="runs per checkout, half a minute each (default: 5)")
    options = parser.parse_args()
    other = options.other.resolve()
    try:
        for checkout in (HERE, other):
            check_imports(checkout)
        rounds = [measure_round(other, number, options.rounds) for number in range(1, options.rounds + 1)]
    except CheckoutError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(report(other, rounds))
    return 0


def check_imports(checkout: Path) -> None:
    """Check that Python imports tocsin from the checkout, and not from an installed copy.

    :raises CheckoutError: if Python imports another copy.
    """
    imported = run(checkout, "-c", "import gateway; print(gateway.__file__)").strip()
    if not Path(imported).is_relative_to(checkout):
        raise CheckoutError(f"{checkout}: `gateway` is imported from {imported}: name the top directory of a checkout")


def measure_round(other: Path, number: int, rounds: int) -> Round:
    """Measure each checkout once, in alternating order, so that neither always runs on the warmer machine."""
    rates = {}
    checkouts = [("A", HERE), ("B", other)]
    for name, checkout in checkouts if number % 2 else reversed(checkouts):
        progress(f"round {number} of {rounds}: {name}, {checkout}")
        rates[name] = measure(checkout)
    return Round(rates["A"], rates["B"])


def measure(checkout: Path) -> Rates:
    """Run a checkout's own benchmark and read the rates from its report.

    :raises CheckoutError: if the benchmark fails, or its report has no rates.
    """
    page = run(checkout, "-m", "bench.run", "--quick", "--only", "tocsin")
    accepted, applied = _ACCEPTED.search(page), _APPLIED.search(page)
    if not accepted or not applied:
        raise CheckoutError(f"{checkout}: the report of bench.run has no accepted/s and applied/s:\n{page}")
    return Rates(_number(accepted[1]), _number(applied[1]))


def run(checkout: Path, *arguments: str) -> str:
    """Run the current Python interpreter in a checkout and return its output.

    The checkout's packages take precedence over installed ones.

    :raises CheckoutError: if the run fails.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(checkout / source) for source in SOURCES)}
    try:
        process = subprocess.run(
            [sys.executable, *arguments],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise CheckoutError(f"{checkout}: {' '.join(arguments)} failed:\n{error.stderr}") from error
    except OSError as error:
        raise CheckoutError(f"{checkout}: {error.strerror}") from error
    return process.stdout


def report(other: Path, rounds: list[Round]) -> str:
    """Return a Markdown table of the rates in each round. The last line has the medians."""
    cells = [(str(number), each) for number, each in enumerate(rounds, 1)]
    lines = [
        f"This checkout (A) compared with {other} (B):",
        "",
        "| round | accepted/s A | B | A / B | applied/s A | B | A / B |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(_row(label, each.this, each.other, ratios(each)) for label, each in cells),
        _row(
            "median",
            _medians([each.this for each in rounds]),
            _medians([each.other for each in rounds]),
            _medians([ratios(each) for each in rounds]),
        ),
    ]
    return "\n".join(lines)


def ratios(each: Round) -> Rates:
    """Return this checkout's rates divided by the other's."""
    return Rates(each.this.accepted / each.other.accepted, each.this.applied / each.other.applied)


def _medians(rates: list[Rates]) -> Rates:
    return Rates(median(each.accepted for each in rates), median(each.applied for each in rates))


def _row(label: str, this: Rates, other: Rates, ratio: Rates) -> str:
    return (
        f"| {label} | {this.accepted:,.0f} | {other.accepted:,.0f} | {ratio.accepted:.2f}"
        f" | {this.applied:,.0f} | {other.applied:,.0f} | {ratio.applied:.2f} |"
    )


def _number(figure: str) -> float:
    return float(figure.replace(",", ""))


if __name__ == "__main__":
    sys.exit(main())
