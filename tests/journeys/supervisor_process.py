"""Run a supervisor: ``python -m tests.journeys.supervisor_process LOGS TIERS``.

``TIERS`` is a JSON list of the tiers to start. Each tier is an object that maps process names to the Python code they
run.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from workers.stack.console import Console
from workers.stack.managed_process import StackError
from workers.stack.own_processes import TocsinProcess
from workers.stack.supervisor import StopRequested, Supervisor

PREAMBLE = "import signal, sys, time; from workers.runtime.readiness import announce_ready\n"


def main(logs: Path, tiers: list[dict[str, str]]) -> None:
    console = Console()
    supervisor = Supervisor(console, changed=lambda: console.print(f"pids {json.dumps(supervisor.pids)}"))

    def process(name: str, code: str) -> TocsinProcess:
        command = [sys.executable, "-c", PREAMBLE + code]
        return TocsinProcess(name, command, log=logs / f"{name}.log", environment=os.environ)

    supervisor.handle_signals()
    try:
        for tier in tiers:
            supervisor.start([process(name, code) for name, code in tier.items()])
        console.print("all up")
        supervisor.watch()
    except StopRequested:
        pass
    except StackError as error:
        console.print(f"failed: {error}")
    finally:
        supervisor.stop()
    console.print("stopped")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
