"""The base class of all commands.

A command is immutable data whose shape has been validated. It holds neither its caller nor the time it was sent. Field
aliases are the names on the wire. New fields may be added, with a default, but no field is ever removed, renamed or
reused.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import ClassVar, Final

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from models.enums import CallerKind
from tasks.commands.fields import OBJECT_ERRORS_KEY

EXPECTED_VERSIONS: Final = "expected_versions"
"""The key in a payload, beside the fields, of the list of allowed versions of the resource, if it has several."""


class Command(BaseModel):
    """Base class of all commands.

    ``name`` is the type on the wire, and ``object_errors_key`` is the key for errors about the object as a whole.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    name: ClassVar[str]
    payload_version: ClassVar[int] = 1
    """The version of the payload's format. Increase it if workers of the previous release would misread the payload."""
    object_errors_key: ClassVar[str] = OBJECT_ERRORS_KEY
    path_fields: ClassVar[frozenset[str]] = frozenset()
    """The wire names of the fields that can be set only by the URL path, not by a request body or a bulk item."""
    is_partial: ClassVar[bool] = False
    """Whether omitted fields keep their values. If so, the fields' defaults are not part of the interface."""

    @property
    def target_url(self) -> str | None:
        """The URL that the caller has chosen for tocsin to connect to, if there is one."""
        return None

    @classmethod
    def wire_fields(cls) -> frozenset[str]:
        """Return every name that a caller may use for a field."""
        fields = cls.model_fields
        return frozenset(fields.keys() | {field.alias for field in fields.values() if field.alias}) - cls.path_fields

    @classmethod
    @cache
    def body_fields(cls, from_path: frozenset[str]) -> frozenset[str]:
        """Return every name that a request body may use for a field, except for those whose values the path sets.

        ``from_path`` holds the wire names of the fields that the path sets.
        """
        return frozenset(name for name in cls.wire_fields() if from_path.isdisjoint((name, to_camel(name))))

    def require_consistency(self) -> None:
        """Check the rules that concern several fields at once. By default, there are none.

        :raises InvalidFields: if the fields contradict each other.
        """

    def require_submittable(self, *, by: CallerKind, at: datetime) -> None:
        """Check the rules that depend on who submits the command, and when. By default, there are none.

        The gateway checks them once, before it accepts the command. A service that acts for a member is a service.

        :raises InvalidFields: if this kind of caller may not submit these values, or not at this time.
        """

    def to_payload(self) -> str:
        """Return the command as JSON for the ledger."""
        return self.model_dump_json(exclude_none=True)
