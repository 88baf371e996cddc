"""The reporter, with which every process shows in the list of processes that it is alive and what it does."""

from __future__ import annotations

import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import structlog

from models.base import new_id
from models.database.engine import WORKER_TIMEOUTS, make_engine
from models.operations.processes import (
    END,
    HEARTBEAT_SECONDS,
    REPORT,
    ProcessFacts,
    ProcessReport,
    report_parameters,
)
from tasks.log_config import ProcessKind

log = structlog.get_logger(__name__)


class ProcessReporter:
    """Reports the process every ten seconds, in a thread of its own, from :meth:`start` to :meth:`stop`.

    ``finished`` returns how much the process has done since it started. Create the reporter after the last fork. A
    report that fails is left out: the process then counts as gone, as it may be.
    """

    def __init__(
        self,
        database_url: str,
        kind: ProcessKind,
        finished: Callable[[], int],
        *,
        lanes: Sequence[str] = (),
        worker: str | None = None,
        pid: int | None = None,
        seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        """Set up the reporter, without connecting to anything. ``pid`` is the process that an operator would stop."""
        self._facts = ProcessFacts(
            new_id(), kind.value, socket.gethostname(), pid or os.getpid(), version("tocsin"), lanes, worker
        )
        self._finished = finished
        self._seconds = seconds
        self._engine = make_engine(database_url, application="tocsin-reports", timeouts=WORKER_TIMEOUTS, pool_size=1)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)
        self._last: tuple[float, int] | None = None

    def start(self) -> None:
        """Start the thread, which reports at once."""
        self._thread.start()

    def request_stop(self) -> None:
        """Have the thread report that the process ends, and end, without waiting for it."""
        self._stopping.set()

    def stop(self) -> None:
        """Report that the process ends, and end the thread."""
        self.request_stop()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def _run(self) -> None:
        while True:
            self._try_to_execute(REPORT, report_parameters(self._facts, self._report()))
            if self._stopping.wait(self._seconds):
                break
        self._try_to_execute(END, {"id": self._facts.id})

    def _report(self) -> ProcessReport:
        now, finished = time.monotonic(), self._finished()
        last, self._last = self._last, (now, finished)
        per_minute = None
        if last is not None and now > last[0]:
            per_minute = round(60 * (finished - last[1]) / (now - last[0]))
        return ProcessReport(finished, per_minute, rss_bytes())

    def _try_to_execute(self, statement: str, parameters: dict[str, object]) -> None:
        try:
            with self._engine.begin() as connection:
                connection.exec_driver_sql(statement, parameters)
        except Exception as error:
            log.debug("process.unreported", error=str(error))
        finally:
            # Between two reports, no session is kept open.
            self._engine.dispose()


def rss_bytes() -> int | None:
    """Return how much memory this process occupies, in bytes, or ``None`` if the platform does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        # The highest value so far, in kilobytes, except on macOS.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024 or None
