"""Helpers for a benchmark's output: a temporary data directory, progress messages, and the report."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def temporary_directory(cleanup: ExitStack) -> Path:
    """Create a temporary directory that ``cleanup`` removes."""
    directory = Path(tempfile.mkdtemp(prefix="tocsin-bench-", dir="/tmp"))
    cleanup.callback(shutil.rmtree, directory, ignore_errors=True)
    return directory


def current_commit() -> str:
    """Return the short hash of the measured commit, or ``unknown`` outside a repository."""
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    return git.stdout.strip() or "unknown"


def progress(message: str) -> None:
    """Print a message to standard error."""
    print(message, file=sys.stderr, flush=True)


def save(result: dict[str, Any], page: str, at: datetime, *, suffix: str = "", compress: bool = False) -> None:
    """Write the report (Markdown) and its figures (JSON).

    The files are named after the date, the commit and the ``suffix``.
    """
    RESULTS.mkdir(exist_ok=True)
    stem = str(RESULTS / f"{at:%Y-%m-%d}-{result['commit']}{suffix}")
    Path(f"{stem}.md").write_text(page + "\n")
    figures = json.dumps(result, indent=2) + "\n"
    if compress:
        Path(f"{stem}.json.gz").write_bytes(gzip.compress(figures.encode(), mtime=0))
    else:
        Path(f"{stem}.json").write_text(figures)
    progress(f"saved as {os.path.relpath(stem)}.md and .json{'.gz' if compress else ''}")
