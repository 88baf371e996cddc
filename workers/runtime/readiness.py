"""Readiness: how a process notifies the one that started it that it is ready for work."""

from __future__ import annotations

import contextlib
import os

VARIABLE = "READY_FD"
"""The environment variable with the file descriptor of a pipe; without the TOCSIN_ prefix, because it is not a
setting."""


def announce_ready() -> None:
    """Write ``ready`` to the pipe that the parent process passed, once; without a pipe, do nothing."""
    descriptor = os.environ.pop(VARIABLE, "")
    if descriptor.isdecimal():
        with contextlib.suppress(OSError), os.fdopen(int(descriptor), "wb") as pipe:
            pipe.write(b"ready\n")
