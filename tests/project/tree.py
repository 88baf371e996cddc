"""The files of this repository, without installed, built or cached ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("gateway", "workers", "tasks", "models")

_OUTSIDE = {"build", "dist", "node_modules", "__pycache__"}


def files(suffix: str) -> Iterator[Path]:
    """Yield every file with this suffix outside hidden, installed and build directories."""
    for folder, names, found in os.walk(ROOT):
        # A virtual environment can have any name but always contains this file.
        names[:] = sorted(
            name
            for name in names
            if not name.startswith(".")
            and name not in _OUTSIDE
            and not name.endswith(".egg-info")
            and not (Path(folder) / name / "pyvenv.cfg").exists()
        )
        yield from (Path(folder) / name for name in sorted(found) if name.endswith(suffix))


def relative_path(path: Path) -> str:
    """Return a path relative to the root of the repository."""
    return path.relative_to(ROOT).as_posix()
