"""The Markdown report of ``bench.run``: medians over the rounds, ratios, every round, and the environment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, Final

from bench.machine import environment_lines

Round = dict[str, Any]

_ROWS: Final = (
    ("accepted/s (202 at once)", ("accept", "per_second")),
    ("accept p50, ms, under that load", ("accept", "latency_ms", "p50")),
    ("accept p99, ms, under that load", ("accept", "latency_ms", "p99")),
    ("applied/s (first to last outcome)", ("apply", "per_second")),
    ("inbox rows/s (first outcome to last row)", ("apply", "inbox_per_second")),
    ("one at a time: POST → response p50, ms", ("wait", "response_ms", "p50")),
    ("one at a time: POST → response p99, ms", ("wait", "response_ms", "p99")),
    ("one at a time: POST → inbox p50, ms", ("wait", "inbox_ms", "p50")),
    ("one at a time: POST → inbox p99, ms", ("wait", "inbox_ms", "p99")),
)
"""The label of each row, and the path to its figure in a round.

``bench.compare`` reads ``accepted/s`` and ``applied/s``.
"""


def ratios(rounds: Sequence[Round]) -> dict[str, float]:
    """Return tocsin's rates as multiples of the baseline's rates. Each is the median of the ratios in all rounds."""
    rates = {
        "accept": ("accept", "per_second"),
        "apply": ("apply", "per_second"),
        "inbox": ("apply", "inbox_per_second"),
    }
    return {
        name: round(median(_at(each["tocsin"], path) / max(_at(each["baseline"], path), 1) for each in rounds), 1)
        for name, path in rates.items()
    }


def page(result: dict[str, Any]) -> str:
    """Render a benchmark result as a Markdown page."""
    return "\n".join(_lines(result))


def _lines(result: dict[str, Any]) -> Iterator[str]:
    rounds, size = result["rounds"], result["size"]
    systems = [system for system in ("tocsin", "baseline") if system in rounds[0]]
    yield f"# Measured {result['measured_at']} at {result['commit']}"
    yield ""
    if "ratios" in result:
        times = result["ratios"]
        rates = f"accept ×{times['accept']}, apply ×{times['apply']}, to the inbox ×{times['inbox']}"
        yield f"**{rates}**, compared with the baseline, a plain Celery application."
        yield ""
    yield f"Medians of {size['rounds']} rounds. The systems run alternately, one at a time."
    yield ""
    yield "| | " + " | ".join(systems) + " |"
    yield "|---|" + "---:|" * len(systems)
    for label, path in _ROWS:
        yield f"| {label} | " + " | ".join(_format(_median(rounds, system, path)) for system in systems) + " |"
    yield ""
    yield "Response: for tocsin the 201 with the activity; for the baseline the 202, because it cannot wait."
    yield "Wall clock: from the start of the workers to the last inbox row. Every round:"
    yield ""
    yield (
        "| round | system | commands | accepted/s | applied/s | inbox rows/s | wall clock, s | CPU s: accept"
        " | CPU s: apply |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---|---|"
    for number, each in enumerate(rounds, 1):
        for system in systems:
            accept, apply = each[system]["accept"], each[system]["apply"]
            yield (
                f"| {number} | {system} | {apply['commands']} | {accept['per_second']} | {apply['per_second']}"
                f" | {apply['inbox_per_second']} | {apply['wall_seconds_to_inbox']}"
                f" | {_format_cpu(accept['cpu_seconds'])} | {_format_cpu(apply['cpu_seconds'])} |"
            )
    yield ""
    yield from (f"* {warning}" for warning in _warnings(rounds))
    yield (
        f"* {size['subjects']} incidents, 20 authors, 50 people, {size['connections']} connections, {size['workers']}"
        f" worker processes per system, one gateway process; {result['seconds']} s in total."
    )
    yield from environment_lines(result)


def _warnings(rounds: Sequence[Round]) -> Iterator[str]:
    for number, each in enumerate(rounds, 1):
        for system, figures in each.items():
            others = {status: n for status, n in figures["accept"]["statuses"].items() if status != "202"}
            if others:
                yield f"Round {number}, {system}: responses other than 202 while accepting: {others}"
            unapplied = figures["apply"]["commands"] - figures["apply"]["applied"]
            if unapplied:
                yield f"Round {number}, {system}: {unapplied} commands were not applied"
            unexpected = {status for status in figures["wait"]["statuses"] if status not in ("201", "202")}
            if unexpected or (system == "tocsin" and "202" in figures["wait"]["statuses"]):
                yield f"Round {number}, {system}: responses one at a time: {figures['wait']['statuses']}"


def _median(rounds: Sequence[Round], system: str, path: Sequence[str]) -> float | None:
    values = [value for each in rounds if (value := _at(each[system], path)) is not None]
    return median(values) if values else None


def _at(figures: Any, path: Sequence[str]) -> Any:
    for name in path:
        figures = figures.get(name)
        if figures is None:
            return None
    return figures


def _format(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _format_cpu(seconds: dict[str, float]) -> str:
    return ", ".join(f"{process} {used}" for process, used in seconds.items())
