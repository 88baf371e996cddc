"""The error that a `tocsin` command raises."""

from __future__ import annotations


class CliError(Exception):
    """An expected failure of a command. The text is one sentence that states the reason and the fix."""
