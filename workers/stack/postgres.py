"""The embedded PostgreSQL server, which listens only on a Unix socket.

If root starts the server, the server runs as `nobody`, in directories that `nobody` can enter. No permissions outside
the data directory are changed. The server accepts connections only of the account that started it, which the kernel
names to it (peer authentication).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from workers.stack import parent_death
from workers.stack.binaries import postgres_programs
from workers.stack.data_dir import DataDirectory, data_missing_error, server_account, write_private
from workers.stack.managed_process import ManagedProcess, StackError, child_identity, disk_full_error

MAJOR = "18"
USER = DATABASE = "tocsin"

_INITDB = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8"]
_SETTINGS = {
    "shared_buffers": "128MB",
    "max_connections": "100",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "fsync": "on",
    "synchronous_commit": "on",
    "jit": "off",
    "random_page_cost": "1.1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "unix_socket_permissions": "0700",
}
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


class Postgres(ManagedProcess):
    """The PostgreSQL server for a data directory."""

    stop_signal = signal.SIGINT  # "fast" shutdown: ends sessions, writes a checkpoint
    parent_death_signal = signal.SIGQUIT  # "immediate" shutdown: the next start recovers from the WAL

    def __init__(self, data_dir: DataDirectory, *, durable: bool = True) -> None:
        """Set up the server, without starting it.

        ``durable=False`` is for tests: data is lost if the operating system crashes.
        """
        account = server_account()
        self._data_dir = data_dir
        self._settings = _SETTINGS if durable else _SETTINGS | _NOT_DURABLE
        self.data = data_dir.path / "postgres"
        self.sockets = data_dir.path / "run"
        super().__init__(
            "postgres",
            [],
            log=data_dir.logs / "postgres.log",
            environment={"LC_ALL": "C", "TZ": "UTC", "PATH": os.environ.get("PATH", os.defpath)},
            account=account,
            lock_file=data_dir.path / "postgres.lock",
        )

    @property
    def url(self) -> str:
        """The server's URL for libpq. SQLAlchemy needs the scheme ``postgresql+psycopg`` instead."""
        return f"postgresql://{USER}@/{DATABASE}?host={self.sockets}"

    @property
    def note(self) -> str:
        """A line that says which data had to be stored outside the data directory, or an empty string."""
        if self.data.parent == self._data_dir.path:
            return ""
        return f"postgres keeps its data in {self.data}, since it cannot reach {self._data_dir.path}"

    def start(self) -> None:
        """Create the database cluster if there is none, and start the server.

        :raises StackError: the data is from another major version, the disk is full, or initdb fails.
        """
        account = self.account
        try:
            programs = postgres_programs(self._data_dir, account)
            self.data = self._data_dir.server_directory("postgres", account)
            self.sockets = _private_directory(self._data_dir.socket_directory(account) / "postgres", account)
            if not self.data.exists():
                if self.popen is not None:
                    raise data_missing_error(self.data)
                self._create_cluster(programs)
        except OSError as error:
            raise self.failure(f"cannot be prepared: {error.strerror or error}") from error
        self._check_version()
        self.command = [str(programs / "postgres"), "-D", str(self.data), "-h", "", "-k", str(self.sockets)]
        for name, value in (self._settings | self._write_authentication()).items():
            self.command += ["-c", f"{name}={value}"]
        super().start()

    def is_ready(self) -> bool:
        """Return whether the server responds to a query."""
        import psycopg

        if not self.is_running():
            return False
        try:
            with psycopg.connect(self.url, connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def end_orphans(self) -> None:
        """Kill the sessions that a killed server has left running. Their long queries would delay the next start."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "cwd").readlink() == self.data and (process / "exe").readlink().name == "postgres":
                    os.kill(int(process.name), signal.SIGKILL)

    def clear_leftovers(self) -> None:
        """Remove a killed server's lock files.

        Our own lock proves that the server has ended, even if another process now has its pid.
        """
        for leftover in (self.data / "postmaster.pid", *self.sockets.glob(".s.PGSQL.*")):
            leftover.unlink(missing_ok=True)

    def _write_authentication(self) -> dict[str, str]:
        """Write the files that say who may connect, and return the settings that name them.

        They are outside the data, where only this account may write.
        """
        access, accounts = self.sockets.parent / "pg_hba.conf", self.sockets.parent / "pg_ident.conf"
        owner = pwd.getpwuid(os.geteuid()).pw_name
        try:
            write_private(access, "local all all peer map=tocsin\n", mode=0o644)
            write_private(accounts, f'tocsin "{owner}" all\n', mode=0o644)
        except OSError as error:
            raise self.failure(f"cannot be prepared: {error.strerror or error}") from error
        return {"hba_file": str(access), "ident_file": str(accounts)}

    def _check_version(self) -> None:
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != MAJOR:
            raise StackError(
                f"{self.data} holds data of PostgreSQL {version}, and this is {MAJOR}: back it up with the tocsin that "
                "created it (`tocsin backup`), then `tocsin reset`, and restore it here (`tocsin restore`)"
            )

    def _create_cluster(self, programs: Path) -> None:
        """Create the cluster under a temporary name and then rename it, so that an incomplete cluster is never used."""
        draft = self.data.with_name("postgres.new")
        if draft.exists():
            shutil.rmtree(draft)
        _private_directory(draft, self.account)
        self._run(
            [
                programs / "initdb",
                *_INITDB,
                "--auth-local=peer",
                "--auth-host=reject",
                "--no-instructions",
                "-U",
                USER,
                "-D",
                draft,
            ]
        )
        self._run([programs / "postgres", "--single", "-D", draft, "postgres"], f"CREATE DATABASE {DATABASE}\n")
        draft.replace(self.data)

    def _run(self, command: list[str | Path], text: str = "") -> None:
        done = subprocess.run(
            command,
            input=text,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            process_group=0,
            preexec_fn=parent_death.make_preexec(signal.SIGKILL),
            **child_identity(self.account),
        )
        if done.returncode == 0:
            return
        if "No space left on device" in done.stdout:
            raise disk_full_error(self.data)
        excerpt = "".join(f"\n  {line}" for line in done.stdout.splitlines()[-8:])
        raise StackError(f"{Path(command[0]).name} failed with exit code {done.returncode}:{excerpt}")


def _private_directory(path: Path, account: pwd.struct_passwd | None) -> Path:
    path.mkdir(mode=0o700, exist_ok=True)
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)
    return path
