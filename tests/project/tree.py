"""The files of this repository, without what was installed, built or cached in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("gateway", "workers", "tasks", "models")

_OUTSIDE = {"build", "dist", "node_modules", "__pycache__"}


def files(suffix: str) -> Iterator[Path]:
    """Every file of ours with this suffix, hidden folders and leftovers left out."""
    for folder, names, found in os.walk(ROOT):
        # A virtual environment has a name of its owner's choice, but always this file.
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
    """A path as a reader of the repository names it."""
    return path.relative_to(ROOT).as_posix()
