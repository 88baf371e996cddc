"""A deployment whose processes belong to releases that a test chooses, and are replaced one by one."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.startup import free_port
from tests.journeys.subprocesses import CLEAN_ENVIRONMENT
from workers.stack.managed_process import ManagedProcess
from workers.stack.own_processes import GatewayProcess, TocsinProcess

STOP_SECONDS = 60.0
"""How long a process may take to stop, as in docker-compose.yml."""


@dataclass(frozen=True)
class Release:
    """A release that can be run: the directory that Python imports it from, and the module of its command line."""

    path: Path
    module: str

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that let Python import this release, not the checkout in the working directory."""
        return {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(self.path)}

    def command(self, *words: str) -> list[str]:
        """Return the command line for a `tocsin` command of this release."""
        return [sys.executable, "-m", self.module, *words]


@dataclass
class Deployment:
    """Processes on one database and one broker, which may belong to different releases."""

    environment: dict[str, str]
    logs: Path
    port: int = field(default_factory=lambda: free_port("127.0.0.1", 0))
    running: dict[str, ManagedProcess] = field(default_factory=dict)
    _started: list[ManagedProcess] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The gateway's URL, which stays the same when the gateway is replaced."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, release: Release, *names: str) -> None:
        """Start processes and wait until they are ready."""
        for name in names:
            self.running[name] = self._start(release, name)
        for name in names:
            self.running[name].wait_ready()

    def replace(self, release: Release, *names: str) -> None:
        """Replace processes with those of another release.

        The new processes are ready before the old ones are stopped, except for the gateway, because there is one port.
        """
        old = [self.running[name] for name in names]
        if "gateway" in names:
            _stop(self.running["gateway"])
        self.start(release, *names)
        for process in old:
            _stop(process)

    def stop(self) -> None:
        """Stop every process that has been started."""
        for process in self._started:
            process.request_stop()
        for process in self._started:
            process.stop(STOP_SECONDS)

    def errors(self) -> list[dict[str, Any]]:
        """Return the lines of the logs that report an error."""
        lines = [line for log in self.logs.glob("*.log") for line in log.read_text().splitlines()]
        return [line for line in map(json.loads, lines) if line["level"] in {"error", "critical"}]

    def _start(self, release: Release, name: str) -> ManagedProcess:
        environment = CLEAN_ENVIRONMENT | self.environment | release.environment
        process: ManagedProcess
        if name == "gateway":
            process = GatewayProcess("127.0.0.1", self.port, logs=self.logs, environment=environment)
            process.command = release.command("gateway", "--port", str(self.port))
        else:
            log = self.logs / f"{name}.log"
            process = TocsinProcess(name, release.command(name), log=log, environment=environment)
        process.start()
        self._started.append(process)
        return process


def _stop(process: ManagedProcess) -> None:
    """Stop a process with SIGTERM, which must suffice, and do nothing if it has been stopped."""
    process.stop(STOP_SECONDS)
    # At the end, uvicorn sends itself the signal that it has received.
    expected = "was killed by SIGTERM" if process.name == "gateway" else "ended with exit code 0"
    assert process.describe_exit() == expected, process.last_lines()
