"""What the supervisor says: plain lines, and on a terminal also what it is busy with."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


class Console:
    """Says lines at once, unbuffered and unwrapped; nobody listening is no reason to stop."""

    def print(self, line: str) -> None:
        """Say one line."""
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    @contextlib.contextmanager
    def status(self, what: str) -> Iterator[None]:
        """Show, on a terminal, that something takes its time."""
        if not sys.stdout.isatty():
            yield
            return
        from rich.console import Console

        with Console().status(what):
            yield
