"""How a process of ours tells whoever started it that it is ready."""

from __future__ import annotations

import contextlib
import os

VARIABLE = "READY_FD"
"""Names the pipe to write to; without the TOCSIN_ prefix, since it is no setting of anybody's."""


def announce_ready() -> None:
    """Say once that this process does its work now; without somebody who waits, it does nothing."""
    descriptor = os.environ.pop(VARIABLE, "")
    if descriptor.isdecimal():
        with contextlib.suppress(OSError), os.fdopen(int(descriptor), "wb") as pipe:
            pipe.write(b"ready\n")
