"""A child dies with its parent, also when the parent is killed with -9.

Linux tells the child (PDEATHSIG). That signal is tied to the *thread* that started the child, so from any other
thread, and on other systems, a small watcher waits at a pipe that only the parent holds open.
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


def make_preexec(leash: signal.Signals) -> Callable[[], None] | None:
    """What the child does before it becomes its program; none where only a watcher can do it."""
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, int(leash), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the leash was on
            os.kill(os.getpid(), leash)

    return tie


def start_watcher(pid: int, leash: signal.Signals) -> subprocess.Popen[bytes]:
    """A watcher that sends `leash` to `pid` once this process is gone; end it when the child has ended."""
    return subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, "tocsin-leash", leash.name.removeprefix("SIG"), str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )


def stop_watcher(watcher: subprocess.Popen[bytes]) -> None:
    """End a watcher before its pipe closes, so that it signals nobody."""
    watcher.kill()
    watcher.wait()
    if watcher.stdin is not None:
        watcher.stdin.close()
