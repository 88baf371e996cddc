"""The descriptions pass the rules of validators and linters that other people use; exceptions are in their files."""

from __future__ import annotations

import json
from typing import Final

import pytest

from gateway.main import ENDPOINTS
from gateway.openapi.document import build_document
from gateway.openapi.event_document import build_event_document
from tests.openapi.toolchain import Toolchain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.xdist_group("generated clients")]

URL: Final = "https://tocsin.test"
NEWER_VERSION: Final = "2 asyncapi: The latest version of AsyncAPi is not used."
"""A finding that is no fault: 3.0 is what most tools for AsyncAPI understand."""


@pytest.fixture(scope="module", autouse=True)
def documents(toolchain: Toolchain) -> None:
    """Both documents, as the gateway serves them."""
    toolchain.write_document(build_document(ENDPOINTS) | {"servers": [{"url": URL}]})
    (toolchain.folder / "asyncapi.json").write_text(json.dumps(build_event_document(URL)))


def test_openapi_spec_validator_accepts_the_document(toolchain: Toolchain) -> None:
    assert toolchain.run("venv/bin/openapi-spec-validator", "openapi.json").strip() == "openapi.json: OK"


def test_redocly_has_nothing_to_say(toolchain: Toolchain) -> None:
    printed = toolchain.node("redocly", "lint", "--config", "redocly.yaml", "--format", "json", "openapi.json")

    report = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])
    assert report["totals"] == {"errors": 0, "warnings": 0, "ignored": 0}
    assert report["problems"] == []


def test_spectral_has_nothing_to_say(toolchain: Toolchain) -> None:
    arguments = ("--ruleset", "spectral.yaml", "--fail-severity", "hint", "openapi.json")

    assert "No results with a severity of 'hint' or higher found" in toolchain.node("spectral", "lint", *arguments)


def test_the_asyncapi_parser_has_nothing_to_say(toolchain: Toolchain) -> None:
    findings = toolchain.run("node", "asyncapi.js", "asyncapi.json").splitlines()

    assert [each for each in findings if not each.startswith(NEWER_VERSION)] == []
