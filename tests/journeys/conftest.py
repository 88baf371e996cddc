"""What several journeys share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.journeys.stack import Stack, running_stack
from tests.journeys.subprocesses import public_temp_dir


@pytest.fixture(scope="session")
def demo() -> Iterator[Stack]:
    """Everything on its embedded servers, for tests of the group "stack" that leave it running as they found it."""
    with public_temp_dir() as folder, running_stack(folder / "data") as running:
        yield running
