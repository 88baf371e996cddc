"""`tocsin up`: everything that is not configured is started here, then our own processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tasks.startup import free_port
from workers.stack import discovery
from workers.stack.console import Console
from workers.stack.data_dir import DataDirectory
from workers.stack.managed_process import ManagedProcess, StackError
from workers.stack.own_processes import own_processes, tocsin
from workers.stack.postgres import Postgres
from workers.stack.settings import StackSettings
from workers.stack.supervisor import StopRequested, Supervisor
from workers.stack.valkey import Valkey


@dataclass(frozen=True)
class StackOptions:
    """What was asked for on the command line."""

    data: Path
    host: str
    port: int
    workers: int


class StackExtension(Protocol):
    """What may be added to a stack, like :mod:`workers.stack.demo`."""

    def prepare(self, stack: Stack, /) -> None:
        """Called with a migrated database, before our processes start."""

    def ready_message(self, stack: Stack, /) -> list[str]:
        """Called once everything is ready: lines to print before the last one."""


class Stack:
    """One start of everything; an extra may change its `environment` and start more with its `supervisor`."""

    def __init__(
        self, wishes: StackOptions, settings: StackSettings, voice: Console, extras: Sequence[StackExtension] = ()
    ) -> None:
        """Describe it; nothing is started yet."""
        self.options = wishes
        self.settings = settings
        self.console = voice
        self.extensions = extras
        self.data_dir = DataDirectory(wishes.data)
        self.supervisor = Supervisor(voice, changed=self._publish)
        self.port = wishes.port
        self.environment: dict[str, str] = {}

    @property
    def url(self) -> str:
        """Where the gateway answers."""
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"http://{host}:{self.port}"

    def run(self) -> None:
        """Start, stay until asked to stop, stop.

        :raises StackError: it cannot start; whatever was started has been stopped.
        """
        self.port = free_port(self.options.host, self.options.port)
        self.data_dir.create()
        with self.data_dir.locked():
            self.supervisor.handle_signals()
            try:
                self._start()
                self.supervisor.watch()
            except StopRequested:
                pass
            except StackError:
                if not self.supervisor.stopping:  # Ctrl-C may break what is just being made
                    raise
            finally:
                discovery.unpublish(self.data_dir)
                self.supervisor.stop()
                self.data_dir.remove_socket_directory()
        self.console.print("stopped")

    def _start(self) -> None:
        self._start_servers()
        self.supervisor.run(self._part("migrations", "migrate"))
        for extra in self.extensions:
            extra.prepare(self)
        self.supervisor.start(
            own_processes(
                self.options.host,
                self.port,
                self.options.workers,
                logs=self.data_dir.logs,
                environment=os.environ | self.environment,
            )
        )
        self._greet()

    def _start_servers(self) -> None:
        configured = self.settings.environment
        postgres, valkey = Postgres(self.data_dir), Valkey(self.data_dir)
        parts: list[ManagedProcess] = []
        if "DATABASE_URL" not in configured:
            parts.append(postgres)
        if "BROKER_URL" not in configured or "REDIS_URL" not in configured:
            parts.append(valkey)
        self.supervisor.start(parts)
        if postgres.note:
            self.console.print(postgres.note)
        self.environment = {
            "DATABASE_URL": postgres.url,
            "BROKER_URL": valkey.broker_url,
            "REDIS_URL": valkey.redis_url,
            "TOCSIN_DATA": str(self.data_dir.path),
            "TOCSIN_SECRET": self.settings.secret or self.data_dir.secret(),
            "TOCSIN_PUBLIC_URL": self.settings.public_url or self.url,
            **configured,
        }
        self._publish()

    def _part(self, name: str, *words: str) -> ManagedProcess:
        environment = os.environ | self.environment
        return ManagedProcess(name, tocsin(*words), log=self.data_dir.logs / f"{name}.log", environment=environment)

    def _greet(self) -> None:
        self.console.print(f"data       {self.data_dir.path}")
        self.console.print(f"API        {self.url}/docs")
        for line in (line for extra in self.extensions for line in extra.ready_message(self)):
            self.console.print(line)
        self.console.print(f"ready {self.url}")

    def _publish(self) -> None:
        if not self.environment:
            return
        running = discovery.RunningStack(
            self.url, self.options.host, self.port, self.environment, {"up": os.getpid(), **self.supervisor.pids}
        )
        try:
            discovery.publish(self.data_dir, running)
        except OSError as error:
            self.console.print(
                f"{self.data_dir.path}/stack.json cannot be written: {error.strerror}; others do not find us"
            )
