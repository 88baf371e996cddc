"""A private RabbitMQ node that tests may fill, disconnect, kill and restart.

The node uses the installed program, but its own files, ports, cookie and name server: a RabbitMQ that already runs on
the machine may have queues with the same names, if its owner uses tocsin.
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
    """Return the path of the server's start script, or ``None`` if RabbitMQ is not installed.

    Debian's wrapper in the PATH is avoided, because it switches to another account.
    """
    debian = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    if debian.exists():
        return debian
    found = shutil.which("rabbitmq-server")
    return Path(found) if found else None


class RabbitMQ(ManagedProcess):
    """A RabbitMQ node as a child process; it writes only to its directory."""

    def __init__(self, program: Path, directory: Path) -> None:
        self._ports = dict(zip(("amqp", "management", "distribution", "names"), free_ports(4), strict=True))
        self._hosts = count(1)
        (directory / "rabbitmq.conf").write_text(_CONFIGURATION.format(**self._ports))
        (directory / "enabled_plugins").write_text("[rabbitmq_management].")
        (directory / "rabbitmq-env.conf").touch()
        super().__init__(
            "rabbitmq",
            [str(program)],
            log=directory / "rabbitmq.log",
            environment={
                "PATH": os.environ["PATH"],
                "LC_ALL": "C.UTF-8",
                "HOME": str(directory),
                "ERL_EPMD_ADDRESS": "127.0.0.1",
                "ERL_EPMD_PORT": str(self._ports["names"]),
                "ERL_FLAGS": _LOOPBACK,
                "RABBITMQ_NODENAME": f"tocsin-{self._ports['amqp']}@localhost",
                "RABBITMQ_DIST_PORT": str(self._ports["distribution"]),
                "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
                "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
                "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
                "RABBITMQ_LOG_BASE": str(directory),
                "RABBITMQ_SCHEMA_DIR": str(directory / "schema"),
                "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "config"),
                # Makes the start script exec the server instead of remaining as its parent.
                "RUNNING_UNDER_SYSTEMD": "1",
            },
        )
        self._names = ManagedProcess(
            "epmd",
            [shutil.which("epmd") or "epmd", "-address", "127.0.0.1", "-port", str(self._ports["names"])],
            log=directory / "epmd.log",
            environment={"PATH": os.environ["PATH"]},
        )
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{self._ports['management']}/api", auth=("guest", "guest"), timeout=10
        )

    @contextmanager
    def running(self) -> Iterator[RabbitMQ]:
        """Run the node and its name server for the duration of the block."""
        with ExitStack() as undo:
            for process in (self._names, self):
                undo.callback(process.kill)
                process.start()
            undo.callback(self._client.close)
            self.wait_ready()
            yield self

    def is_ready(self) -> bool:
        """Return whether the node accepts AMQP connections and its management API responds."""
        try:
            with socket.create_connection(("127.0.0.1", self._ports["amqp"]), timeout=1):
                return self._client.get("/overview").is_success
        except (OSError, httpx.TransportError):
            return False

    def crash(self) -> None:
        """Flush all declarations to disk, then kill the node with SIGKILL.

        RabbitMQ writes the name of a new quorum queue to disk within a second. A queue whose name was not written
        never elects a leader again (docs/operations.md, "leader not known").
        """
        self._evaluate("mnesia:sync_log(), [dets:sync(Table) || Table <- dets:all()].")
        self.kill()

    @contextmanager
    def memory_alarm(self) -> Iterator[None]:
        """Raise the node's memory alarm for the duration of the block."""
        resource = "{resource_limit, memory, node()}"
        self._evaluate(f"rabbit_alarm:set_alarm({{{resource}, []}}).")
        try:
            yield
        finally:
            self._evaluate(f"rabbit_alarm:clear_alarm({resource}).")

    def restart(self) -> None:
        """Start the node again with the data on its disk."""
        self.start()
        self.wait_ready()

    def url(self, host: str) -> str:
        """Return the BROKER_URL of a virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self._ports['amqp']}/{host}"

    @contextmanager
    def virtual_host(self) -> Iterator[str]:
        """Create a virtual host, yield its name, and delete it at the end."""
        host = f"test-{next(self._hosts)}"
        self.management_request("PUT", f"/vhosts/{host}")
        try:
            yield host
        finally:
            if not self.is_ready():
                self.restart()
            self.management_request("DELETE", f"/vhosts/{host}")

    def management_request(self, method: str, path: str, json: Any = None) -> Any:
        """Send a request to the management API below ``/api``; return the decoded JSON, or ``None`` without a body.

        :raises httpx.HTTPStatusError: when the status is an error.
        """
        response = self._client.request(method, path, json=json)
        response.raise_for_status()
        return response.json() if response.content else None

    def _evaluate(self, erlang: str) -> None:
        program = Path(self.command[0]).with_name("rabbitmqctl")
        subprocess.run([program, "eval", erlang], env=self.environment, check=True, capture_output=True)


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nothing listens on."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]
