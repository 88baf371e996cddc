"""Count what one comment costs in this checkout, and in others: statements, transactions, messages, CPU time.

Unlike rates and latencies, the counts hardly depend on how busy the machine is. Every checkout runs on a stack of its
own: embedded servers, a database, a gateway, two workers, a relay and a notifier. Comments are posted one at a time,
each after everything that follows from the previous one has been done. Then the stack rests, and the same is counted
per second. PostgreSQL's log has the statements, and Valkey's MONITOR the messages.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
import psycopg
import redis

from bench.compare import HERE, CheckoutError, check_imports
from bench.output import progress
from bench.stress_stack import READER, Stack, StressError, running_processes
from workers.stack.managed_process import ManagedProcess, StackError
from workers.stack.servers import EmbeddedServers, embedded_servers

PROCESSES: Final = ("gateway", "worker", "relay", "notifier")
SERVERS: Final = ("postgres", "valkey")
LANES: Final = frozenset({"commands", "bulk", "deliveries"})
WARM_UP: Final = 30
"""Comments that are not counted: psycopg prepares a statement at its sixth execution, on each connection."""

_LINE: Final = re.compile(
    r"^\S+ \S+ \S+ \[(\d+)\] LOG:  duration: ([\d.]+) ms  (statement|parse|bind|execute)[^:]*: (.*)"
)
_CONNECTED: Final = re.compile(r"^\S+ \S+ \S+ \[(\d+)\] LOG:  connection authorized: .*application_name=(.*)$")
_ENDS: Final = ("COMMIT", "ROLLBACK")


@dataclass
class Usage:
    """What one process does: the statements it sends, its transactions, and the server's milliseconds for them."""

    statements: int = 0
    transactions: int = 0
    planning_ms: float = 0.0
    execution_ms: float = 0.0


@dataclass
class Costs:
    """What was used in a phase: by process on PostgreSQL, by kind on Valkey, and CPU seconds by process."""

    database: dict[str, Usage] = field(default_factory=lambda: defaultdict(Usage))
    messages: Counter[str] = field(default_factory=Counter)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    units: float = 1.0
    """How many comments, or seconds, the phase had."""


@dataclass(frozen=True)
class Economy:
    """The costs per comment while statements are logged (``counted``) and are not (``timed``), and at rest."""

    counted: Costs
    timed: Costs
    resting: Costs


def main() -> int:
    """Measure the checkouts one after the other, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.economy", description=__doc__)
    parser.add_argument("others", type=Path, nargs="*", help="the directories of other checkouts")
    parser.add_argument("--comments", type=int, default=200, help="comments to count (default: 200)")
    parser.add_argument("--timed", type=int, default=1000, help="comments to measure CPU time for (default: 1000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds at rest (default: 60)")
    options = parser.parse_args()
    checkouts = [*(other.resolve() for other in options.others), HERE]
    results = {}
    try:
        for checkout in checkouts:
            check_imports(checkout)
        for checkout in checkouts:
            results[checkout] = measure(checkout, options.comments, options.timed, options.seconds)
    except (CheckoutError, StressError, StackError, OSError, psycopg.Error, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(table(results))
    return 0


# --- measuring -------------------------------------------------------------------------------------------------


def measure(checkout: Path, comments: int, timed: int, seconds: float) -> Economy:
    """Run a stack of the checkout, and return the costs of each phase."""
    with embedded_servers() as servers, running_processes(checkout, servers) as stack:
        meter = Meter(stack, servers)
        incidents = stack.open_incidents(20)
        _comment(stack, incidents, WARM_UP)
        progress(f"{checkout}: counting {comments} comments")
        with meter.counting() as counted:
            _comment(stack, incidents, comments)
        counted.units = comments
        progress(f"{checkout}: measuring the CPU time of {timed} comments")
        with meter.timing() as costs:
            _comment(stack, incidents, timed)
        costs.units = timed
        progress(f"{checkout}: resting for {seconds:g} s")
        with meter.counting() as resting, meter.timing(resting):
            began = time.monotonic()
            time.sleep(seconds)
            resting.units = time.monotonic() - began
        return Economy(counted, costs, resting)


def _comment(stack: Stack, incidents: Sequence[str], count: int) -> None:
    for number in range(count):
        stack.comment_and_wait(incidents[number % len(incidents)], mention=READER)
        stack.settle(poll_seconds=0.005)


class Meter:
    """Counts what the processes of a stack use."""

    def __init__(self, stack: Stack, servers: EmbeddedServers) -> None:
        self._stack = stack
        self._servers = servers
        self._log = servers.data_dir.logs / "postgres.log"
        self._applications: dict[int, str] = {}

    @contextmanager
    def counting(self) -> Iterator[Costs]:
        """Count statements, transactions and messages during the block."""
        costs = Costs()
        with self._logging() as start, self._monitoring(costs.messages):
            yield costs
        with self._log.open(errors="replace") as log:
            log.seek(start)
            self._count(log, costs)

    @contextmanager
    def timing(self, costs: Costs | None = None) -> Iterator[Costs]:
        """Measure CPU seconds during the block."""
        costs = costs or Costs()
        before = self._cpu_seconds()
        yield costs
        costs.cpu_seconds = {name: seconds - before[name] for name, seconds in self._cpu_seconds().items()}

    @contextmanager
    def _logging(self) -> Iterator[int]:
        """Have PostgreSQL log every statement during the block, and yield the position in the log at its start."""
        settings = {"log_min_duration_statement": "0", "log_parameter_max_length": "0", "log_connections": "all"}
        for name, value in settings.items():
            self._stack.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self._stack.sql("SELECT pg_reload_conf()")
        self._stack.sql("SELECT pg_sleep(0.2)")
        rows = self._stack.sql("SELECT pid, application_name FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        self._applications = dict(rows)
        yield self._log.stat().st_size
        for name in settings:
            self._stack.sql(f"ALTER SYSTEM RESET {name}")
        self._stack.sql("SELECT pg_reload_conf()")
        self._stack.sql("SELECT pg_sleep(0.2)")

    @contextmanager
    def _monitoring(self, messages: Counter[str]) -> Iterator[None]:
        """Count Valkey's commands by kind during the block."""
        client = redis.Redis.from_url(self._servers.redis_url)
        monitor = client.monitor()  # type: ignore[no-untyped-call]
        monitor.__enter__()

        def listen() -> None:
            # Closing the connection ends the iteration.
            with suppress(Exception):
                for command in monitor.listen():
                    _count_message(messages, str(command["command"]).split())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield
        time.sleep(0.2)
        monitor.connection.disconnect()
        thread.join(2)
        client.close()

    def _count(self, log: Iterator[str], costs: Costs) -> None:
        in_transaction: set[int] = set()
        for line in log:
            if connected := _CONNECTED.match(line):
                self._applications[int(connected[1])] = connected[2].strip()
            elif found := _LINE.match(line):
                pid, milliseconds, step, text = int(found[1]), float(found[2]), found[3], found[4]
                name = _process_of(self._applications.get(pid, ""))
                if name is None:
                    continue
                usage = costs.database[name]
                if step in ("parse", "bind"):
                    usage.planning_ms += milliseconds
                    continue
                usage.execution_ms += milliseconds
                usage.statements += 1
                if text.startswith("BEGIN"):
                    in_transaction.add(pid)
                elif text.startswith(_ENDS) and not text.startswith("ROLLBACK TO"):
                    in_transaction.discard(pid)
                    usage.transactions += 1
                elif pid not in in_transaction:
                    usage.transactions += 1

    def _cpu_seconds(self) -> dict[str, float]:
        own = {self._stack.backend_pid}
        pids = {"postgres": _pids(self._servers.postgres), "valkey": _pids(self._servers.valkey)}
        for name, pid in self._stack.pids:
            pids.setdefault(name.partition("-")[0], []).append(pid)
        return {name: sum(_cpu_seconds(pid, except_for=own) for pid in each) for name, each in pids.items()}


