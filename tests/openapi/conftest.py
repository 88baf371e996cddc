"""Fixtures: the OpenAPI document as it is published, and the installed toolchain."""

from __future__ import annotations

import pytest

from tests.openapi.toolchain import Toolchain, require_tools


@pytest.fixture(scope="session")
def toolchain(tmp_path_factory: pytest.TempPathFactory) -> Toolchain:
    """The linters and generators. It takes half a minute to install them."""
    require_tools("node", "npm", "java")
    return Toolchain(tmp_path_factory.mktemp("toolchain"))
