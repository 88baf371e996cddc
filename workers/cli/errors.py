"""The error that `tocsin` commands raise."""

from __future__ import annotations


class CliError(Exception):
    """Raised when a command fails in an expected way. The text is one sentence that states the reason and the fix."""
