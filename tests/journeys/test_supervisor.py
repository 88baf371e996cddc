"""The supervisor, with small stand-ins for our own processes: what dies comes back, what stops stops in order."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.journeys.subprocesses import alive, public_temp_dir, running_script
from tests.waiting import eventually

SUPERVISE = """
import json, os, sys
from pathlib import Path
from workers.stack.processes import Gateway, Process
from workers.stack.supervisor import Stopped, Supervisor
from workers.stack.part import Part, StackError
from workers.stack.voice import Voice

logs = Path(sys.argv[1])

def process(name, body):
    script = "import sys, time, signal; from workers.runtime.readiness import announce_ready\\n" + body
    return Process(name, [sys.executable, "-c", script], log=logs / f"{name}.log", environment=os.environ)

voice = Voice()
supervisor = Supervisor(voice, changed=lambda: voice.say("pids " + json.dumps(supervisor.pids)))
supervisor.listen()
try:
    for floor in eval(sys.argv[2]):
        supervisor.start(floor)
    voice.say("all up")
    supervisor.watch()
except Stopped:
    pass
except StackError as error:
    voice.say(f"failed: {error}")
finally:
    supervisor.stop()
voice.say("stopped")
"""

STEADY = "announce_ready(); time.sleep(600)"
NOTES_ITS_END = """
def end(*_):
    print("ends", time.monotonic_ns(), flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
announce_ready()
time.sleep(600)
"""
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN); announce_ready(); time.sleep(600)"
BROKEN = "print('the reason it cannot start', file=sys.stderr); sys.exit(3)"
SOON_BROKEN = "announce_ready(); time.sleep(0.2); print('the reason it died', file=sys.stderr); sys.exit(3)"


@pytest.fixture
def logs() -> Iterator[Path]:
    with public_temp_dir() as folder:
        yield folder


def test_processes_are_reported_as_they_become_ready(logs: Path) -> None:
    with running_script(SUPERVISE, str(logs), f"[[process('one', {STEADY!r})], [process('two', {STEADY!r})]]") as up:
        up.read_until("all up")

        said = [line.split(" after")[0] for line in up.lines if "ready" in line]

    assert said == ["one ready", "two ready"]


def test_a_killed_process_is_restarted_and_reported_within_three_seconds(logs: Path) -> None:
    with running_script(SUPERVISE, str(logs), f"[[process('one', {STEADY!r})]]") as up:
        pid = pid_of(up.read_until("pids"))
        up.read_until("all up")

        for _ in range(3):
            pid.kill()
            killed = time.monotonic()
            said = up.read_until("is back")
            assert time.monotonic() - killed < 3
            assert said.startswith("one is back after")
            assert said.endswith("(it was killed by SIGKILL)")
            pid = pid_of(up.read_until("pids"))


def test_a_process_that_keeps_dying_is_restarted_with_back_off_and_its_last_output_is_shown(logs: Path) -> None:
    with running_script(SUPERVISE, str(logs), f"[[process('one', {SOON_BROKEN!r})]]") as up:
        waits = [up.read_until("again").split("next start in ")[1].split(" s;")[0] for _ in range(2)]
        words = up.read_until("the reason")

    assert waits == ["0.5", "1"]
    assert words == "  the reason it died"


def test_a_process_that_cannot_start_is_reported_with_its_last_output_and_the_others_are_stopped(logs: Path) -> None:
    parts = f"[[process('one', {STEADY!r})], [process('two', {BROKEN!r})]]"
    with running_script(SUPERVISE, str(logs), parts) as up:
        one = pid_of(up.read_until("pids")).pid
        failed, words = up.read_until("failed"), up.read_until("the reason")
        up.wait()

    assert failed == f"failed: two ended with exit code 3; its log is {logs / 'two.log'}"
    assert words == "  the reason it cannot start"
    assert alive(one) == []


@pytest.mark.parametrize("wish", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_stops_all_processes_in_reverse_order(logs: Path, wish: signal.Signals) -> None:
    parts = f"[[process('one', {NOTES_ITS_END!r})], [process('two', {NOTES_ITS_END!r})]]"
    with running_script(SUPERVISE, str(logs), parts) as up:
        up.read_until("all up")

        code = up.stop(wish)

    ends = [int((logs / f"{name}.log").read_text().split()[-1]) for name in ("two", "one")]
    assert (code, up.lines[-1]) == (0, "stopped")
    assert ends == sorted(ends)


def test_a_process_that_does_not_stop_is_killed_in_time(logs: Path) -> None:
    with running_script(
        SUPERVISE, str(logs), f"[[process('one', {STUBBORN!r})], [process('two', {STUBBORN!r})]]"
    ) as up:
        up.read_until("all up")
        began = time.monotonic()

        code = up.stop(signal.SIGTERM)

    assert code == 0
    assert time.monotonic() - began < 15


def test_a_stop_signal_is_honoured_during_start_up(logs: Path) -> None:
    with running_script(
        SUPERVISE, str(logs), f"[[process('one', {STEADY!r})], [process('two', 'time.sleep(600)')]]"
    ) as up:
        up.read_until("pids")

        code = up.stop(signal.SIGTERM)

    assert (code, up.lines[-1]) == (0, "stopped")


def test_processes_die_with_a_killed_supervisor(logs: Path) -> None:
    with running_script(SUPERVISE, str(logs), f"[[process('one', {STUBBORN!r})]]") as up:
        pid = pid_of(up.read_until("pids")).pid
        up.read_until("all up")

        up.stop(signal.SIGKILL)

        eventually(lambda: alive(pid) == [])


def pid_of(line: str) -> psutil.Process:
    (pid,) = json.loads(line.removeprefix("pids ")).values()
    return psutil.Process(pid)
