"""Fixtures shared by the journeys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.journeys.stack import Stack, running_stack
from tests.journeys.subprocesses import public_temp_dir


@pytest.fixture(scope="session")
def demo() -> Iterator[Stack]:
    """A stack with the demo on embedded servers, for tests of the group ``stack`` that leave it intact."""
    with public_temp_dir() as folder, running_stack(folder / "data") as running:
        yield running
