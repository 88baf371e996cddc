"""The base class of all commands.

A command is plain data: frozen, validated for its shape, without its caller and its time. Field aliases are the names
on the wire. A command only grows: fields are added with a default, and never renamed or reused.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from tasks.commands.fields import OBJECT_ERRORS_KEY


class Command(BaseModel):
    """A command.

    ``name`` is its type on the wire, ``object_errors_key`` the key of errors about the object as a whole.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    name: ClassVar[str]
    object_errors_key: ClassVar[str] = OBJECT_ERRORS_KEY
    path_fields: ClassVar[frozenset[str]] = frozenset()
    """Names on the wire of fields that only a path can set, and neither a body nor a bulk item."""
    is_partial: ClassVar[bool] = False
    """Whether fields that are left out keep their values: then their defaults are not part of the interface."""

    @classmethod
    def wire_fields(cls) -> frozenset[str]:
        """Return every name under which a caller may send a field."""
        fields = cls.model_fields
        return frozenset(fields.keys() | {field.alias for field in fields.values() if field.alias}) - cls.path_fields

    def to_payload(self) -> str:
        """Return the command as JSON for the ledger."""
        return self.model_dump_json(exclude_none=True)
