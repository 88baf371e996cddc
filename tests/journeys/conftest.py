"""Fixtures shared by the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.journeys.stack import Stack, running_stack
from tests.journeys.subprocesses import public_temp_dir


@pytest.fixture(scope="session")
def demo() -> Iterator[Stack]:
    """A demo stack on embedded servers, for tests in the group ``stack`` that leave it intact."""
    with public_temp_dir() as folder, running_stack(folder / "data") as running:
        yield running
