"""Clients generated from the OpenAPI document compile, and their calls work against a running stack."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest

from tests.journeys.stack import ACME, Stack, running_stack
from tests.journeys.subprocesses import public_temp_dir
from tests.openapi.toolchain import OPENAPI_GENERATOR_LANGUAGES, Toolchain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.xdist_group("generated clients")]

PROGRAMS: Final = {
    "openapi-python-client": "programs/openapi_python.py",
    "openapi-generator-python": "programs/openapi_generator.py",
    "openapi-generator-typescript-fetch": "built/programs/typescript_fetch.js",
    "openapi-fetch": "built/programs/openapi_fetch.js",
    "hey-api": "built/programs/hey_api.js",
}


class Clients(NamedTuple):
    """The generated and compiled clients, with what the generators and compilers said."""

    toolchain: Toolchain
    document: Any
    generated: str
    compiled: str


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A demo stack, which the programs of this file share."""
    with public_temp_dir() as folder, running_stack(folder / "data") as running:
        yield running


@pytest.fixture(scope="module")
def clients(toolchain: Toolchain, stack: Stack) -> Clients:
    """All clients. The generators run side by side, and so do the compilers."""
    document = httpx.get(f"{stack.url}/openapi.json").json()
    toolchain.write_document(document)
    with ThreadPoolExecutor() as pool:
        generating = [
            pool.submit(toolchain.generate_openapi_python_client),
            pool.submit(toolchain.generate_for_typescript),
            *(pool.submit(toolchain.generate_with_openapi_generator, each) for each in OPENAPI_GENERATOR_LANGUAGES),
        ]
        generated = "".join(each.result() for each in generating)
        compiling = [
            pool.submit(toolchain.compile_typescript),
            *(pool.submit(toolchain.check_types, *paths) for paths in toolchain.python_clients()),
        ]
        return Clients(toolchain, document, generated, "".join(each.result() for each in compiling))


def test_every_client_is_generated_and_compiles_without_errors(clients: Clients) -> None:
    # Not "Error", which is also the name of a schema.
    assert not re.search(r"(?i:unable to|skipping|cannot parse)|\bERROR\b", clients.generated)
    assert "error" not in clients.compiled


def test_every_client_has_every_operation(clients: Clients) -> None:
    folder = clients.toolchain.folder
    operations = {
        each["operationId"]
        for path in clients.document["paths"].values()
        for name, each in path.items()
        if name != "parameters"
    }
    in_camel_case = {re.sub("_([a-z])", lambda found: found[1].upper(), each) for each in operations}

    assert {each.stem for each in folder.glob("tocsin_http_api_client/api/*/*.py")} >= operations
    python = _text_of(folder.glob("openapi_generator/generated_client/api/*_api.py"))
    assert set(re.findall(r"^    def (\w+)\(", python, re.MULTILINE)) >= operations
    fetch = _text_of(folder.glob("typescript_fetch/apis/*Api.ts"))
    assert set(re.findall(r"^    async (\w+)\(", fetch, re.MULTILINE)) >= in_camel_case
    hey = (folder / "hey_api/sdk.gen.ts").read_text()
    assert set(re.findall(r"^export const (\w+) =", hey, re.MULTILINE)) >= in_camel_case
    types = (folder / "openapi_typescript/schema.d.ts").read_text()
    assert set(re.findall(r'operations\["(\w+)"\]', types)) >= operations


def _text_of(paths: Iterator[Path]) -> str:
    return "\n".join(path.read_text() for path in paths)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_calls_of_a_generated_client_work(clients: Clients, stack: Stack, name: str) -> None:
    program = PROGRAMS[name]
    toolchain = clients.toolchain

    if program.endswith(".py"):
        printed = toolchain.python(program, stack.url, name)
    else:
        printed = toolchain.run("node", program, stack.url, name)

    result = json.loads(printed)
    identifier = result.pop("incident")
    assert result == {
        "comment": f"Hello from {name}",
        "bulk": ["applied", "applied"],
        "status": 2,
        "fired": ["critical"],
        "read": 1,
        "alerts": ["alertmanager.receive"],
        "refused": "The requested resource does not exist",
    }
    with stack.client() as client:
        incident = client.get(f"{ACME}/incidents/{identifier}/").json()
        activities = client.get(f"{ACME}/incidents/{identifier}/activity/?desc=0").json()
    assert (incident["title"], incident["status"]) == (f"Opened with {name}", 2)
    assert [each["comment"] for each in activities if each["type"] == 3] == [f"Hello from {name}", "In bulk"]
    assert {each["username"] for each in incident["seenBy"]} == {"ben"}
