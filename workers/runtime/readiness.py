"""Readiness: how a process tells its parent process that it is ready for work."""

from __future__ import annotations

import contextlib
import os

VARIABLE = "READY_FD"
"""The environment variable with the pipe's file descriptor. It has no TOCSIN_ prefix, because it is not a setting."""


def announce_ready() -> None:
    """Write ``ready``, once, to the pipe that the parent process passed. Without a pipe, do nothing."""
    descriptor = os.environ.pop(VARIABLE, "")
    if descriptor.isdecimal():
        with contextlib.suppress(OSError), os.fdopen(int(descriptor), "wb") as pipe:
            pipe.write(b"ready\n")
