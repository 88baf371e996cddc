"""README.md and docs/operations.md quote one benchmark run, and its report contains every figure they quote."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median

import pytest

from tests.project.tree import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="the benchmark reports are missing")

README = ROOT / "README.md"
OPERATIONS = ROOT / "docs" / "operations.md"

_FIGURE = r"\d[\d,]*(?:\.\d+)?"
_LINK = re.compile(r"\[([^\]]+)\]\(([\w./-]*bench/results/[\w-]+\.md)\)")
_MEDIANS = re.compile(rf"^\| [^|]+ \| ({_FIGURE}) \| ({_FIGURE}) \|$", re.MULTILINE)
_LATENCY = re.compile(rf"({_FIGURE}) ms\b")
_LAST_OF_TWO_CELLS = re.compile(r"^\| [^|]+ \| ([^|]*\d[^|]*) \|$", re.MULTILINE)
_CPU_ROW = re.compile(rf"^\| (\w+) \| ({_FIGURE}) \| ({_FIGURE}) \|$", re.MULTILINE)
_CPU_COMMANDS = re.compile(rf"CPU seconds for ({_FIGURE}) commands")


def link(page: Path) -> re.Match[str]:
    """Return a match of the page's only link to a report: group 1 is the link's text, group 2 its target."""
    (found,) = _LINK.finditer(page.read_text())
    return found


def report(page: Path) -> Path:
    """Return the report that the page quotes."""
    return (page.parent / link(page)[2]).resolve()


def section(page: Path) -> str:
    """Return the part of the page from the paragraph with the link to the next heading."""
    text = page.read_text()
    start = text.rindex("\n", 0, link(page).start()) + 1
    return re.split(r"^#", text[start:], maxsplit=1, flags=re.MULTILINE)[0]


def number(figure: str) -> float:
    return float(figure.replace(",", ""))


def misquoted(figures: Iterable[str], measured: Iterable[float]) -> list[str]:
    """Return the figures that differ from every measured one rounded to the same number of decimals."""
    measured = list(measured)
    decimals = {figure: len(figure.partition(".")[2]) for figure in figures}
    return [each for each, digits in decimals.items() if number(each) not in {round(one, digits) for one in measured}]


def medians(page: Path) -> Iterator[float]:
    """Return every figure in the table of medians in the page's report."""
    for row in _MEDIANS.findall(report(page).read_text()):
        yield from map(number, row)


def test_both_pages_quote_the_same_benchmark_run() -> None:
    assert report(README) == report(OPERATIONS)


def test_the_readme_figures_match_the_medians_of_the_recorded_run() -> None:
    figures = [*re.findall(_FIGURE, link(README)[1]), *_LATENCY.findall(section(README))]

    assert len(figures) >= 6
    assert misquoted(figures, medians(README)) == []


def test_the_sizing_table_matches_the_medians_of_the_recorded_run() -> None:
    figures = [each for cell in _LAST_OF_TWO_CELLS.findall(section(OPERATIONS)) for each in re.findall(_FIGURE, cell)]

    assert len(figures) >= 6
    assert misquoted(figures, medians(OPERATIONS)) == []


def test_the_cpu_table_matches_the_medians_of_the_recorded_run() -> None:
    rounds = [each["tocsin"] for each in json.loads(report(OPERATIONS).with_suffix(".json").read_text())["rounds"]]
    (commands,) = map(number, _CPU_COMMANDS.findall(section(OPERATIONS)))
    rows = _CPU_ROW.findall(section(OPERATIONS))

    assert {name for name, _, _ in rows} == {"gateway", "worker", "relay", "notifier"}
    assert {each["apply"]["commands"] for each in rounds} == {commands}
    for process, seconds, per_second in rows:
        phases = [[each[phase]["cpu_seconds"].get(process, 0.0) for each in rounds] for phase in ("accept", "apply")]
        assert misquoted([seconds], map(median, phases)) == [], process
        assert number(per_second) == round(commands / number(seconds), -2), process
