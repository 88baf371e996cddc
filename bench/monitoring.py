"""Measure what heartbeats, numbers per minute and metrics cost, as a share of the commands applied per second.

    python -m bench.monitoring [--rounds N] [--commands N]

In each round, the same stack drains the same backlog twice, with monitoring and without, and the rounds alternate in
going first. With monitoring, every process serves its metrics and is scraped once a second, ten times as often as by
docker-compose.yml. It prints the medians, saves nothing, and exits with 1 if the goal is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median
from typing import Final, NamedTuple

from bench.load_generator import HOST
from bench.output import progress, temporary_directory
from bench.systems import Tocsin, run_load, wait_until_applied
from tasks.startup import free_port
from workers.stack.managed_process import ManagedProcess
from workers.stack.own_processes import TocsinProcess
from workers.stack.servers import EmbeddedServers, embedded_servers

GOAL: Final = 0.98
SCRAPE_SECONDS: Final = 1.0


class Drained(NamedTuple):
    """What it took to drain a backlog: commands per second, and CPU seconds of all processes but the servers."""

    per_second: float
    cpu_seconds: float


class Monitored(Tocsin):
    """tocsin with or without monitoring, on one database."""

    is_monitored = True

    def __init__(self, servers: EmbeddedServers, *, subjects: int, workers: int) -> None:
        """Create the database."""
        super().__init__(servers, subjects=subjects, workers=workers)
        first = free_port(HOST, 0)
        self.metrics_ports = range(first, first + 10)

    def serving_processes(self) -> list[ManagedProcess]:
        """Return the gateway, the relay and the notifier."""
        return [self._with_monitoring(process) for process in super().serving_processes()]

    def worker_processes(self) -> list[ManagedProcess]:
        """Return the workers."""
        return [self._with_monitoring(process) for process in super().worker_processes()]

    def _with_monitoring(self, process: ManagedProcess) -> ManagedProcess:
        if self.is_monitored:
            if isinstance(process, TocsinProcess):
                process.environment["TOCSIN_METRICS"] = f"{HOST}:{self.metrics_ports[0]}-{self.metrics_ports[-1]}"
        else:
            words = process.command[process.command.index(_command_of(process)) :]
            process.command = [sys.executable, "-m", "bench.without_monitoring", *words]
        return process


def _command_of(process: ManagedProcess) -> str:
    return process.name.partition("-")[0]


@contextlib.contextmanager
def scraping(ports: list[int]) -> Iterator[list[int]]:
    """Scrape these ports every second while the block runs. Yield the sizes of the answers."""
    sizes: list[int] = []
    stop = threading.Event()

    def scrape() -> None:
        while not stop.wait(SCRAPE_SECONDS):
            for port in ports:
                connection = http.client.HTTPConnection(HOST, port, timeout=5)
                with contextlib.suppress(OSError), contextlib.closing(connection):
                    connection.request("GET", "/metrics")
                    sizes.append(len(connection.getresponse().read()))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield sizes
    finally:
        stop.set()
        thread.join()


def drain(system: Monitored, commands: int) -> Drained:
    """Accept commands while the workers are stopped, then start these and wait until they have applied all."""
    try:
        system.start(system.serving_processes())
        began_at = system.database_time()
        load = system.load(mode="accept", connections=64, prefer=system.accept_prefer, count=commands)
        accepted = run_load(load)["statuses"]["202"]
        cpu = sum(system.cpu_seconds().values())
        with ExitStack() as cleanup:
            if system.is_monitored:
                sizes = cleanup.enter_context(scraping([system.port, *system.metrics_ports]))
            system.start(system.worker_processes())
            done = wait_until_applied(system, began_at, accepted, within_seconds=120).progress
        if system.is_monitored and not sizes:
            raise RuntimeError("no process has answered a scrape")
        return Drained((done.applied - 1) / done.finish_seconds, sum(system.cpu_seconds().values()) - cpu)
    finally:
        system.stop()


def main() -> int:
    """Run the benchmark and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.monitoring", description="Measure what monitoring costs.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--commands", type=int, default=20_000)
    options = parser.parse_args()
    rates, costs = [], []
    with ExitStack() as cleanup:
        servers = cleanup.enter_context(embedded_servers(temporary_directory(cleanup)))
        system = Monitored(servers, subjects=200, workers=2)
        for number in range(1, options.rounds + 1):
            found = {}
            for is_monitored in (True, False) if number % 2 else (False, True):
                system.is_monitored = is_monitored
                found[is_monitored] = drain(system, options.commands)
            rates.append(found[True].per_second / found[False].per_second)
            costs.append(found[True].cpu_seconds / found[False].cpu_seconds)
            progress(
                f"round {number}: {found[True].per_second:.0f} with, {found[False].per_second:.0f} without monitoring"
                f" applied/s ({rates[-1]:.3f}); CPU {found[True].cpu_seconds:.2f} and {found[False].cpu_seconds:.2f} s"
            )
    print(f"commands applied per second: {median(rates):.3f} of those without monitoring (goal {GOAL})")
    print(f"CPU time of tocsin's processes: {median(costs):.3f} of that without monitoring")
    return 0 if median(rates) >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
