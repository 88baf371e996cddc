"""The previous release, from git: which commit it is, its files, and its wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.project.tree import PACKAGES, ROOT

VERSIONS = Path("models/migrations/versions")

_BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE")


def git(*words: str) -> str:
    """Return what a git command prints in this repository, or nothing if it fails or git is not installed."""
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""


def migrations_today() -> set[str]:
    """Return the paths of the migrations in the checkout."""
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / VERSIONS).glob("*.py")}


def migrations_of(commit: str) -> set[str]:
    """Return the paths of a commit's migrations, or an empty set if there is no such commit."""
    return set(git("ls-tree", "--name-only", commit, f"{VERSIONS.as_posix()}/").split())


def unpack(commit: str, folder: Path) -> None:
    """Write a commit's files into an existing folder."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)


def copy_checkout(folder: Path) -> None:
    """Write those files of the checkout from which its wheel is built into an existing folder."""
    for name in _BUILT_FROM:
        shutil.copy(ROOT / name, folder)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))


def build_and_unpack_wheel(source: Path, folder: Path) -> Path:
    """Build a wheel, without network, and return a directory in ``folder`` with the wheel's files."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    [wheel] = folder.glob("*.whl")
    site = folder / "site"
    with zipfile.ZipFile(wheel) as files:
        files.extractall(site)
    return site
