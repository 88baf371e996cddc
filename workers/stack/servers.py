"""PostgreSQL and Valkey alone, without our own processes: for tests and for trying things out."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from workers.stack.data_dir import DataDirectory
from workers.stack.postgres import Postgres
from workers.stack.valkey import Valkey


class EmbeddedServers:
    """The two servers of a data folder; they can be killed and brought back, on the same URLs."""

    def __init__(self, folder: DataDirectory, *, durable: bool = True) -> None:
        """Describe them; nothing is started yet."""
        self.data_dir = folder
        self.postgres = Postgres(folder, durable=durable)
        self.valkey = Valkey(folder)

    @property
    def database_url(self) -> str:
        """PostgreSQL, as SQLAlchemy and libpq take it; name the driver as ``postgresql+psycopg://``."""
        return self.postgres.url

    @property
    def broker_url(self) -> str:
        """Valkey, as kombu and Celery take it."""
        return self.valkey.broker_url

    @property
    def redis_url(self) -> str:
        """Valkey, as redis-py takes it."""
        return self.valkey.redis_url

    @property
    def environment(self) -> dict[str, str]:
        """The settings that lead to these servers."""
        return {"DATABASE_URL": self.database_url, "BROKER_URL": self.broker_url, "REDIS_URL": self.redis_url}

    def start_postgres(self) -> None:
        """Start PostgreSQL and wait until it answers."""
        self.postgres.start()
        self.postgres.wait_ready()

    def stop_postgres(self) -> None:
        """Stop PostgreSQL in good order."""
        self.postgres.stop()

    def kill_postgres(self) -> None:
        """Kill PostgreSQL with -9, its sessions with it."""
        self.postgres.kill()

    def restart_postgres(self) -> None:
        """Stop PostgreSQL and bring it back."""
        self.stop_postgres()
        self.start_postgres()

    def start_valkey(self) -> None:
        """Start Valkey and wait until it answers."""
        self.valkey.start()
        self.valkey.wait_ready()

    def stop_valkey(self) -> None:
        """Stop Valkey in good order."""
        self.valkey.stop()

    def kill_valkey(self) -> None:
        """Kill Valkey with -9."""
        self.valkey.kill()

    def restart_valkey(self) -> None:
        """Stop Valkey and bring it back."""
        self.stop_valkey()
        self.start_valkey()


@contextlib.contextmanager
def embedded_servers(data: Path | None = None, *, durable: bool = True) -> Iterator[EmbeddedServers]:
    """Run both servers on `data`, which is kept; without `data` on a folder of their own, which is not.

    :raises workers.stack.managed_process.StackError: they cannot be started.
    """
    folder = DataDirectory(data or Path(tempfile.mkdtemp(prefix="tocsin-", dir="/tmp")))
    servers = EmbeddedServers(folder, durable=durable)
    with contextlib.ExitStack() as undo:
        if data is None:
            undo.callback(folder.remove)
        folder.create()
        undo.enter_context(folder.locked())
        undo.callback(folder.remove_socket_directory)
        for start, stop in (
            (servers.start_valkey, servers.stop_valkey),
            (servers.start_postgres, servers.stop_postgres),
        ):
            undo.callback(stop)
            start()
        yield servers
