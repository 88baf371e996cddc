"""A RabbitMQ of our own: a private node that tests may fill, cut off, kill and bring back.

It uses the installed program and nothing else of the machine: its files, ports, cookie and name server are its own. A
RabbitMQ that already runs here belongs to somebody, and has queues of the same names if they use tocsin.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from workers.stack.managed_process import ManagedProcess

_CONFIGURATION = """
listeners.tcp.1 = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
log.console = true
log.file = false
raft.wal_max_size_bytes = 32000000
"""
_LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"


def find_rabbitmq_server() -> Path | None:
    """The server's start script, if it is installed; not Debian's wrapper of it, which changes the account."""
    debian = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    if debian.exists():
        return debian
    found = shutil.which("rabbitmq-server")
    return Path(found) if found else None


class RabbitMQ(ManagedProcess):
    """The node, as a child of this process; it needs no rights beyond its folder."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._ports = dict(zip(("amqp", "management", "distribution", "names"), free_ports(4), strict=True))
        self._folder = folder
        self._hosts = count(1)
        (folder / "rabbitmq.conf").write_text(_CONFIGURATION.format(**self._ports))
        (folder / "enabled_plugins").write_text("[rabbitmq_management].")
        (folder / "rabbitmq-env.conf").touch()
        super().__init__(
            "rabbitmq",
            [str(program)],
            log=folder / "rabbitmq.log",
            environment={
                "PATH": os.environ["PATH"],
                "LC_ALL": "C.UTF-8",
                "HOME": str(folder),
                "ERL_EPMD_ADDRESS": "127.0.0.1",
                "ERL_EPMD_PORT": str(self._ports["names"]),
                "ERL_FLAGS": _LOOPBACK,
                "RABBITMQ_NODENAME": f"tocsin-{self._ports['amqp']}@localhost",
                "RABBITMQ_DIST_PORT": str(self._ports["distribution"]),
                "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
                "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
                "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
                "RABBITMQ_LOG_BASE": str(folder),
                "RABBITMQ_SCHEMA_DIR": str(folder / "schema"),
                "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
                # The shell then becomes the server, instead of staying as its parent.
                "RUNNING_UNDER_SYSTEMD": "1",
            },
        )
        self._names = ManagedProcess(
            "epmd",
            [shutil.which("epmd") or "epmd", "-address", "127.0.0.1", "-port", str(self._ports["names"])],
            log=folder / "epmd.log",
            environment={"PATH": os.environ["PATH"]},
        )
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{self._ports['management']}/api", auth=("guest", "guest"), timeout=10
        )

    @contextmanager
    def running(self) -> Iterator[RabbitMQ]:
        """The node and its name server, for as long as the block lasts."""
        with ExitStack() as undo:
            for part in (self._names, self):
                undo.callback(part.kill)
                part.start()
            undo.callback(self._client.close)
            self.wait_ready()
            yield self

    def is_ready(self) -> bool:
        """Whether it takes connections, and answers questions."""
        try:
            with socket.create_connection(("127.0.0.1", self._ports["amqp"]), timeout=1):
                return self._client.get("/overview").is_success
        except (OSError, httpx.TransportError):
            return False

    def crash(self) -> None:
        """Kill -9 it, with all that was declared on its disk.

        By itself RabbitMQ writes a new quorum queue's name down within a second, and a queue whose name it has not
        written never finds a leader again (docs/operations.md, "leader not known").
        """
        self._evaluate("mnesia:sync_log(), [dets:sync(Table) || Table <- dets:all()].")
        self.kill()

    def restart(self) -> None:
        """Bring it back, with what was on its disk."""
        self.start()
        self.wait_ready()

    def url(self, host: str) -> str:
        """A virtual host, as BROKER_URL names it."""
        return f"amqp://guest:guest@127.0.0.1:{self._ports['amqp']}/{host}"

    @contextmanager
    def virtual_host(self) -> Iterator[str]:
        """The name of a new and empty virtual host, removed at the end."""
        host = f"test-{next(self._hosts)}"
        self.management_request("PUT", f"/vhosts/{host}")
        try:
            yield host
        finally:
            if not self.is_ready():
                self.restart()
            self.management_request("DELETE", f"/vhosts/{host}")

    def management_request(self, method: str, path: str, json: Any = None) -> Any:
        """Ask its management, under ``/api``; the answer's JSON, if there is one."""
        answer = self._client.request(method, path, json=json)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def _evaluate(self, erlang: str) -> None:
        program = Path(self.command[0]).with_name("rabbitmqctl")
        subprocess.run([program, "eval", erlang], env=self.environment, check=True, capture_output=True)


def free_ports(how_many: int) -> list[int]:
    """Ports of the loopback on which nobody listens."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(how_many)]
        return [each.getsockname()[1] for each in sockets]
