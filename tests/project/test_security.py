"""docs/security.md names, for each claim, the tests that check it."""

from __future__ import annotations

import re

import pytest

from tests.project.test_compatibility import collected_of
from tests.project.tree import ROOT

PAGE = ROOT / "docs" / "security.md"
NONE = "–"

_TEST = re.compile(r"`(tests/[a-z_]+(?:/[a-z_]+)*/test_[a-z_]+\.py::test_\w+)`")


def rows() -> list[list[str]]:
    """Return the cells of every row of the tables, without headers."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| |")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [row for row in cells if row[0] != "risk"]


ROWS = rows()


def test_each_row_names_tests_or_nothing() -> None:
    # As `tests/folder/test_file.py::test_name`, separated by commas.
    assert [row for row in ROWS if len(row) != 3] == []
    misformatted = [row for row in ROWS if row[2] != (", ".join(f"`{test}`" for test in _TEST.findall(row[2])) or NONE)]
    assert misformatted == []


def test_whatever_an_attacker_cannot_do_is_tested() -> None:
    untested = [row[1] for row in ROWS if row[2] == NONE and not row[0].endswith("can")]

    assert untested == []


def test_every_kind_of_attacker_and_every_risk_is_present() -> None:
    attackers = re.findall(r"^### (\w+ \w+)", PAGE.read_text(), re.MULTILINE)
    risks = [row[0].split()[0] for row in ROWS if row[0].startswith("API")]

    assert attackers == [
        "An outsider", "A caller", "Another tenant", "A writer", "A reader", "Whoever has", "Another account",
    ]  # fmt: skip
    assert risks == [f"API{number}" for number in range(1, 11)]


@pytest.mark.slow
def test_every_named_test_exists(request: pytest.FixtureRequest) -> None:
    named = set(_TEST.findall(PAGE.read_text()))

    missing = named - {item.nodeid.partition("[")[0] for item in request.session.items}
    missing -= collected_of({test.partition("::")[0] for test in missing})

    assert missing == set()
