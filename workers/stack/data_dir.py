"""The data folder: what of it is ours, who may reach it, and that only one stack works on it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import re
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from workers.stack.managed_process import StackError, child_identity, disk_full_error

ROOT_DIRECTORY = Path("/var/lib/tocsin")
"""Where root keeps what another account must reach when the data folder lies under a closed one."""

MARKER = "TOCSIN"
OWNED_NAMES = (
    "postgres", "postgres.new", "postgres.lock", "valkey", "valkey.lock", "programs", "run", "logs", "demo",
    "secret", "stack.json", "lock", MARKER,
)  # fmt: skip
"""Everything we put into a data folder; `tocsin reset` removes these and nothing else."""

_SOCKET_BYTES = 107 if sys.platform == "linux" else 103
_LONGEST_SOCKET = "/valkey/valkey.sock"
_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")


class DataDirectory:
    """One data folder and the places that belong to it."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is touched yet."""
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self.programs = self.path / "programs"

    @property
    def is_initialized(self) -> bool:
        """Whether a stack was ever started on it."""
        return (self.path / MARKER).is_file()

    def create(self) -> None:
        """Make the folder, or take the one that is there.

        :raises StackError: it is no folder, cannot be written, or the disk is full.
        """
        try:
            fresh = not self.path.exists() or self.is_initialized or not any(self.path.iterdir())
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if (
                fresh and self.path.stat().st_uid == os.geteuid()
            ):  # a folder with other files in it keeps its permissions
                self.path.chmod(0o711 if server_account() else 0o700)
            write_private(self.path / MARKER, "The data of one tocsin stack. `tocsin reset` removes it.\n")
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _sentence(self.path, error) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other stack off this folder.

        :raises StackError: one works on it already.
        """
        with (self.path / "lock").open("a+") as lock:
            if not _take(lock, within_seconds=0.5):  # a reader of stack.json may look at the lock just now
                lock.seek(0)
                raise StackError(
                    f"tocsin already runs on {self.path} (pid {lock.read().strip() or 'unknown'}): "
                    "stop that one, or name another folder with --data"
                )
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield

    def is_locked(self) -> bool:
        """Whether a stack works on this folder.

        :raises OSError: there is no such folder, or it is not ours to read.
        """
        with (self.path / "lock").open() as lock:
            return not _take(lock)

    def secret(self) -> str:
        """The secret of this stack, made when first asked for."""
        path = self.path / "secret"
        if not path.exists():
            write_private(path, secrets.token_urlsafe(32))
        return path.read_text().strip()

    def server_directory(self, name: str, account: pwd.struct_passwd | None) -> Path:
        """A folder that `account` can reach: in the data folder, or, behind a link there, in a place of root's."""
        link = self.path / name
        if link.is_symlink():
            if not link.resolve().parent.is_dir():  # never start empty in place of data that was there
                raise data_missing_error(link.resolve())
            return link.resolve()
        if link.exists() or account is None or can_enter(account, self.path):
            return link
        own = self._own_place(ROOT_DIRECTORY) / name
        link.symlink_to(own)
        return own

    def socket_directory(self, account: pwd.struct_passwd | None) -> Path:
        """The folder of the sockets: short, plain, private, and reachable by `account`.

        It is ``run`` in the data folder, or, where that does not fit, a temporary folder behind a link of that name.
        """
        run = self.path / "run"
        if run.is_symlink() and not _is_own_folder(run.resolve()):
            run.unlink()
        if not run.exists():
            if self._fits(run) and (account is None or can_enter(account, self.path)):
                run.mkdir()
            else:
                root = "/run" if account and os.access("/run", os.W_OK) else "/tmp"  # noqa: S108 - mkdtemp is private
                run.symlink_to(tempfile.mkdtemp(prefix="tocsin-", dir=root))
        folder = run.resolve()
        folder.chmod(0o711 if account else 0o700)
        return folder

    def remove_socket_directory(self) -> None:
        """Remove the sockets' folder after everything has stopped."""
        self._remove("run")

    def remove(self) -> None:
        """Remove what is ours, wherever it lies; files of others in the folder stay."""
        for path in self.path.glob("*.lock"):
            with path.open() as lock:
                _take(lock, within_seconds=10)  # a killed stack's servers may just be ending
        for name in OWNED_NAMES:
            self._remove(name)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _remove(self, name: str) -> None:
        path = self.path / name
        target = path.resolve()
        if target.is_dir():
            shutil.rmtree(target)
        if target.parent.parent == ROOT_DIRECTORY:
            shutil.rmtree(target.parent, ignore_errors=True)
        if path.is_symlink() or path.is_file():
            path.unlink()

    def _own_place(self, root: Path) -> Path:
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix="data-", dir=root))
        place.chmod(0o711)
        return place

    def _fits(self, run: Path) -> bool:
        return len(os.fsencode(run)) + len(_LONGEST_SOCKET) <= _SOCKET_BYTES and bool(_PLAIN.fullmatch(str(run)))


def server_account() -> pwd.struct_passwd | None:
    """Who PostgreSQL runs as: `nobody` when we are root, else ourselves (none)."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise StackError("PostgreSQL does not run as root, and there is no account `nobody` to run it as") from None


def can_enter(account: pwd.struct_passwd, path: Path) -> bool:
    """Whether `account` can enter `path`; the system is asked, since modes alone do not tell."""
    question = ["/bin/sh", "-c", 'test -x "$1"', "sh", str(path)]
    return subprocess.run(question, **child_identity(account), check=False).returncode == 0


def data_missing_error(place: Path) -> StackError:
    """The sentence for data that was there and is not any more."""
    return StackError(f"the data in {place} is gone: put it back, or give it up with `tocsin reset`")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)


def _take(lock: IO[str], within_seconds: float = 0.0) -> bool:
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _is_own_folder(path: Path) -> bool:
    try:
        facts = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid()


def _sentence(path: Path, error: OSError) -> StackError:
    if error.errno == errno.ENOSPC:
        return disk_full_error(path)
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return StackError(f"{error.filename or path} is a file: name a folder with --data")
    return StackError(f"{path} cannot be used: {error.strerror}; name a folder with --data that you may write to")
