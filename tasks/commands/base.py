"""Every command: the menu of what may be asked.

A command is data: frozen, checked for shape, free of who asks and of when. Its field aliases are the names on
the wire. A message only grows: fields are added with a default, never renamed or reused.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from tasks.commands.fields import (
    OBJECT_ERRORS_KEY,
)


class Command(BaseModel):
    """What someone asks for. ``name`` is its name on the wire, ``whole`` how errors of the whole body are called."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    name: ClassVar[str]
    object_errors_key: ClassVar[str] = OBJECT_ERRORS_KEY
    path_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields on the wire that only an address can give, and no body nor item."""
    is_partial: ClassVar[bool] = False
    """Whether what is left out stays as it is; then a field's default is none that a caller could count on."""

    @classmethod
    def wire_fields(cls) -> frozenset[str]:
        """Every spelling of every field that a caller may send."""
        fields = cls.model_fields
        return frozenset(fields.keys() | {field.alias for field in fields.values() if field.alias}) - cls.path_fields

    def to_payload(self) -> str:
        """As the ledger keeps it."""
        return self.model_dump_json(exclude_none=True)
