"""A stack's data directory: its files, their permissions, and the lock that allows only one stack at a time."""

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
from workers.stack.private_files import open_private, read_private

ROOT_DIRECTORY = Path("/var/lib/tocsin")
"""Where root stores files for an account that cannot enter the data directory."""

MARKER = "TOCSIN"
OWNED_NAMES = (
    "postgres", "postgres.new", "postgres.lock", "valkey", "valkey.lock", "programs", "run", "logs", "demo",
    "secret", "webhook-secrets.json", "stack.json", "lock", MARKER,
)  # fmt: skip
"""The names of everything that tocsin creates in a data directory. `tocsin reset` removes only these."""

_SERVER_NAMES = ("postgres", "postgres.new")
_LINKED_NAMES = ("postgres", "run")
"""Those that may be links, because what they lead to is elsewhere."""

_SOCKET_BYTES = 107 if sys.platform == "linux" else 103
_LONGEST_SOCKET = "/valkey/valkey.sock"
_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")


class DataDirectory:
    """A stack's data directory and the files in it."""

    def __init__(self, path: Path) -> None:
        """Set the path, without creating the directory."""
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self.programs = self.path / "programs"

    @property
    def is_initialized(self) -> bool:
        """Whether a stack has ever been started in this directory."""
        return (self.path / MARKER).is_file()

    def create(self) -> None:
        """Create the directory, or prepare an existing one.

        :raises StackError: the path is not a directory, the directory is not writable, other accounts can change what
            is in it, or the disk is full.
        """
        try:
            if self.path.is_dir() and self.path.stat().st_uid == os.geteuid() and not any(self.path.iterdir()):
                self.path.chmod(0o700)
            self.require_private()
            fresh = not self.path.exists() or self.is_initialized or not any(self.path.iterdir())
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A directory that holds other files keeps its permissions.
            if fresh and self.path.stat().st_uid == os.geteuid():
                self.path.chmod(0o711 if server_account() else 0o700)
            write_private(self.path / MARKER, "The data of one tocsin stack. `tocsin reset` removes it.\n")
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _create_error(self.path, error) from error
        self.require_private()

    def require_private(self) -> None:
        """Check that no other account can change what is in this directory, if it exists.

        Whoever can could have us write to any file that we may write to, or name the database that we use.

        :raises StackError: another account owns the directory, or something of ours in it, or may write to it.
        """
        if self.path.is_symlink():
            _require_own(self.path, also=pwd.getpwuid(0))
        if not self.path.is_dir():
            return
        _require_own(self.path.resolve())
        account = server_account()
        for name in OWNED_NAMES:
            path = self.path / name
            # The server's account owns its data, which is never opened here.
            _require_own(path, also=account if name in _SERVER_NAMES else None)
            if path.is_symlink() and name not in _LINKED_NAMES:
                raise StackError(f"{path} is a link, which tocsin has not made: remove it")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock that keeps other stacks out of this directory while the block runs.

        :raises StackError: another stack holds the lock.
        """
        try:
            descriptor = open_private(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        except OSError as error:
            raise _create_error(self.path, error) from error
        with os.fdopen(descriptor, "a+") as lock:
            if not _try_lock(lock, within_seconds=0.5):  # a reader of stack.json holds the lock for a moment
                lock.seek(0)
                raise StackError(
                    f"tocsin already runs in {self.path} (pid {lock.read().strip() or 'unknown'}): "
                    "stop that one, or choose another directory with --data"
                )
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield

    def is_locked(self) -> bool:
        """Whether a stack runs in this directory.

        :raises OSError: the directory does not exist or is not readable.
        :raises StackError: other accounts can change what is in it.
        """
        self.require_private()
        with os.fdopen(open_private(self.path / "lock", os.O_RDONLY)) as lock:
            return not _try_lock(lock)

    def secret(self) -> str:
        """Return the stack's secret, which is created on first use."""
        path = self.path / "secret"
        if not path.exists():
            write_private(path, secrets.token_urlsafe(32))
        return read_private(path).strip()

    def server_directory(self, name: str, account: pwd.struct_passwd | None) -> Path:
        """Return a directory for a server, which `account` can enter.

        It is in the data directory or, if necessary, elsewhere and linked from the data directory.
        """
        link = self.path / name
        if link.is_symlink():
            if not link.resolve().parent.is_dir():  # never start without the data that was there
                raise data_missing_error(link.resolve())
            return link.resolve()
        if link.exists() or account is None or can_enter(account, self.path):
            return link
        own = self._create_linked_parent(ROOT_DIRECTORY) / name
        link.symlink_to(own)
        return own

    def socket_directory(self, account: pwd.struct_passwd | None) -> Path:
        """Return a private directory for sockets, which `account` can enter.

        Its path is short and has no special characters. It is ``run`` in the data directory, or a temporary
        directory to which ``run`` links if ``run`` itself is unsuitable.
        """
        run = self.path / "run"
        if run.is_symlink() and not _is_own_directory(run.resolve()):
            run.unlink()
        if not run.exists():
            if self._fits(run) and (account is None or can_enter(account, self.path)):
                run.mkdir()
            else:
                root = "/run" if account and os.access("/run", os.W_OK) else "/tmp"  # noqa: S108 - mkdtemp is private
                run.symlink_to(tempfile.mkdtemp(prefix="tocsin-", dir=root))
        directory = run.resolve()
        directory.chmod(0o711 if account else 0o700)
        return directory

    def remove_socket_directory(self) -> None:
        """Remove the socket directory. Every process must have been stopped before."""
        self._remove("run")

    def remove(self) -> None:
        """Remove everything that tocsin created, including linked directories, and leave any other files in place.

        :raises StackError: other accounts can change what is in the directory.
        """
        self.require_private()
        for path in self.path.glob("*.lock"):
            with path.open() as lock:
                _try_lock(lock, within_seconds=10)  # servers of a killed stack may still be shutting down
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

    def _create_linked_parent(self, root: Path) -> Path:
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix="data-", dir=root))
        directory.chmod(0o711)
        return directory

    def _fits(self, run: Path) -> bool:
        return len(os.fsencode(run)) + len(_LONGEST_SOCKET) <= _SOCKET_BYTES and bool(_PLAIN.fullmatch(str(run)))


