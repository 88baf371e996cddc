"""The stack that `tocsin up` runs: an embedded server for each one that is not configured, then tocsin's processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models.known_secrets import is_loopback
from tasks.startup import free_port
from workers.runtime.imports import importing
from workers.stack import discovery
from workers.stack.console import Console
from workers.stack.data_dir import DataDirectory
from workers.stack.managed_process import ManagedProcess, StackError
from workers.stack.own_processes import own_processes, tocsin
from workers.stack.postgres import Postgres
from workers.stack.process_settings import process_environment
from workers.stack.settings import StackSettings
from workers.stack.supervisor import StopRequested, Supervisor
from workers.stack.valkey import Valkey


@dataclass(frozen=True)
class StackOptions:
    """Command-line options for a stack."""

    data: Path
    host: str
    port: int
    workers: int
    demo: bool = False
    insecure_demo: bool = False


class StackExtension(Protocol):
    """An extension of a stack, such as :mod:`workers.stack.demo`."""

    def prepare(self, stack: Stack, /) -> None:
        """Prepare the stack. Called after the database has been migrated and before tocsin's processes start."""

    def ready_message(self, stack: Stack, /) -> list[str]:
        """Return lines to print once everything is ready."""


class Stack:
    """One run of the stack. An extension may change ``environment`` and may start processes with ``supervisor``."""

    def __init__(
        self,
        options: StackOptions,
        settings: StackSettings,
        console: Console,
        extensions: Sequence[StackExtension] = (),
    ) -> None:
        """Set up the stack, without starting it."""
        self.options = options
        self.settings = settings
        self.console = console
        self.extensions = extensions
        self.data_dir = DataDirectory(options.data)
        self.supervisor = Supervisor(console, changed=self._publish)
        self.port = options.port
        self.environment: dict[str, str] = {}
        self._is_migrated = False

    @property
    def url(self) -> str:
        """The gateway's base URL."""
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"http://{host}:{self.port}"

    def run(self) -> None:
        """Start the stack, supervise it until a signal requests a stop, and then stop it.

        :raises StackError: the stack cannot start, or others could reach its demo. Everything that had been started is
            stopped first.
        :raises StartupError: the gateway's port is in use.
        """
        self._require_private_demo()
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
                if not self.supervisor.stopping:  # Ctrl-C may have interrupted a step of the start
                    raise
            finally:
                if self.options.demo:
                    self._end_demo()
                discovery.unpublish(self.data_dir)
                self.supervisor.stop()
                self.data_dir.remove_socket_directory()
        self.console.print("stopped")

    def _start(self) -> None:
        self._start_servers()
        self.supervisor.run(self._process("migrations", "migrate"))
        self._is_migrated = True
        if not self.options.demo:
            # An earlier run may have been a demo that was killed.
            self._end_demo()
        for extension in self.extensions:
            extension.prepare(self)
        self.supervisor.start(
            own_processes(
                self.options.host,
                self.port,
                self.options.workers,
                logs=self.data_dir.logs,
                environment=os.environ | self.environment,
            )
        )
        self._print_ready_message()

    def _start_servers(self) -> None:
        configured = self.settings.environment
        postgres, valkey = Postgres(self.data_dir), Valkey(self.data_dir)
        processes: list[ManagedProcess] = []
        if "DATABASE_URL" not in configured:
            processes.append(postgres)
        if "BROKER_URL" not in configured or "REDIS_URL" not in configured:
            processes.append(valkey)
        self.supervisor.start(processes)
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

    def _require_private_demo(self) -> None:
        host = self.options.host
        if self.options.demo and not (self.options.insecure_demo or is_loopback(host)):
            raise StackError(
                f"--demo on {host} would let everyone in who knows the demo's tokens, which are public:"
                " leave out --host, or add --insecure-demo"
            )

    def _end_demo(self) -> None:
        """Revoke the demo's tokens. If the database has gone, the next start does it."""
        if self._is_migrated:
            with importing():
                from sqlalchemy.exc import OperationalError

                from workers.stack.demo_tokens import end_demo_tokens
            with contextlib.suppress(OperationalError):
                end_demo_tokens(self.environment["DATABASE_URL"])

    def _process(self, name: str, *words: str) -> ManagedProcess:
        environment = process_environment(words[0], os.environ | self.environment)
        return ManagedProcess(name, tocsin(*words), log=self.data_dir.logs / f"{name}.log", environment=environment)

    def _print_ready_message(self) -> None:
        self.console.print(f"data       {self.data_dir.path}")
        self.console.print(f"API        {self.url}/docs")
        for line in (line for extension in self.extensions for line in extension.ready_message(self)):
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
                f"{self.data_dir.path}/stack.json cannot be written: {error.strerror}; commands cannot find this stack"
            )