def _pids(server: ManagedProcess) -> list[int]:
    return [] if server.popen is None else [server.popen.pid]


def _count_message(messages: Counter[str], words: Sequence[str]) -> None:
    kind = words[0].upper() if words else ""
    messages["all commands"] += 1
    if kind in ("LPUSH", "RPUSH") and words[1] in LANES:
        messages["hints"] += 1
    elif kind == "PUBLISH" and not words[1].startswith("/"):
        messages["wake-ups"] += 1
    elif kind in ("LLEN", "SADD", "SMEMBERS"):
        messages["declarations, look-ups of bindings and lengths"] += 1


def _process_of(application: str) -> str | None:
    if "deliverer" in application:
        return "worker"
    return next((name for name in PROCESSES if name in application), None)


def _cpu_seconds(pid: int, *, except_for: set[int]) -> float:
    total = 0.0
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            if process.pid not in except_for:
                times = process.cpu_times()
                total += times.user + times.system
    return total


# --- the table -------------------------------------------------------------------------------------------------


def table(results: Mapping[Path, Economy]) -> str:
    """Return a Markdown table with a column for each checkout."""
    names = [str(checkout) if checkout != HERE else "this checkout" for checkout in results]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    columns = [dict(figures(each)) for each in results.values()]
    labels = dict.fromkeys(label for column in columns for label in column)
    lines += [f"| {label} | " + " | ".join(_format(column.get(label)) for column in columns) + " |" for label in labels]
    return "\n".join(lines)


def figures(economy: Economy) -> Iterator[tuple[str, float]]:
    """Yield the rows of the table: labels and figures."""
    counted, timed, resting = economy.counted, economy.timed, economy.resting
    for kind in ("statements", "transactions"):
        yield f"{kind} per comment", sum(getattr(each, kind) for each in counted.database.values()) / counted.units
        for name in PROCESSES:
            yield f"… {kind}: {name}", getattr(counted.database[name], kind) / counted.units
    for kind, text in (("planning_ms", "planning"), ("execution_ms", "executing")):
        yield (
            f"PostgreSQL, {text}, ms per comment",
            sum(getattr(each, kind) for each in counted.database.values()) / counted.units,
        )
        for name in PROCESSES:
            yield f"… {text}: {name}", getattr(counted.database[name], kind) / counted.units
    for message in ("hints", "wake-ups", "declarations, look-ups of bindings and lengths", "all commands"):
        yield f"Valkey: {message} per comment", counted.messages[message] / counted.units
    yield "CPU ms per comment", 1000 * sum(timed.cpu_seconds.values()) / timed.units
    for name in (*PROCESSES, *SERVERS):
        yield f"… CPU: {name}", 1000 * timed.cpu_seconds[name] / timed.units
    yield "at rest: transactions/s", sum(each.transactions for each in resting.database.values()) / resting.units
    for name in PROCESSES:
        yield f"… at rest: {name}", resting.database[name].transactions / resting.units
    yield "at rest: statements/s", sum(each.statements for each in resting.database.values()) / resting.units
    yield "at rest: hints/s", resting.messages["hints"] / resting.units
    yield "at rest: Valkey commands/s", resting.messages["all commands"] / resting.units
    yield "at rest: % of a core", 100 * sum(resting.cpu_seconds.values()) / resting.units
    for name in (*PROCESSES, *SERVERS):
        yield f"… at rest, % of a core: {name}", 100 * resting.cpu_seconds[name] / resting.units


def _format(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


if __name__ == "__main__":
    sys.exit(main())
