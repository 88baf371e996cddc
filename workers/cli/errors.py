"""How a command of `tocsin` refuses."""

from __future__ import annotations


class CliError(Exception):
    """The command cannot do what was asked; the text is one sentence that says why and what to do."""
