"""docs/compatibility.md states for every fact whether tocsin matches it, and names the tests that check it."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from typing import NamedTuple

import pytest

from tests.project.tree import ROOT

PAGE = ROOT / "docs" / "compatibility.md"
CHAPTERS = [
    "1", "1.1", "1.2", "2", "2.1", "3", "4.1", "4.2", "4.3", "4.4", "4.5", "4.6", "4.7", "4.8", "4.9", "4.10", "5", "6",
    "7.1", "7.2", "7.3", "7.4", "8", "9.1", "9.2", "9.3", "9.4", "10", "11",
]  # fmt: skip
NONE = "—"

_HEADING = re.compile(r"^## ([0-9.]+) .+$")
_VERDICT = re.compile(r"match|(?:differs|not built): \S.*")
_TEST = re.compile(r"`(tests/[a-z_]+(?:/[a-z_]+)*/test_[a-z_]+\.py::test_\w+)`")


class Row(NamedTuple):
    chapter: str
    cells: list[str]

    @property
    def name(self) -> str:
        return self.cells[0]

    @property
    def verdict(self) -> str:
        return self.cells[2]

    @property
    def tests(self) -> list[str]:
        return _TEST.findall(self.cells[-1])


def rows() -> list[Row]:
    """Return every row below a numbered heading, without table headers."""
    found, chapter = [], ""
    for line in PAGE.read_text().splitlines():
        if heading := _HEADING.match(line):
            chapter = heading[1]
        elif line.startswith("|") and chapter:
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if cells[0] != "row" and not set("".join(cells)) <= {"-"}:
                found.append(Row(chapter, cells))
    return found


ROWS = rows()


def test_every_chapter_is_present_and_in_order() -> None:
    chapters = list(dict.fromkeys(row.chapter for row in ROWS))

    assert chapters == CHAPTERS


def test_rows_are_numbered_consecutively() -> None:
    numbered = [row.name for row in ROWS]

    expected = [f"{chapter}-{number}" for chapter in CHAPTERS for number, _ in enumerate(_of(chapter), start=1)]
    assert numbered == expected
    assert all(before.chapter == after.chapter or after.name.endswith("-1") for before, after in pairwise(ROWS))


def test_no_cell_is_empty_and_no_fact_is_repeated_in_a_chapter() -> None:
    assert [row.name for row in ROWS if len(row.cells) != 4 or not all(row.cells)] == []
    for chapter in CHAPTERS:
        facts = [row.cells[1] for row in _of(chapter)]
        assert len(facts) == len(set(facts))


def test_every_verdict_has_one_of_the_three_defined_forms() -> None:
    assert [row.name for row in ROWS if not _VERDICT.fullmatch(row.verdict)] == []


def test_rows_name_tests_unless_their_verdict_is_not_built() -> None:
    # As `tests/folder/test_file.py::test_name`, separated by commas.
    misformatted = [row.name for row in ROWS if row.cells[-1] != (", ".join(f"`{test}`" for test in row.tests) or NONE)]
    built = {row.name for row in ROWS if not row.verdict.startswith("not built")}

    assert misformatted == []
    assert {row.name for row in ROWS if row.tests} == built


@pytest.mark.slow
def test_every_named_test_exists(request: pytest.FixtureRequest) -> None:
    named = {test for row in ROWS for test in row.tests}

    missing = named - {item.nodeid.partition("[")[0] for item in request.session.items}
    missing -= collected_of({test.partition("::")[0] for test in missing})

    assert missing == set()


def collected_of(files: set[str]) -> set[str]:
    """Collect the tests in files that this run has not collected completely; return their names."""
    known = sorted(file for file in files if (ROOT / file).exists())
    if not known:
        return set()
    collecting = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider", *known],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert collecting.returncode == 0, collecting.stdout[-2000:] + collecting.stderr[-2000:]
    return {line.partition("[")[0] for line in collecting.stdout.splitlines()}


def _of(chapter: str) -> list[Row]:
    return [row for row in ROWS if row.chapter == chapter]
