"""The error of a `tocsin` command."""

from __future__ import annotations


class CliError(Exception):
    """The command failed in an expected way; the text is one sentence that gives the reason and the fix."""
