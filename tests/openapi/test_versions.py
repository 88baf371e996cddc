"""The docs name the versions of generators that are tested."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
NAMED: Final = {
    "openapi-generator": "openapi-generator-cli",
    "openapi-python-client": "openapi-python-client",
    "@hey-api/openapi-ts": "@hey-api/openapi-ts",
    "openapi-typescript": "openapi-typescript",
    "openapi-fetch": "openapi-fetch",
    "typescript": "typescript",
    "mypy": "mypy",
}


def test_the_docs_name_the_pinned_versions() -> None:
    text = (HERE.parents[1] / "docs" / "descriptions.md").read_text()
    pinned: dict[str, str] = json.loads((HERE / "package.json").read_text())["devDependencies"]
    pinned |= dict(re.findall(r"^([\w-]+)==(\S+)$", (HERE / "requirements.txt").read_text(), re.MULTILINE))

    rows = [line for line in text.splitlines() if re.match(r"\| @?\w", line) and re.search(r"\d+\.\d+\.\d+", line)]

    assert len(rows) == 5
    for row in rows:
        generator = re.match(r"\| (\S+?),? ", row)
        assert generator is not None
        assert f"| {pinned[NAMED[generator[1]]]} |" in row
        for name, version in re.findall(r"(openapi-fetch|mypy|typescript) (\d\S+?)[,| ]", row):
            assert pinned[NAMED[name]] == version.rstrip(",")


def test_every_version_is_pinned_and_no_registry_is_named() -> None:
    pinned: dict[str, str] = json.loads((HERE / "package.json").read_text())["devDependencies"]

    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in pinned.values())
    lock = json.loads((HERE / "package-lock.json").read_text())
    assert lock["packages"][""]["devDependencies"] == pinned
    assert "resolved" not in (HERE / "package-lock.json").read_text()
