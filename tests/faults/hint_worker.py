"""Run a worker that records the subjects of its hints: ``python -m tests.faults.hint_worker FOLDER PREFETCH``.

It appends subjects to ``FOLDER/handled``, one per line, and an empty line for a hint without subjects. It writes the id
of its child process to ``FOLDER/child``. The subject ``wait:NAME`` blocks it until ``FOLDER/NAME`` exists.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from models.enums import Lane
from tasks.app import make_app
from tasks.broker.hints import Hint
from tasks.celery_tasks import register_tasks, run_celery_worker
from tasks.settings import BrokerSettings
from tests.waiting import eventually


def main(folder: Path, prefetch: int) -> int:
    logging.basicConfig(level=logging.INFO)
    app = make_app(BrokerSettings.from_environment())
    app.conf.worker_prefetch_multiplier = prefetch

    def record(hint: Hint) -> None:
        for subject in hint.subjects or ("",):
            with (folder / "handled").open("a") as handled:
                handled.write(f"{subject}\n")
            kind, _, name = subject.partition(":")
            if kind == "wait":
                eventually((folder / name).exists)

    def write_child_pid() -> None:
        (folder / "child.new").write_text(str(os.getpid()))
        (folder / "child.new").rename(folder / "child")

    register_tasks(app, dict.fromkeys(Lane, record))
    return run_celery_worker(
        app,
        [Lane.COMMANDS],
        on_child_start=write_child_pid,
        on_child_stop=lambda: None,
        ready=lambda: (folder / "ready").touch(),
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
