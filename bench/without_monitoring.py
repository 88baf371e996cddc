"""Run a `tocsin` command whose process neither reports itself nor records numbers per minute, for a comparison."""

from __future__ import annotations

import sys
from typing import Any

from tasks.process_reporter import ProcessReporter
from workers.cli import main


def _do_nothing(_: Any) -> None:
    pass


def without_monitoring() -> None:
    """Switch heartbeats and numbers per minute off in this process, and run the command."""
    ProcessReporter.start = _do_nothing  # type: ignore[assignment, method-assign]
    if "relay" in sys.argv:
        from workers.relay.sweeper import Sweeper

        Sweeper.record_operations = _do_nothing  # type: ignore[assignment, method-assign]
    main()


if __name__ == "__main__":
    without_monitoring()
