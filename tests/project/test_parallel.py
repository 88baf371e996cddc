"""Tests run in parallel, except that tests in one group run in one process and share servers that are slow to start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GROUPED = """
import os
import pathlib
import pytest

@pytest.mark.parametrize("number", [pytest.param(number, marks=pytest.mark.xdist_group("one")) for number in range(9)])
def test_records_its_process(number):
    (pathlib.Path(__file__).parent / os.environ["PYTEST_XDIST_WORKER"]).touch()
"""


@pytest.mark.slow
def test_a_group_of_tests_runs_in_one_process(tmp_path: Path) -> None:
    (tmp_path / "test_grouped.py").write_text(GROUPED)

    arguments = [
        "-n",
        "2",
        "--dist",
        "loadgroup",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:schemathesis",
        "--rootdir",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert "9 passed" in done.stdout
    assert len(list(tmp_path.glob("gw*"))) == 1
