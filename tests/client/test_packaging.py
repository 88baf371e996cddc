"""The client as others get it: its README, and its wheel without the server."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.http.gateway_server import Gateway, Worker
from tests.project.tree import ROOT

CLIENT = ROOT / "clients" / "python"
ROOMS = ("gateway", "tasks", "workers", "models")

pytestmark = pytest.mark.skipif(not CLIENT.is_dir(), reason="the source is not here")


def test_the_examples_of_the_readme_run(gateway: Gateway, busy_worker: Worker) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (CLIENT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    known: dict[str, Any] = {}

    for block in blocks:
        exec(block.replace("http://127.0.0.1:8400", gateway.url), known)

    assert len(blocks) >= 6


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the source."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    (source / "tocsin_client").mkdir(parents=True)
    for path in [CLIENT / "pyproject.toml", CLIENT / "README.md", *(CLIENT / "tocsin_client").glob("*.*")]:
        (source / path.relative_to(CLIENT)).write_bytes(path.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_client_and_its_types_and_nothing_else(wheel: Path) -> None:
    names = {Path(name).parts[0] for name in zipfile.ZipFile(wheel).namelist()}

    assert {name for name in names if not name.endswith(".dist-info")} == {"tocsin_client"}
    assert "tocsin_client/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_the_wheel_works_without_the_server(wheel: Path, tmp_path: Path) -> None:
    script = (
        "import sys, importlib.util\n"
        f"sys.path.insert(0, {str(wheel)!r})\n"
        # Editable installs are found by finders of their own.
        "sys.meta_path = [each for each in sys.meta_path if 'editable' not in repr(each)]\n"
        "import tocsin_client\n"
        f"assert tocsin_client.__file__.startswith({str(wheel)!r}), tocsin_client.__file__\n"
        "tocsin_client.Tocsin('http://127.0.0.1:9', 'x', organization='acme').close()\n"
        f"print([room for room in {ROOMS!r} if importlib.util.find_spec(room) or room in sys.modules])\n"
    )

    said = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )

    assert (said.stdout.strip(), said.stderr) == ("[]", "")
