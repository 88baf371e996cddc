"""A fixture for the database state to which the samples refer."""

from __future__ import annotations

import pytest

from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.messages.world import World


@pytest.fixture
def world(harness: Harness, acme: Acme) -> World:
    """The organization acme with everything that the samples refer to by id."""
    return World(harness, acme)
