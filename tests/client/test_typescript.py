"""The TypeScript client: its own tests pass, its package is complete, and it works while gateways are killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.delivery.webhook_receiver import receiving, send
from tests.journeys.stack import Stack
from tests.journeys.subprocesses import Program
from tests.project.tree import ROOT

CLIENT = ROOT / "clients" / "typescript"
JOURNEY = Path(__file__).parent / "journey.mjs"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CLIENT.is_dir(), reason="the source of the client is missing"),
    # All tests use one build and, where they need a stack, the one that other tests use.
    pytest.mark.xdist_group("stack"),
]


@dataclass
class Package:
    """The package: its source with everything that was built, the archive, and a folder into which it is installed."""

    source: Path
    archive: Path
    user: Path

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a module that may import the installed package."""
        return subprocess.run(
            ["node", "--input-type=module", "-", *arguments],
            cwd=self.user,
            input=script,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    if shutil.which("node") is None or shutil.which("npm") is None:
        if "CI" in os.environ:
            pytest.fail("node and npm are not installed here: install them, as .ci/run does")
        pytest.skip("Node is not installed here")
    folder = tmp_path_factory.mktemp("typescript")
    source, user = folder / "source", folder / "user"
    shutil.copytree(CLIENT, source, ignore=shutil.ignore_patterns("node_modules", "dist", "build"))
    user.mkdir()
    (user / "package.json").write_text('{"private": true}')
    npm(source, "ci", "--ignore-scripts")
    npm(source, "run", "build")
    archive = source / npm(source, "pack", "--ignore-scripts", "--silent").splitlines()[-1]
    npm(user, "install", "--offline", str(archive))
    return Package(source, archive, user)


def npm(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["npm", *words, "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- the package -----------------------------------------------------------------------------------------------


def test_the_packages_own_tests_pass(package: Package) -> None:
    assert re.search(r"^(# |ℹ )fail 0$", npm(package.source, "test"), re.MULTILINE)


def test_the_archive_contains_typed_modules_and_needs_no_other_package(package: Package) -> None:
    with tarfile.open(package.archive) as archive:
        names = {name.removeprefix("package/") for name in archive.getnames()}
    modules = {path.stem for path in (CLIENT / "src").glob("*.ts")}

    assert {name.removesuffix(".js") for name in names if name.endswith(".js")} == {f"dist/{each}" for each in modules}
    assert names >= {f"dist/{each}.d.ts" for each in modules} | {"LICENSE", "README.md", "package.json"}
    assert [path.name for path in (package.user / "node_modules").iterdir() if path.name[0] != "."] == ["tocsin-client"]


def test_dependencies_are_locked_with_hashes_and_without_the_host_of_a_registry() -> None:
    lock = json.loads((CLIENT / "package-lock.json").read_text())
    manifest = json.loads((CLIENT / "package.json").read_text())
    installed = {name: entry for name, entry in lock["packages"].items() if name}

    assert "dependencies" not in manifest
    assert all(entry["dev"] and entry["integrity"].startswith("sha512-") for entry in installed.values())
    assert "resolved" not in {key for entry in installed.values() for key in entry}


def test_a_message_that_tocsin_has_sent_to_a_webhook_is_verified(package: Package) -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="
    event = {
        "id": "01a20830-fc2a-777a-930b-7054e159c667", "source": "/organizations/acme", "subject": "incidents/1",
        "type": "incident.comment_posted", "time": "2026-11-23T11:35:57.754598Z", "sequence": "00000000000000000003",
        "data": {"activity": {"comment": "Größe"}},
    }  # fmt: skip
    with receiving() as receiver:
        send(receiver.url, body=json.dumps(event, ensure_ascii=False).encode(), secrets=[secret])
    [request] = receiver.requests
    script = (
        'import { verifyWebhook } from "tocsin-client";\n'
        "const [headers, body, secret] = process.argv.slice(2);\n"
        "const { sequence, data } = verifyWebhook(JSON.parse(headers), body, secret);\n"
        "console.log(JSON.stringify([sequence, data.activity.comment]));"
    )

    done = package.run(script, json.dumps(dict(request.headers)), request.body.decode(), secret)

    assert (done.stdout.strip(), done.stderr) == ('[3,"Größe"]', "")


# --- a real stack ----------------------------------------------------------------------------------------------


def test_the_example_in_the_readme_runs(package: Package, demo: Stack) -> None:
    [example] = re.findall(r"^```js\n(.*?)^```$", (CLIENT / "README.md").read_text(), re.MULTILINE | re.DOTALL)

    done = package.run(example.replace("http://127.0.0.1:8400", demo.url))

    assert done.returncode == 0, done.stderr
    assert "400 [ { pointer: '#/comment', detail: 'This field may not be blank.' } ]" in done.stdout
    comments = re.findall(r"^\S+Z (.+)$", done.stdout, re.MULTILINE)
    assert [each for each in comments if each != "null"] == ["Ana, can you look?", "Line 1", "Line 2", "Line 3"]
    assert done.stdout.splitlines()[-1].endswith(" incident.comment_posted")


def test_a_killed_gateway_neither_loses_nor_repeats_commands_or_events(package: Package, demo: Stack) -> None:
    shutil.copy(JOURNEY, package.user)
    process = subprocess.Popen(
        ["node", JOURNEY.name, demo.url],
        cwd=package.user,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    program = Program(process)
    try:
        for _ in range(2):
            program.read_until("applied lane")
            killed = demo.kill("gateway")
            demo.wait_for_restart("gateway", other_than=killed)
        code = program.wait(120)
    finally:
        process.kill()

    assert code == 0, "\n".join(program.lines)
    result: dict[str, Any] = json.loads(program.lines[-1])
    applied = {activity["comment"]: activity["id"] for activity in result["activities"]}
    assert len(result["activities"]) == len(applied) == 3 * 15 + 3 * 40 + 20
    assert applied == result["posted"]
    texts = [activity["comment"] for activity in result["activities"]]
    for group in ("lane 1", "lane 2", "lane 3", "bulk 0", "bulk 1", "bulk 2", "submitted"):
        numbers = [int(text.rpartition(" ")[2]) for text in texts if text.startswith(group)]
        assert numbers == list(range(len(numbers)))
    # Every event from the first one on, each once and in order.
    assert [event["sequence"] for event in result["events"]] == list(range(1, len(result["events"]) + 1))
    assert len({event["id"] for event in result["events"]}) == len(result["events"])
    assert [event["comment"] for event in result["events"] if event["comment"] in applied] == texts
    assert any("the event stream was interrupted" in line for line in result["log"])
