"""The command that marks inbox items as read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from models.types import JSON
from tasks.commands import json_schema
from tasks.commands.base import Command
from tasks.commands.fields import (
    INCIDENT_REFERENCE_SCHEMA,
    OptionalId,
    OptionalIds,
    OptionalIncidentReference,
    field_error,
)

_SELECTIONS: Final = ("ids", "upTo", "incident", "all")


def _only(selection: str) -> dict[str, Any]:
    others = {name: {"type": "null"} for name in _SELECTIONS}
    return {"required": [selection], "properties": others | {selection: {"not": {"type": "null"}}}}


def _or_nothing(schema: Mapping[str, Any]) -> WithJsonSchema:
    return WithJsonSchema(json_schema.or_null_as_nothing(schema))


_TRUE: Final = json_schema.recommending({"type": "boolean", "enum": [True]}, {"enum": [True]})


def _all(value: JSON) -> JSON:
    if value is not None and value is not True:
        raise field_error("Must be true.")
    return value


class ReadNotifications(Command):
    """Mark inbox items as read: those in ``ids``, those up to the id ``up_to``, those about ``incident``, or ``all``.

    Exactly one of the four is given. ``up_to`` includes the item with this id.
    """

    name: ClassVar[str] = "notification.read"
    model_config = ConfigDict(
        json_schema_extra={
            "minProperties": 1,
            "maxProperties": 1,
            json_schema.ACCEPTED: {"anyOf": [_only(each) for each in _SELECTIONS]},
        }
    )

    ids: Annotated[OptionalIds, _or_nothing(json_schema.list_of(json_schema.NUMERIC_ID, least=1))] = None
    up_to: Annotated[OptionalId, _or_nothing(json_schema.NUMERIC_ID)] = Field(default=None, alias="upTo")
    incident: Annotated[OptionalIncidentReference, _or_nothing(INCIDENT_REFERENCE_SCHEMA)] = None
    all: Annotated[Literal[True] | None, BeforeValidator(_all), _or_nothing(_TRUE)] = None

    @model_validator(mode="after")
    def _require_one_selection(self) -> Self:
        if [self.ids, self.up_to, self.incident, self.all].count(None) != len(_SELECTIONS) - 1:
            raise field_error("Send exactly one of ids, upTo, incident and all.")
        return self
