"""Errors that the client raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tocsin_client.results import CommandRecord


class TocsinError(Exception):
    """Base class of all errors in this package."""


class Refused(TocsinError):
    """Raised when the request or the command is refused. This is final: a retry gets the same response.

    ``status`` and ``body`` are those of the HTTP response. ``command_id`` is set if the command had been accepted and
    was refused when a worker applied it.
    """

    def __init__(self, status: int, body: Any, *, command_id: str | None = None) -> None:
        super().__init__(f"{status}: {_detail(body)}")
        self.status = status
        self.body = body
        self.command_id = command_id

    @property
    def field_errors(self) -> dict[str, Any]:
        """The error messages for each invalid field, or an empty dictionary if the refusal is not about fields."""
        if not isinstance(self.body, dict) or "detail" in self.body:
            return {}
        return dict(self.body)


class Failed(TocsinError):
    """Raised when the server fails: the command is dead or was discarded, or the gateway returned an error (5xx).

    ``command`` is the command's record, if the server returned one. The server's operators can see dead commands.
    """

    def __init__(self, error: str, *, command: CommandRecord | None = None, command_id: str | None = None) -> None:
        super().__init__(error)
        self.command = command
        self.command_id = command.id if command else command_id


class NotApplied(TocsinError):
    """Raised by ``CommandRecords.raise_for_refused`` when some commands of a bulk request were not applied.

    ``errors`` has an error for each of them, by the command's position in the request, counted from 0.
    """

    def __init__(self, errors: Mapping[int, Refused | Failed], *, total: int) -> None:
        position, first = next(iter(errors.items()))
        super().__init__(
            f"{len(errors)} of {total} commands were not applied; the first is command {position}: {first}"
        )
        self.errors = dict(errors)


class Unreachable(TocsinError):
    """Raised when no server accepted the request in time, despite retries.

    The retries end after ``patience_seconds`` or, if that is earlier, with the time that the call may wait.

    The command may have been accepted nevertheless. If it is posted again with the same ``key``, it still takes effect
    only once.
    """

    def __init__(self, reason: str, *, key: str | None = None) -> None:
        super().__init__(reason)
        self.key = key


class TimedOut(TocsinError):
    """Raised when a wait ends before every command has an outcome. The commands have been accepted and stay accepted.

    To get the outcomes later, wait for each of the ``command_ids``.
    """

    def __init__(self, command_ids: list[str]) -> None:
        super().__init__(f"accepted, but not finished in time: {', '.join(command_ids[:3])}")
        self.command_ids = command_ids


def _detail(body: Any) -> str:
    return str(body["detail"]) if isinstance(body, dict) and "detail" in body else str(body)
