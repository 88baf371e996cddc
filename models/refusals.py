"""Refusals: one exception class for each kind of expected negative answer.

A refusal is final. It carries the HTTP status and the JSON body that the caller receives, whether the gateway raises it
before a command is accepted or the worker records it as the command's outcome. Any other exception is a fault: the
command is retried and, after five failed attempts or five timeouts, becomes dead.

    Refusal
    ├── Unauthenticated 401       ├── Conflict 409
    ├── Forbidden 403             ├── StaleVersion 412
    ├── NotFound 404              ├── BodyTooLarge 413
    ├── MethodNotAllowed 405      ├── UriTooLong 414
    ├── RequestTimedOut 408       ├── UnsupportedMediaType 415
    ├── Gone 410                  ├── UnsupportedContentCoding 415
    ├── MalformedRequest 400      ├── IdempotencyKeyReused 422
    ├── InvalidFields 400         ├── TooManyRequests 429
    ├── StringRefusal 400         ├── TooManyCommands 413
    └── ListRefusal 400           └── Unavailable 503
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import ClassVar, Final

from models.types import JSON

FIELD_REQUIRED: Final = "This field is required."
FIELD_NOT_NULL: Final = "This field may not be null."


def reason_code(status: int) -> str:
    """Return the code of a refusal about which nothing more precise is known: its status's phrase in snake case.

    >>> reason_code(404)
    'not_found'
    """
    return HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")


class Refusal(Exception):
    """An expected negative answer to a caller, with an HTTP ``status`` and a JSON ``body``."""

    status: ClassVar[int]

    def __init__(self, body: JSON) -> None:
        super().__init__(str(body))
        self.body: JSON = body

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that HTTP requires in the response."""
        return {}

    @property
    def problem_members(self) -> Mapping[str, JSON]:
        """The members that say more in the RFC 9457 form of the response, such as a more precise ``code``."""
        return {}


class Unauthenticated(Refusal):
    """401: the credential is missing, unknown, expired or revoked, or its user is inactive."""

    status = 401

    def __init__(self, detail: str = "Authentication credentials were not provided.") -> None:
        super().__init__({"detail": detail})

    @property
    def headers(self) -> Mapping[str, str]:
        """The ``WWW-Authenticate`` header, which names the authentication scheme (RFC 9110 §11.6.1)."""
        return {"WWW-Authenticate": "Bearer"}


class ForbiddenCode(StrEnum):
    """Why a caller is forbidden to do something. ``SCOPE_MISSING`` comes with the scopes of which one would do."""

    ACT_AS_REQUIRED = "act_as_required"
    ACT_AS_MALFORMED = "act_as_malformed"
    ACT_AS_NOT_MEMBER = "act_as_not_member"
    SCOPE_MISSING = "scope_missing"
    NO_PROJECT_ACCESS = "no_project_access"
    KEY_NOT_ALLOWED = "key_not_allowed"


class Forbidden(Refusal):
    """403: the caller is authenticated but lacks the required permission."""

    status = 403

    def __init__(
        self,
        detail: str = "You do not have permission to perform this action.",
        *,
        code: ForbiddenCode | None = None,
        scopes: Iterable[str] = (),
    ) -> None:
        super().__init__({"detail": detail})
        self.code = code
        self.scopes = sorted(scopes)

    @property
    def problem_members(self) -> Mapping[str, JSON]:
        """The reason as ``code`` if it is known, and the ``scopes`` of which one would do."""
        if self.code is None:
            return {}
        scopes = {"scopes": self.scopes} if self.code is ForbiddenCode.SCOPE_MISSING else {}
        return {"code": self.code.value, **scopes}


class NotFound(Refusal):
    """404: the resource does not exist, or the caller must not learn that it does."""

    status = 404

    def __init__(self) -> None:
        super().__init__({"detail": "The requested resource does not exist"})


class MethodNotAllowed(Refusal):
    """405: the endpoint does not support the method."""

    status = 405

    def __init__(self, method: str, allowed: tuple[str, ...]) -> None:
        super().__init__({"detail": f'Method "{method}" not allowed.'})
        self.allowed = allowed

    @property
    def headers(self) -> Mapping[str, str]:
        """The ``Allow`` header, which lists the methods that the endpoint supports (RFC 9110 §15.5.6)."""
        return {"Allow": ", ".join(self.allowed)}


class MalformedRequest(Refusal):
    """400: the request cannot be parsed, for example because of invalid JSON, a bad header or a bad cursor."""

    status = 400

    def __init__(self, detail: str) -> None:
        super().__init__({"detail": detail})


