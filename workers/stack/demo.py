"""What `tocsin up --demo` adds to a stack."""

from __future__ import annotations

from workers.stack.up import Stack


def prepare(stack: Stack) -> None:
    """Called with a migrated database, before our processes start: may import data, change settings, add parts."""


def greet(stack: Stack) -> list[str]:  # noqa: ARG001 - the demo speaks of what it finds
    """Called once everything is ready: lines to print before the last one."""
    return []
