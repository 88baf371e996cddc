"""Signals to child processes when their parent dies, even if the parent is killed with SIGKILL.

Linux can send such a signal itself (PR_SET_PDEATHSIG), but it does so when the *thread* that started the child ends. In
threads other than the main one, and on other systems, a watcher process waits on a pipe that only the parent holds
open.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_WATCH = 'read -r _; kill -s "$1" "$2" 2>/dev/null'


def make_preexec(death_signal: signal.Signals) -> Callable[[], None] | None:
    """Return a Popen ``preexec_fn`` that asks the kernel for `death_signal`, or None if a watcher is needed instead."""
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def request_death_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the request
            os.kill(os.getpid(), death_signal)

    return request_death_signal


def start_watcher(pid: int, death_signal: signal.Signals) -> subprocess.Popen[bytes]:
    """Start a watcher process that sends `death_signal` to the child with this `pid` when the current process dies.

    The watcher must be stopped after the child has ended.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, "tocsin-parent-watcher", death_signal.name.removeprefix("SIG"), str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )


def stop_watcher(watcher: subprocess.Popen[bytes]) -> None:
    """Kill a watcher before closing its pipe, so that it sends no signal."""
    watcher.kill()
    watcher.wait()
    if watcher.stdin is not None:
        watcher.stdin.close()
