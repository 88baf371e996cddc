"""Run a gateway that fails on a signal: ``python -m tests.faults.faulty_gateway PORT ENVIRONMENT``.

On SIGUSR1 it loses its listening socket, on SIGUSR2 it hangs. ``ENVIRONMENT`` is a JSON object of settings.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

import psutil

from gateway.main import run


def lose_socket_on_signal() -> None:
    signal.sigwait({signal.SIGUSR1})
    for connection in psutil.Process().net_connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN:
            os.dup2(os.open(os.devnull, os.O_RDONLY), connection.fd)


def hang(*_: object) -> None:
    time.sleep(600)


def main(port: int, environment: dict[str, str]) -> None:
    signal.signal(signal.SIGUSR2, hang)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    threading.Thread(target=lose_socket_on_signal, daemon=True).start()
    os.environ.update(environment)
    run("127.0.0.1", port, patience_seconds=1)


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