def server_account() -> pwd.struct_passwd | None:
    """Return the account that PostgreSQL runs as: `nobody` if the current user is root, else None for the current user.

    :raises StackError: the current user is root, and there is no account `nobody`.
    """
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise StackError("PostgreSQL does not run as root, and there is no account `nobody` to run it as") from None


def can_enter(account: pwd.struct_passwd, path: Path) -> bool:
    """Return whether ``account`` can enter the directory. A child process tries, as modes alone are not conclusive."""
    test = ["/bin/sh", "-c", 'test -x "$1"', "sh", str(path)]
    return subprocess.run(test, **child_identity(account), check=False).returncode == 0


def data_missing_error(path: Path) -> StackError:
    """Return the error for data that has been removed."""
    return StackError(f"the data in {path} is gone: put it back, or give it up with `tocsin reset`")


def write_private(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a file atomically, by default readable only by its owner."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
    draft.replace(path)


def _try_lock(lock: IO[str], within_seconds: float = 0.0) -> bool:
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


def _require_own(path: Path, *, also: pwd.struct_passwd | None = None) -> None:
    """Check that this account, or ``also``, owns the path, if it exists, and that nobody else may write to it.

    :raises StackError: it is not so.
    """
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return
    owners = {os.geteuid()} | ({also.pw_uid} if also else set())
    if facts.st_uid not in owners:
        raise StackError(
            f"{path} belongs to {_account_name(facts.st_uid)}, who could change what is in it: "
            "run this as that account, or choose another directory with --data"
        )
    if stat.S_ISDIR(facts.st_mode) and facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StackError(
            f"other accounts may write to {path}: make it private with `chmod go-w`, "
            "or choose another directory with --data"
        )


def _account_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"account {number}"


def _is_own_directory(path: Path) -> bool:
    try:
        facts = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid()


def _create_error(path: Path, error: OSError) -> StackError:
    if error.errno == errno.ENOSPC:
        return disk_full_error(path)
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return StackError(f"{error.filename or path} is a file: choose a directory with --data")
    return StackError(f"{path} cannot be used: {error.strerror}; choose a directory with --data that you may write to")