class InvalidFields(Refusal):
    """400: the request can be parsed but contains invalid values. The body lists the errors by field.

    ``reasons`` are more precise errors, as pairs of a JSON pointer and a sentence, for the RFC 9457 form.
    """

    status = 400

    def __init__(self, fields: Mapping[str, JSON], reasons: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(dict(fields))
        self.reasons = tuple(reasons)

    @property
    def problem_members(self) -> Mapping[str, JSON]:
        """The precise reasons as ``errors``, if there are any."""
        if not self.reasons:
            return {}
        return {"errors": [{"pointer": pointer, "detail": detail} for pointer, detail in self.reasons]}


class StringRefusal(Refusal):
    """400 with a bare JSON string as its body, for the errors that have one in Sentry's incident API."""

    status = 400

    def __init__(self, text: str) -> None:
        super().__init__(text)


class ListRefusal(Refusal):
    """400 with a one-string JSON array as its body, for the errors that have one in Sentry's incident API."""

    status = 400

    def __init__(self, text: str) -> None:
        super().__init__([text])


class Gone(Refusal):
    """410: the requested change has already been made."""

    status = 410

    def __init__(self, detail: str) -> None:
        super().__init__({"detail": detail})


class Conflict(Refusal):
    """409: the change conflicts with the resource's current state."""

    status = 409

    def __init__(self, detail: str) -> None:
        super().__init__({"detail": detail})


class StaleVersion(Refusal):
    """412: the resource has changed since the version that the caller sent in ``If-Match``."""

    status = 412

    def __init__(self) -> None:
        super().__init__({"detail": "The resource has changed since you read it."})


class RequestTimedOut(Refusal):
    """408: the client took too long to send the next part of the body. ``seconds`` is the limit."""

    status = 408

    def __init__(self, seconds: float) -> None:
        super().__init__({"detail": f"The next part of the body must arrive within {seconds:.0f} seconds."})

    @property
    def headers(self) -> Mapping[str, str]:
        """The ``Connection`` header: what arrives later would be taken for another request."""
        return {"Connection": "close"}


class UriTooLong(Refusal):
    """414: the query is longer than ``limit`` bytes."""

    status = 414

    def __init__(self, limit: int) -> None:
        super().__init__({"detail": f"The query may not exceed {limit} bytes."})


class BodyTooLarge(Refusal):
    """413: the body exceeds the endpoint's ``limit``, which is in bytes."""

    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__({"detail": f"The request body may not exceed {limit} bytes."})


class TooManyCommands(Refusal):
    """413: the body contains more commands than the caller may ever send at once. ``most`` is how many it may send."""

    status = 413

    def __init__(self, most: int) -> None:
        super().__init__({"detail": f"At most {most} commands may be sent at once."})


class UnsupportedMediaType(Refusal):
    """415: the request body is not JSON."""

    status = 415

    def __init__(self, media_type: str) -> None:
        super().__init__({"detail": f'Unsupported media type "{media_type}" in request.'})


class UnsupportedContentCoding(Refusal):
    """415: the request body is compressed or otherwise encoded."""

    status = 415

    def __init__(self) -> None:
        super().__init__({"detail": "Send the body without Content-Encoding."})

    @property
    def headers(self) -> Mapping[str, str]:
        """The ``Accept-Encoding`` header, which tells the cause from an unsupported media type (RFC 9110 §15.5.16)."""
        return {"Accept-Encoding": "identity"}


class IdempotencyKeyReused(Refusal):
    """422: the ``Idempotency-Key`` was already used for a different request."""

    status = 422

    def __init__(self) -> None:
        super().__init__({"detail": "Idempotency-Key was already used with a different request."})


class TooManyRequests(Refusal):
    """429: the caller has exceeded its rate, or a limit on what it has open. ``retry_after`` is in seconds."""

    status = 429

    def __init__(self, retry_after: int) -> None:
        super().__init__({"detail": f"Request was throttled. Expected available in {retry_after} seconds."})
        self.retry_after = retry_after

    @property
    def headers(self) -> Mapping[str, str]:
        """The ``Retry-After`` header: the number of seconds after which the caller may retry."""
        return {"Retry-After": str(self.retry_after)}


class Unavailable(Refusal):
    """503: the database does not respond, an idempotency key is in use, or too many requests are waiting."""

    status = 503

    def __init__(
        self,
        detail: str = "Temporarily unable to accept; repeat with the same Idempotency-Key.",
        *,
        retry_after: int = 1,
    ) -> None:
        super().__init__({"detail": detail})
        self.retry_after = retry_after

    @property
    def headers(self) -> Mapping[str, str]:
        """The ``Retry-After`` header: the number of seconds after which the caller may retry."""
        return {"Retry-After": str(self.retry_after)}
