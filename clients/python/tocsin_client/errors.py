"""The ways in which asking can end without what was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tocsin_client.results import Command


class TocsinError(Exception):
    """Whatever this package raises."""


class Refused(TocsinError):
    """tocsin said no, for good: asking the same again gets the same answer.

    ``status`` and ``body`` are the HTTP answer's; ``command_id`` is set if the command was accepted first.
    """

    def __init__(self, status: int, body: Any, *, command_id: str | None = None) -> None:
        super().__init__(f"{status}: {_told(body)}")
        self.status = status
        self.body = body
        self.command_id = command_id

    @property
    def fields(self) -> dict[str, Any]:
        """What is wrong with which field; empty if no field is at fault."""
        if not isinstance(self.body, dict) or "detail" in self.body:
            return {}
        return dict(self.body)


class Failed(TocsinError):
    """A fault on their side: the command is dead or discarded, or the gateway broke. Their operators can see it."""

    def __init__(self, error: str, *, command: Command | None = None, command_id: str | None = None) -> None:
        super().__init__(error)
        self.command = command
        self.command_id = command.id if command else command_id


class Unreachable(TocsinError):
    """Nobody took it for as long as we had patience. It may have been accepted: repeat it with the same ``key``."""

    def __init__(self, reason: str, *, key: str | None = None) -> None:
        super().__init__(reason)
        self.key = key


class TimedOut(TocsinError):
    """It is accepted and will be applied, but had not ended in time: wait for ``command_ids`` later."""

    def __init__(self, command_ids: list[str]) -> None:
        super().__init__(f"accepted, but not finished in time: {', '.join(command_ids[:3])}")
        self.command_ids = command_ids


def _told(body: Any) -> str:
    return str(body["detail"]) if isinstance(body, dict) and "detail" in body else str(body)
