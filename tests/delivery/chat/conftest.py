"""Fixtures for tests of chat."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests.api


@pytest.fixture(autouse=True)
def _unguarded_afterwards() -> Iterator[None]:
    """Give the library ``requests`` its own session back: other tests may use it."""
    before = vars(requests.api)["sessions"]
    yield
    vars(requests.api)["sessions"] = before
