"""Embedded PostgreSQL and Valkey without tocsin's processes, for tests and for commands while the stack is stopped."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from workers.stack.data_dir import DataDirectory
from workers.stack.postgres import Postgres
from workers.stack.valkey import Valkey


class EmbeddedServers:
    """Embedded PostgreSQL and Valkey for a data directory. Their URLs stay the same across restarts."""

    def __init__(self, data_dir: DataDirectory, *, durable: bool = True) -> None:
        """Set up the servers, without starting them."""
        self.data_dir = data_dir
        self.postgres = Postgres(data_dir, durable=durable)
        self.valkey = Valkey(data_dir)

    @property
    def database_url(self) -> str:
        """PostgreSQL's URL for libpq. SQLAlchemy needs the scheme ``postgresql+psycopg`` instead."""
        return self.postgres.url

    @property
    def broker_url(self) -> str:
        """Valkey's URL for kombu and Celery."""
        return self.valkey.broker_url

    @property
    def redis_url(self) -> str:
        """Valkey's URL for redis-py."""
        return self.valkey.redis_url

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that hold these servers' URLs."""
        return {"DATABASE_URL": self.database_url, "BROKER_URL": self.broker_url, "REDIS_URL": self.redis_url}

    def start_postgres(self) -> None:
        """Start PostgreSQL and wait until it is ready."""
        self.postgres.start()
        self.postgres.wait_ready()

    def stop_postgres(self) -> None:
        """Stop PostgreSQL gracefully."""
        self.postgres.stop()

    def kill_postgres(self) -> None:
        """Kill PostgreSQL and its sessions with SIGKILL."""
        self.postgres.kill()

    def restart_postgres(self) -> None:
        """Stop PostgreSQL and start it again."""
        self.stop_postgres()
        self.start_postgres()

    def start_valkey(self) -> None:
        """Start Valkey and wait until it is ready."""
        self.valkey.start()
        self.valkey.wait_ready()

    def stop_valkey(self) -> None:
        """Stop Valkey gracefully."""
        self.valkey.stop()

    def kill_valkey(self) -> None:
        """Kill Valkey with SIGKILL."""
        self.valkey.kill()

    def restart_valkey(self) -> None:
        """Stop Valkey and start it again."""
        self.stop_valkey()
        self.start_valkey()


@contextlib.contextmanager
def embedded_servers(data: Path | None = None, *, durable: bool = True) -> Iterator[EmbeddedServers]:
    """Run both servers in the directory `data`, or in a temporary directory that is removed afterwards.

    :raises workers.stack.managed_process.StackError: a server cannot be started.
    """
    data_dir = DataDirectory(data or Path(tempfile.mkdtemp(prefix="tocsin-", dir="/tmp")))
    servers = EmbeddedServers(data_dir, durable=durable)
    with contextlib.ExitStack() as cleanup:
        if data is None:
            cleanup.callback(data_dir.remove)
        data_dir.create()
        cleanup.enter_context(data_dir.locked())
        cleanup.callback(data_dir.remove_socket_directory)
        for start, stop in (
            (servers.start_valkey, servers.stop_valkey),
            (servers.start_postgres, servers.stop_postgres),
        ):
            cleanup.callback(stop)
            start()
        yield servers
