"""The figures of a run as a page to read: medians over the rounds, ratios, machine, versions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, Final

Round = dict[str, Any]

_ROWS: Final = (
    ("accepted/s (202 at once)", ("accept", "per_second")),
    ("accept p50, ms, under that load", ("accept", "latency_ms", "p50")),
    ("accept p99, ms, under that load", ("accept", "latency_ms", "p99")),
    ("applied/s (first to last outcome)", ("apply", "per_second")),
    ("inbox rows/s (first outcome to last row)", ("apply", "inbox_per_second")),
    ("one at a time: POST → answer p50, ms", ("wait", "answer_ms", "p50")),
    ("one at a time: POST → answer p99, ms", ("wait", "answer_ms", "p99")),
    ("one at a time: POST → inbox p50, ms", ("wait", "inbox_ms", "p50")),
    ("one at a time: POST → inbox p99, ms", ("wait", "inbox_ms", "p99")),
)


def ratios(rounds: Sequence[Round]) -> dict[str, float]:
    """How many times as fast tocsin is: the median of the rounds' own ratios."""
    wanted = {
        "accept": ("accept", "per_second"),
        "apply": ("apply", "per_second"),
        "inbox": ("apply", "inbox_per_second"),
    }
    return {
        name: round(median(_at(one["tocsin"], path) / max(_at(one["plain"], path), 1) for one in rounds), 1)
        for name, path in wanted.items()
    }


def page(result: dict[str, Any]) -> str:
    """The whole page, in Markdown."""
    return "\n".join(_lines(result))


def _lines(result: dict[str, Any]) -> Iterator[str]:
    rounds, size = result["rounds"], result["size"]
    sides = [side for side in ("tocsin", "plain") if side in rounds[0]]
    yield f"# Measured {result['measured_at']} at {result['commit']}"
    yield ""
    if "ratios" in result:
        times = result["ratios"]
        shown = f"accept ×{times['accept']}, apply ×{times['apply']}, to the inbox ×{times['inbox']}"
        yield f"**{shown}** against the plain way."
        yield ""
    yield f"Medians of {size['rounds']} rounds, each side alone on the machine, in turn."
    yield ""
    yield "| | " + " | ".join(sides) + " |"
    yield "|---|" + "---:|" * len(sides)
    for label, path in _ROWS:
        yield f"| {label} | " + " | ".join(_shown(_median(rounds, side, path)) for side in sides) + " |"
    yield ""
    yield "Answer: 201 with the activity for tocsin; 202 for the plain way, which cannot wait."
    yield "Outside: from starting the workers to the last inbox row. Every round:"
    yield ""
    yield "| round | side | commands | accepted/s | applied/s | inbox/s | outside, s | CPU s: accept | CPU s: apply |"
    yield "|---|---|---:|---:|---:|---:|---:|---|---|"
    for number, one in enumerate(rounds, 1):
        for side in sides:
            accept, apply = one[side]["accept"], one[side]["apply"]
            yield (
                f"| {number} | {side} | {apply['commands']} | {accept['per_second']} | {apply['per_second']}"
                f" | {apply['inbox_per_second']} | {apply['outside_seconds_to_inbox_with_start']}"
                f" | {_cpu(accept['cpu_seconds'])} | {_cpu(apply['cpu_seconds'])} |"
            )
    yield ""
    yield from (f"* {complaint}" for complaint in _complaints(rounds))
    yield (
        f"* {size['subjects']} incidents, 20 authors, 50 people, {size['connections']} connections, {size['workers']}"
        f" worker processes a side, one gateway process; {result['seconds']} s for everything."
    )
    yield "* " + ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    yield "* " + ", ".join(f"{name} {value}" for name, value in result["versions"].items())


def _complaints(rounds: Sequence[Round]) -> Iterator[str]:
    for number, one in enumerate(rounds, 1):
        for side, figures in one.items():
            others = {status: n for status, n in figures["accept"]["statuses"].items() if status != "202"}
            if others:
                yield f"Round {number}, {side}: answers other than 202 while accepting: {others}"
            refused = figures["apply"]["commands"] - figures["apply"]["applied"]
            if refused:
                yield f"Round {number}, {side}: {refused} commands were not applied"
            odd = {status: n for status, n in figures["wait"]["statuses"].items() if status not in ("201", "202")}
            if odd or (side == "tocsin" and "202" in figures["wait"]["statuses"]):
                yield f"Round {number}, {side}: answers one at a time: {figures['wait']['statuses']}"


def _median(rounds: Sequence[Round], side: str, path: Sequence[str]) -> float | None:
    values = [value for one in rounds if (value := _at(one[side], path)) is not None]
    return median(values) if values else None


def _at(figures: Any, path: Sequence[str]) -> Any:
    for name in path:
        figures = figures.get(name)
        if figures is None:
            return None
    return figures


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _cpu(used: dict[str, float]) -> str:
    return ", ".join(f"{name} {seconds}" for name, seconds in used.items())
