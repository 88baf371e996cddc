"""Measure a claim and a sweep in the checkout that this file's Python imports, and print their milliseconds as JSON.

``bench.stress`` runs this file with the modules of either checkout, so it knows both their names for these modules. The
workers and the relay must be stopped.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.pool import StaticPool

LANES = ("commands", "bulk", "deliveries")
REPETITIONS = 9


class NoHints:
    """Publishes no hints, under the names of both releases."""

    def publish(self, *_hint: Any) -> None:
        """Do nothing."""

    hint = publish


def main() -> None:
    """Measure on the database whose URL is the only argument."""
    url = sys.argv[1].replace("postgresql:", "postgresql+psycopg:", 1)
    engine = create_engine(url, poolclass=StaticPool)
    json.dump({"claim": milliseconds(claim_of(engine)), "sweep": milliseconds(sweep_of(engine))}, sys.stdout)


def milliseconds(operation: Callable[[], object]) -> float:
    """Return the median duration of an operation, which is first tried once."""
    operation()
    durations = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        operation()
        durations.append(1000 * (time.perf_counter() - began))
    return median(durations)


def claim_of(engine: Engine) -> Callable[[], object]:
    """Return the function that claims a batch without any hint, and gives it up again."""
    module = _import_first("workers.apply.claim", "workers.claim")

    def claim() -> None:
        with engine.connect() as connection:
            if hasattr(module, "Claimer"):
                lanes = importlib.import_module("models.enums").Lane
                module.Claimer([lanes(lane) for lane in LANES]).claim(connection)
            else:
                module.claim(connection, [])
            connection.rollback()

    return claim


def sweep_of(engine: Engine) -> Callable[[], object]:
    """Return the function that sweeps once, from the beginning."""
    module = _import_first("workers.relay.sweeper", "workers.sweep")
    return lambda: module.Sweeper(engine, NoHints()).sweep()


def _import_first(*names: str) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise SystemExit(f"this checkout has none of the modules {', '.join(names)}")


if __name__ == "__main__":
    main()
