"""The supervisor's output: plain lines, plus a status spinner on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


class Console:
    """Prints unbuffered, unwrapped lines. It prints nothing if standard output is closed."""

    def print(self, line: str) -> None:
        """Print one line."""
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    @contextlib.contextmanager
    def status(self, text: str) -> Iterator[None]:
        """Show a spinner with the text while the block runs, if standard output is a terminal."""
        if not sys.stdout.isatty():
            yield
            return
        from rich.console import Console

        with Console().status(text):
            yield
