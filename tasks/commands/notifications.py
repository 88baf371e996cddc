"""The command that marks inbox items as read."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from models.types import JSON
from tasks.commands.base import Command
from tasks.commands.fields import OptionalIds, OptionalIncidentReference, OptionalInteger, field_error

_SELECTIONS: Final = ("ids", "upTo", "incident", "all")


def _only(selection: str) -> dict[str, Any]:
    others = {name: {"type": "null"} for name in _SELECTIONS}
    return {"required": [selection], "properties": others | {selection: {"not": {"type": "null"}}}}


def _all(value: JSON) -> JSON:
    if value is not None and value is not True:
        raise field_error("Must be true.")
    return value


class ReadNotifications(Command):
    """Mark inbox items as read: those in ``ids``, those up to the id ``up_to``, those about ``incident``, or ``all``.

    Exactly one of the four is given. ``up_to`` includes the item with this id.
    """

    name: ClassVar[str] = "notification.read"
    model_config = ConfigDict(json_schema_extra={"anyOf": [_only(each) for each in _SELECTIONS]})

    ids: OptionalIds = None
    up_to: OptionalInteger = Field(default=None, alias="upTo")
    incident: OptionalIncidentReference = None
    all: Annotated[Literal[True] | None, BeforeValidator(_all), WithJsonSchema({"enum": [True, None]})] = None

    @model_validator(mode="after")
    def _require_one_selection(self) -> Self:
        if [self.ids, self.up_to, self.incident, self.all].count(None) != len(_SELECTIONS) - 1:
            raise field_error("Send exactly one of ids, upTo, incident and all.")
        return self
