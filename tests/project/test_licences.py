"""docs/licences.md lists the licence of each dependency, and all of them are known and accepted."""

from __future__ import annotations

import pytest

from tests.project.licences import documented_licences, licence_of, locked_names, unknown_licences

NAMES = locked_names()


def test_every_distribution_in_the_lock_is_listed_in_its_order() -> None:
    assert list(documented_licences()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_listed_licence_is_accepted_and_is_the_one_in_the_distributions_metadata(name: str) -> None:
    documented = documented_licences()[name]

    assert unknown_licences(documented) == set()
    # Some are installed only on other platforms or versions of Python.
    assert licence_of(name) in {documented, None}


@pytest.mark.parametrize("expression", ["unknown", "AGPL-3.0-only", "MIT AND SSPL-1.0", "GPL-2.0-only OR Proprietary"])
def test_an_unknown_licence_is_not_accepted(expression: str) -> None:
    assert unknown_licences(expression)
