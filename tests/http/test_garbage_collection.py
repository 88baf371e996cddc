"""The gateway's garbage collector, which should leave the requests in flight alone."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc
from gateway.main import tune_garbage_collection

tune_garbage_collection()
generations = []
gc.callbacks.append(lambda phase, details: generations.append(details["generation"]))
requests = [[] for _ in range({objects})]
print(len(generations), gc.get_freeze_count() > 0)
"""


def test_the_objects_of_the_requests_in_flight_start_no_garbage_collection() -> None:
    assert run(SCRIPT.format(objects=5_000)) == "0 True"


def test_garbage_is_still_collected() -> None:
    collections, _ = run(SCRIPT.format(objects=50_000)).split()

    assert int(collections) > 0


def run(script: str) -> str:
    """Run a script in a process of its own, because the settings of the collector apply to the whole process."""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
