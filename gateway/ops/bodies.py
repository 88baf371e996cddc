"""The fields of operators' requests: in JSON bodies and in queries. Every error is found before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from pydantic_core import PydanticCustomError

from gateway.api.context import RequestContext
from gateway.http.parsing import require_object
from models.operations.audit import require_reason
from models.operations.dead import MAX_IDS
from models.refusals import FIELD_REQUIRED, InvalidFields
from models.types import JSON
from tasks.commands.fields import NOT_AN_INTEGER, array, field_error, identifier, storable, text_or_blank, timestamp

T = TypeVar("T")

# The ids of commands begin with a time since 1970.
_EARLIEST: Final = datetime(1970, 1, 2, tzinfo=UTC)
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)


class Fields:
    """Reads fields and collects their errors, which :meth:`require_valid` raises together."""

    def __init__(self, values: dict[str, JSON]) -> None:
        self._values = values
        self.errors: dict[str, JSON] = {}

    def optional(self, name: str, check: Callable[[JSON], T]) -> T | None:
        """Return a checked field, or ``None`` if it is absent, null or not valid."""
        value = self._values.get(name)
        if value is None:
            return None
        try:
            return check(value)
        except PydanticCustomError as error:
            self.errors[name] = [error.message()]
        return None

    def required(self, name: str, check: Callable[[JSON], str]) -> str:
        """Return a checked text, or an empty one if it is not valid."""
        if self._values.get(name) is None:
            self.errors[name] = [FIELD_REQUIRED]
        return self.optional(name, check) or ""

    def flag(self, name: str) -> bool:
        """Return a boolean, or ``False`` if it is absent. It decides too much to be guessed from null or a text."""
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            self.errors[name] = ["Must be a valid boolean."]
        return value is True

    def reason(self) -> str:
        """Return the reason that every change needs."""
        try:
            return require_reason(self.optional("reason", text_or_blank))
        except InvalidFields as refusal:
            self.errors = {**refusal.body, **self.errors}
        return ""

    def require_valid(self) -> None:
        """Require that there were no errors.

        :raises InvalidFields: if there were any.
        """
        if self.errors:
            raise InvalidFields(self.errors)


async def body_fields(context: RequestContext, *known: str) -> Fields:
    """Return the fields of a request's body. Unknown ones are ignored, or refused if the caller prefers that.

    :raises MalformedRequest: if the body is not JSON.
    :raises InvalidFields: if it is not an object.
    """
    values = require_object(await context.json_body())
    context.ignore_unknown([name for name in values if name not in known])
    return Fields(values)


def query_fields(context: RequestContext) -> Fields:
    """Return the query parameters. An empty one counts as absent; of repeated ones, the last one counts."""
    return Fields({name: value for name, value in context.query.items() if value})


def one_of(values: Iterable[str]) -> Callable[[JSON], str]:
    """Return a check for one of these texts."""
    known = [str(value) for value in values]

    def check(value: JSON) -> str:
        if value not in known:
            raise field_error(f"Valid values: {', '.join(known)}.")
        return str(value)

    return check


def plain_text(value: JSON) -> str:
    """Check text that PostgreSQL can store."""
    return storable(str(value))


def number(value: JSON) -> int:
    """Check a positive number, such as an incident's."""
    found = identifier(value)
    if found is None:
        raise field_error(NOT_AN_INTEGER)
    return found


def moment(value: JSON) -> datetime:
    """Check a time. Times before 1970 count as its beginning."""
    return min(max(timestamp(value), _EARLIEST), _LATEST)


def command_ids(value: JSON) -> tuple[UUID, ...]:
    """Check a list of ids of commands."""
    values = array(value)
    if len(values) > MAX_IDS:
        raise field_error(f"Ensure this field has no more than {MAX_IDS} elements.")
    return tuple(map(_uuid, values))


def _uuid(value: Any) -> UUID:
    try:
        return UUID(value)
    except (ValueError, TypeError, AttributeError):
        raise field_error("Each id must be the id of a command.") from None
