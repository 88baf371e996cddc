"""The command that marks inbox items as read."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import ConfigDict, Field, model_validator

from tasks.commands.base import Command
from tasks.commands.fields import OptionalIds, OptionalInteger, field_error


class ReadNotifications(Command):
    """Mark inbox items as read: those with the given ``ids``, or all up to and including the id ``up_to``."""

    name: ClassVar[str] = "notification.read"
    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["ids"], "properties": {"ids": {"type": "array"}, "upTo": {"type": "null"}}},
                {"required": ["upTo"], "properties": {"upTo": {"not": {"type": "null"}}, "ids": {"type": "null"}}},
            ]
        }
    )

    ids: OptionalIds = None
    up_to: OptionalInteger = Field(default=None, alias="upTo")

    @model_validator(mode="after")
    def _require_one_selection(self) -> Self:
        if (self.ids is None) == (self.up_to is None):
            raise field_error("Send exactly one of ids and upTo.")
        return self
