"""The embedded Valkey server, which listens only on a Unix socket.

The server carries only hints and wake-ups, so it may lose the last second of writes in a crash. It never evicts keys.
"""

from __future__ import annotations

import os
import socket

from workers.stack.binaries import valkey_server
from workers.stack.data_dir import DataDirectory, server_account
from workers.stack.managed_process import ManagedProcess, StackError

_SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory-policy": "noeviction",
    "aof-load-truncated": "yes",
}


class Valkey(ManagedProcess):
    """The Valkey server for a data directory."""

    def __init__(self, data_dir: DataDirectory) -> None:
        """Set up the server, without starting it."""
        self._data_dir = data_dir
        self.socket = data_dir.path / "run" / "valkey" / "valkey.sock"
        super().__init__(
            "valkey",
            [],
            log=data_dir.logs / "valkey.log",
            environment={"LC_ALL": "C", "TZ": "UTC", "PATH": os.environ.get("PATH", os.defpath)},
            lock_file=data_dir.path / "valkey.lock",
        )

    @property
    def broker_url(self) -> str:
        """The server's URL for kombu."""
        return f"redis+socket://{self.socket}"

    @property
    def redis_url(self) -> str:
        """The server's URL for redis-py."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start the server.

        :raises StackError: the server cannot be started.
        """
        data = self._data_dir.path / "valkey"
        try:
            data.mkdir(mode=0o700, exist_ok=True)
            self.socket = self._data_dir.socket_directory(server_account()) / "valkey" / "valkey.sock"
            self.socket.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StackError(f"valkey cannot be prepared in {data}: {error.strerror}") from error
        self.command = [str(valkey_server()), "--dir", str(data), "--unixsocket", str(self.socket)]
        for name, value in _SETTINGS.items():
            self.command += [f"--{name}", value]
        super().start()

    def is_ready(self) -> bool:
        """Return whether the server responds to PING. It does not respond normally while it loads its data."""
        if not self.is_running():
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(2)
            try:
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
            except OSError:
                return False

    def clear_leftovers(self) -> None:
        """Remove a killed server's socket."""
        self.socket.unlink(missing_ok=True)
