"""Every "no" that tocsin answers.

A refusal is an answer and final: it carries the HTTP status and the body that callers see, whether the
gateway says it before a command is accepted or the worker records it as a command's outcome. Anything else
that goes wrong is a fault: tried again, then parked as a dead letter.

    Refusal
    ├── Unauthenticated 401       ├── Conflict 409
    ├── Forbidden 403             ├── StaleVersion 412
    ├── NotFound 404              ├── TooLarge 413
    ├── MethodNotAllowed 405      ├── NotJson 415
    ├── Gone 410                  ├── KeyReused 422
    ├── Malformed 400             ├── TooMany 429
    ├── InvalidFields 400         └── Unavailable 503
    ├── PlainRefusal 400
    └── ListedRefusal 400
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from models.enums import JSON

FIELD_REQUIRED: Final = "This field is required."
FIELD_NOT_NULL: Final = "This field may not be null."


class Refusal(Exception):
    """A "no" that is final. ``status`` is the HTTP status, ``body`` the JSON that the caller reads."""

    status: ClassVar[int]

    def __init__(self, body: JSON) -> None:
        super().__init__(str(body))
        self.body: JSON = body

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that belong to this answer."""
        return {}


class Unauthenticated(Refusal):
    """The credential is missing, unknown, expired or revoked, or its person is inactive."""

    status = 401

    def __init__(self, detail: str = "Authentication credentials were not provided.") -> None:
        super().__init__({"detail": detail})

    @property
    def headers(self) -> Mapping[str, str]:
        """RFC 9110 §11.6.1: a 401 names the scheme."""
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(Refusal):
    """The caller is known and may not do this."""

    status = 403

    def __init__(self, detail: str = "You do not have permission to perform this action.") -> None:
        super().__init__({"detail": detail})


class NotFound(Refusal):
    """There is no such thing, or the caller must not learn that there is."""

    status = 404

    def __init__(self) -> None:
        super().__init__({"detail": "The requested resource does not exist"})


class MethodNotAllowed(Refusal):
    """The address exists and does not know this method."""

    status = 405

    def __init__(self, method: str, allowed: tuple[str, ...]) -> None:
        super().__init__({"detail": f'Method "{method}" not allowed.'})
        self.allowed = allowed

    @property
    def headers(self) -> Mapping[str, str]:
        """RFC 9110 §15.5.6: a 405 lists what is allowed."""
        return {"Allow": ", ".join(self.allowed)}


class MalformedRequest(Refusal):
    """The request cannot be read: broken JSON, a bad header, a bad page cursor."""

    status = 400

    def __init__(self, detail: str) -> None:
        super().__init__({"detail": detail})


class InvalidFields(Refusal):
    """The request can be read and asks for something that does not fit; the body names each field."""

    status = 400

    def __init__(self, fields: Mapping[str, JSON]) -> None:
        super().__init__(dict(fields))


class StringRefusal(Refusal):
    """A 400 whose body is a bare JSON string, where the wire contract has one."""

    status = 400

    def __init__(self, text: str) -> None:
        super().__init__(text)


class ListRefusal(Refusal):
    """A 400 whose body is a JSON array of one text, where the wire contract has one."""

    status = 400

    def __init__(self, text: str) -> None:
        super().__init__([text])


class Gone(Refusal):
    """The change has been made already, and stands."""

    status = 410

    def __init__(self, detail: str) -> None:
        super().__init__({"detail": detail})


class Conflict(Refusal):
    """The change contradicts what stands now."""

    status = 409

    def __init__(self, detail: str) -> None:
        super().__init__({"detail": detail})


class StaleVersion(Refusal):
    """Someone changed the row after the caller last read it."""

    status = 412

    def __init__(self) -> None:
        super().__init__({"detail": "The resource has changed since you read it."})


class BodyTooLarge(Refusal):
    """The body exceeds what this address takes; ``limit`` is in bytes."""

    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__({"detail": f"The request body may not exceed {limit} bytes."})


class UnsupportedMediaType(Refusal):
    """The body is of another media type than JSON."""

    status = 415

    def __init__(self, media_type: str) -> None:
        super().__init__({"detail": f'Unsupported media type "{media_type}" in request.'})


class IdempotencyKeyReused(Refusal):
    """An Idempotency-Key came back with another request."""

    status = 422

    def __init__(self) -> None:
        super().__init__({"detail": "Idempotency-Key was already used with a different request."})


class TooManyRequests(Refusal):
    """The caller sends faster than its rate; ``retry_after`` is in seconds."""

    status = 429

    def __init__(self, retry_after: int) -> None:
        super().__init__({"detail": f"Request was throttled. Expected available in {retry_after} seconds."})
        self.retry_after = retry_after

    @property
    def headers(self) -> Mapping[str, str]:
        """When to come back."""
        return {"Retry-After": str(self.retry_after)}


class Unavailable(Refusal):
    """tocsin cannot take this now: the database is away, or too many requests wait."""

    status = 503

    def __init__(self, detail: str = "Temporarily unable to accept; repeat with the same Idempotency-Key.") -> None:
        super().__init__({"detail": detail})

    @property
    def headers(self) -> Mapping[str, str]:
        """When to come back."""
        return {"Retry-After": "1"}
