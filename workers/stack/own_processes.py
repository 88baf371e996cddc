"""tocsin's own processes as managed processes, started with the same commands that an operator would type."""

from __future__ import annotations

import http.client
import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from workers.runtime.readiness import VARIABLE
from workers.stack.managed_process import ManagedProcess
from workers.stack.process_settings import process_environment

_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


class TocsinProcess(ManagedProcess):
    """A tocsin process that announces its readiness through a pipe (:mod:`workers.runtime.readiness`)."""

    def __init__(self, name: str, command: list[str], *, log: Path, environment: Mapping[str, str]) -> None:
        """Set up the process, without starting it."""
        super().__init__(name, command, log=log, environment=environment)
        self._pipe: int | None = None
        self._announced = False

    def start(self) -> None:
        """Start the process.

        :raises workers.stack.managed_process.StackError: the process cannot be started.
        """
        self.release()
        self._announced = False
        self._pipe, write_end = os.pipe()
        os.set_blocking(self._pipe, False)
        self.environment[VARIABLE] = str(write_end)
        try:
            self._start(pass_fds=(write_end,))
        finally:
            os.close(write_end)

    def is_ready(self) -> bool:
        """Return whether the process has announced that it is ready, and is still running."""
        if self._pipe is not None and not self._announced:
            try:
                self._announced = bool(os.read(self._pipe, 64))
            except BlockingIOError:
                return False
        return self._announced and self.is_running()

    def release(self) -> None:
        """Release the resources of a process that has ended."""
        self._close_pipe()
        super().release()

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


class GatewayProcess(ManagedProcess):
    """The gateway. It is ready when it responds to HTTP requests."""

    def __init__(self, host: str, port: int, *, logs: Path, environment: Mapping[str, str]) -> None:
        """Set up the process, without starting it."""
        command = tocsin("gateway", "--host", host, "--port", str(port))
        super().__init__("gateway", command, log=logs / "gateway.log", environment=environment)
        self._address = (_LOOPBACK_OF.get(host, host), port)

    def is_ready(self) -> bool:
        """Return whether the gateway responds to GET /livez with 200."""
        if not self.is_running():
            return False
        connection = http.client.HTTPConnection(*self._address, timeout=1)
        try:
            connection.request("GET", "/livez")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def own_processes(
    host: str, port: int, workers: int, *, logs: Path, environment: Mapping[str, str]
) -> list[ManagedProcess]:
    """Return all of tocsin's processes, in the order in which they start. Each is given only the settings it reads."""
    names = [(f"worker-{number}", "worker") for number in range(1, workers + 1)]
    names += [("relay", "relay"), ("notifier", "notifier")]
    return [
        GatewayProcess(host, port, logs=logs, environment=process_environment("gateway", environment)),
        *(
            TocsinProcess(
                name,
                tocsin(word),
                log=logs / f"{name}.log",
                environment=process_environment(word, {**environment, "TOCSIN_WORKER_NAME": name}),
            )
            for name, word in names
        ),
    ]


def tocsin(*words: str) -> list[str]:
    """Return the command line for a `tocsin` command in the form in which process lists should show it."""
    script = Path(sysconfig.get_path("scripts")) / "tocsin"
    program = [str(script)] if script.is_file() else ["-m", "workers.cli"]
    return [sys.executable, *program, *words]
