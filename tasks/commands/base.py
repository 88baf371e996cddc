"""The base class of all commands.

A command is plain data: frozen, and validated for its shape. It holds neither its caller nor its time. Field aliases
are the names on the wire. A command may only grow: new fields have a default, and no field is ever renamed or reused.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from tasks.commands.fields import OBJECT_ERRORS_KEY


class Command(BaseModel):
    """Base class of all commands.

    ``name`` is the type on the wire, and ``object_errors_key`` is the key for errors about the object as a whole.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    name: ClassVar[str]
    object_errors_key: ClassVar[str] = OBJECT_ERRORS_KEY
    path_fields: ClassVar[frozenset[str]] = frozenset()
    """The wire names of the fields that only a URL path can set, not a request body or a bulk item."""
    is_partial: ClassVar[bool] = False
    """Whether fields that are left out keep their values. If so, their defaults are not part of the interface."""

    @classmethod
    def wire_fields(cls) -> frozenset[str]:
        """Return every name that a caller may use for a field."""
        fields = cls.model_fields
        return frozenset(fields.keys() | {field.alias for field in fields.values() if field.alias}) - cls.path_fields

    def to_payload(self) -> str:
        """Return the command as JSON for the ledger."""
        return self.model_dump_json(exclude_none=True)
