"""The supervisor restarts processes with back-off and stops them in order; small scripts stand in for our processes."""

from __future__ import annotations

import contextlib
import json
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.journeys.subprocesses import Program, alive, public_temp_dir, running_module
from tests.waiting import eventually
from workers.stack.managed_process import LOG_BYTES

STEADY = "announce_ready(); time.sleep(600)"
PRINTS_ITS_END = """
def end(*_):
    print("ends", time.monotonic_ns(), flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
announce_ready()
time.sleep(600)
"""
IGNORES_SIGTERM = "signal.signal(signal.SIGTERM, signal.SIG_IGN); announce_ready(); time.sleep(600)"
FAILS_AT_START = "print('the reason it cannot start', file=sys.stderr); sys.exit(3)"
FAILS_AFTER_START = "announce_ready(); time.sleep(0.2); print('the reason it died', file=sys.stderr); sys.exit(3)"


@contextlib.contextmanager
def supervised(logs: Path, *tiers: dict[str, str]) -> Iterator[Program]:
    """Run a supervisor that starts these tiers, each the Python code of its processes by name."""
    with running_module("tests.journeys.supervisor_process", str(logs), json.dumps(tiers)) as supervisor:
        yield supervisor


@pytest.fixture
def logs() -> Iterator[Path]:
    with public_temp_dir() as folder:
        yield folder


def test_processes_are_reported_as_they_become_ready(logs: Path) -> None:
    with supervised(logs, {"one": STEADY}, {"two": STEADY}) as supervisor:
        supervisor.read_until("all up")

        reported = [line.split(" after")[0] for line in supervisor.lines if "ready" in line]

    assert reported == ["one ready", "two ready"]


def test_a_killed_process_is_restarted_and_reported_within_three_seconds(logs: Path) -> None:
    with supervised(logs, {"one": STEADY}) as supervisor:
        pid = pid_of(supervisor.read_until("pids"))
        supervisor.read_until("all up")

        for _ in range(3):
            pid.kill()
            killed = time.monotonic()
            reported = supervisor.read_until("is back")
            assert time.monotonic() - killed < 3
            assert reported.startswith("one is back after")
            assert reported.endswith("(it was killed by SIGKILL)")
            pid = pid_of(supervisor.read_until("pids"))


def test_a_process_that_keeps_dying_is_restarted_with_back_off_and_its_last_output_is_shown(logs: Path) -> None:
    with supervised(logs, {"one": FAILS_AFTER_START}) as supervisor:
        waits = [supervisor.read_until("again").split("next start in ")[1].split(" s;")[0] for _ in range(2)]
        last_line = supervisor.read_until("the reason")

    assert waits == ["0.5", "1"]
    assert last_line == "  the reason it died"


def test_a_process_that_cannot_start_is_reported_with_its_last_output_and_the_others_are_stopped(logs: Path) -> None:
    tiers = [{"one": STEADY}, {"two": FAILS_AT_START}]
    with supervised(logs, *tiers) as supervisor:
        one = pid_of(supervisor.read_until("pids")).pid
        failed, last_line = supervisor.read_until("failed"), supervisor.read_until("the reason")
        supervisor.wait()

    assert failed == f"failed: two ended with exit code 3; its log is {logs / 'two.log'}"
    assert last_line == "  the reason it cannot start"
    assert alive(one) == []


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_stops_all_processes_in_reverse_order(logs: Path, stop_signal: signal.Signals) -> None:
    tiers = [{"one": PRINTS_ITS_END}, {"two": PRINTS_ITS_END}]
    with supervised(logs, *tiers) as supervisor:
        supervisor.read_until("all up")

        code = supervisor.stop(stop_signal)

    stopped_at = [int((logs / f"{name}.log").read_text().split()[-1]) for name in ("two", "one")]
    assert (code, supervisor.lines[-1]) == (0, "stopped")
    assert stopped_at == sorted(stopped_at)


def test_a_process_that_does_not_stop_is_killed_within_fifteen_seconds(logs: Path) -> None:
    with supervised(logs, {"one": IGNORES_SIGTERM}, {"two": IGNORES_SIGTERM}) as supervisor:
        supervisor.read_until("all up")
        began = time.monotonic()

        code = supervisor.stop(signal.SIGTERM)

    assert code == 0
    assert time.monotonic() - began < 15


def test_a_stop_signal_is_honoured_during_start_up(logs: Path) -> None:
    with supervised(logs, {"one": STEADY}, {"two": "time.sleep(600)"}) as supervisor:
        supervisor.read_until("pids")

        code = supervisor.stop(signal.SIGTERM)

    assert (code, supervisor.lines[-1]) == (0, "stopped")


def test_processes_die_with_a_killed_supervisor(logs: Path) -> None:
    with supervised(logs, {"one": IGNORES_SIGTERM}) as supervisor:
        pid = pid_of(supervisor.read_until("pids")).pid
        supervisor.read_until("all up")

        supervisor.stop(signal.SIGKILL)

        eventually(lambda: alive(pid) == [])


def pid_of(line: str) -> psutil.Process:
    (pid,) = json.loads(line.removeprefix("pids ")).values()
    return psutil.Process(pid)


def test_the_log_of_a_running_process_is_moved_when_it_becomes_large(logs: Path) -> None:
    code = "announce_ready()\nwhile True: print('x' * 1_000_000, flush=True); time.sleep(0.2)"

    with supervised(logs, {"one": code}) as supervisor:
        supervisor.read_until("all up")
        eventually(lambda: (logs / "one.log.1").exists(), within_seconds=60)
        moved = (logs / "one.log.1").stat().st_size
        eventually(lambda: (logs / "one.log").stat().st_size > 0)

    assert moved > LOG_BYTES
    assert not (logs / "one.log").read_bytes().startswith(b"\0")
    assert stat.S_IMODE((logs / "one.log.1").stat().st_mode) == 0o600
