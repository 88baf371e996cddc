"""The limit on the number of field errors that a response, or a command's outcome, lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from models.types import JSON
from tasks.commands.fields import OBJECT_ERRORS_KEY

MAX_ERRORS: Final = 20
"""How many field errors are listed."""


def cut_errors(body: JSON) -> JSON:
    """Return an error body with at most :data:`MAX_ERRORS` field errors, and the number of those left out."""
    if not isinstance(body, dict) or "detail" in body:
        return body
    total = _count_errors(body)
    if total <= MAX_ERRORS:
        return body
    kept, _ = _first_errors(body, MAX_ERRORS)
    left_out = [f"{total - MAX_ERRORS} more errors are not listed."]
    return kept | {OBJECT_ERRORS_KEY: [*kept.get(OBJECT_ERRORS_KEY, ()), *left_out]}


def cut_problem_errors(problem: Mapping[str, Any]) -> dict[str, Any]:
    """Return members of an RFC 9457 document with as many ``errors`` as :func:`cut_errors` leaves, if it has any."""
    return {**problem, "errors": problem["errors"][: MAX_ERRORS + 1]} if "errors" in problem else dict(problem)


def _count_errors(errors: JSON) -> int:
    if isinstance(errors, dict):
        return sum(_count_errors(each) for each in errors.values())
    return len(errors) if isinstance(errors, list) else 1


def _first_errors(errors: JSON, most: int) -> tuple[Any, int]:
    """Return the first ``most`` errors in their structure, and how many there may still be."""
    if isinstance(errors, dict):
        kept = {}
        for name, inner in errors.items():
            if most <= 0:
                break
            kept[name], most = _first_errors(inner, most)
        return kept, most
    if isinstance(errors, list):
        return errors[:most], most - len(errors)
    return errors, most - 1
