"""Run a relay or a notifier as a process that a test can kill: ``python -m tests.faults.loop_process relay``."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from models.database.engine import WORKER_TIMEOUTS, make_engine
from tasks.log_config import configure_logging
from tasks.settings import LogLevel
from workers.notify.notifier import Notifier
from workers.relay.relay import Relay
from workers.settings import WorkerSettings

LOOPS = {"relay": Relay, "notifier": Notifier}


@contextmanager
def running_loop(loop: str, *, database_url: str, broker_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a loop in its own process, yield the process once it is ready, and kill it at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, loop],
        env={**os.environ, "DATABASE_URL": database_url, "BROKER_URL": broker_url},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def main(loop: str) -> None:
    settings = WorkerSettings.from_environment()
    configure_logging(LogLevel.INFO)
    engine = make_engine(settings.database_url, application=loop, timeouts=WORKER_TIMEOUTS)
    LOOPS[loop](engine, settings).run(threading.Event(), lambda: print("ready", flush=True))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
