"""Run two workers under a supervisor: ``python -m tests.faults.supervised_workers LOGS ENVIRONMENT``.

The worker ``busy`` consumes the lanes commands and bulk; the worker ``idle`` consumes the lane deliveries.
``ENVIRONMENT`` is a JSON object of settings.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from workers.stack.console import Console
from workers.stack.own_processes import TocsinProcess, tocsin
from workers.stack.supervisor import StopRequested, Supervisor


def main(logs: Path, environment: dict[str, str]) -> None:
    console = Console()
    supervisor = Supervisor(console, changed=lambda: console.print(f"pids {json.dumps(supervisor.pids)}"))

    def worker(name: str, lanes: str) -> TocsinProcess:
        command = tocsin("worker", "--patience", "3", "--lanes", lanes)
        return TocsinProcess(name, command, log=logs / f"{name}.log", environment=os.environ | environment)

    supervisor.handle_signals()
    try:
        supervisor.start([worker("busy", "commands,bulk"), worker("idle", "deliveries")])
        supervisor.watch()
    except StopRequested:
        pass
    finally:
        supervisor.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
