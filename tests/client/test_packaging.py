"""The client's distribution: the README's examples run, and the wheel works without the server."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.http.gateway_server import Gateway, Worker
from tests.project.tree import PACKAGES, ROOT

CLIENT = ROOT / "clients" / "python"

pytestmark = pytest.mark.skipif(not CLIENT.is_dir(), reason="the source of the client is missing")


def test_the_examples_in_the_readme_run(gateway: Gateway, busy_worker: Worker) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (CLIENT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    namespace: dict[str, Any] = {}

    for block in blocks:
        exec(block.replace("http://127.0.0.1:8400", gateway.url), namespace)

    assert len(blocks) >= 6


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the source."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    (source / "tocsin_client").mkdir(parents=True)
    for path in [
        *(CLIENT / name for name in ("pyproject.toml", "README.md", "LICENSE")),
        *(CLIENT / "tocsin_client").glob("*.*"),
    ]:
        (source / path.relative_to(CLIENT)).write_bytes(path.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(directory), str(source)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return next(directory.glob("*.whl"))


def test_the_wheel_contains_only_the_typed_client_and_its_license(wheel: Path) -> None:
    files = zipfile.ZipFile(wheel).namelist()

    assert {Path(file).parts[0] for file in files if ".dist-info/" not in file} == {"tocsin_client"}
    assert "tocsin_client/py.typed" in files
    assert [file for file in files if file.endswith(".dist-info/licenses/LICENSE")]


def test_the_wheel_works_without_the_server(wheel: Path, tmp_path: Path) -> None:
    script = (
        "import sys, importlib.util\n"
        f"sys.path.insert(0, {str(wheel)!r})\n"
        # An editable install's finder would find the server.
        "sys.meta_path = [each for each in sys.meta_path if 'editable' not in repr(each)]\n"
        "import tocsin_client\n"
        f"assert tocsin_client.__file__.startswith({str(wheel)!r}), tocsin_client.__file__\n"
        "tocsin_client.Tocsin('http://127.0.0.1:9', 'x', organization='acme').close()\n"
        f"print([name for name in {PACKAGES!r} if importlib.util.find_spec(name) or name in sys.modules])\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )

    assert (result.stdout.strip(), result.stderr) == ("[]", "")
