"""Strict parsers for request headers, idempotency keys, conditions and JSON bodies."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any, Final

from starlette.types import Receive

from gateway.http.json_limits import require_bounded
from models.refusals import (
    BodyTooLarge,
    InvalidFields,
    MalformedRequest,
    RequestTimedOut,
    Unauthenticated,
    UnsupportedContentCoding,
    UnsupportedMediaType,
)
from models.types import JSON, MAX_ID
from tasks.commands.fields import OBJECT_ERRORS_KEY, identifier, integer, not_an_object

BODY_LIMIT_BYTES: Final = 64 * 1024
"""The maximum size of a request body, and of each item in a body that holds many items."""

LARGE_BODY_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""The maximum size of a request body that holds many items."""

_IDEMPOTENCY_KEY: Final = re.compile(r"[!-~]{1,255}")
_TAG: Final = re.compile(r'(?:W/)?"[!#-~\x80-\xff]*"')
_TAG_LIST: Final = re.compile(rf"[ \t,]*{_TAG.pattern}([ \t]*,[ \t,]*{_TAG.pattern})*[ \t,]*")
_OUR_TAG: Final = re.compile(r'(?:W/)?"([0-9]{1,19})(?:[-;][^"]*)?"')

NO_VERSION: Final = -1
"""A version that no resource has."""


class Headers:
    """A request's headers by lower-case name. A header that was sent more than once keeps all its values."""

    __slots__ = ("_repeated", "_values")

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._values: dict[bytes, bytes] = {}
        self._repeated: dict[bytes, list[bytes]] = {}
        for name, value in raw:
            if name in self._values:
                self._repeated.setdefault(name, [self._values[name]]).append(value)
            else:
                self._values[name] = value

    def get(self, name: bytes) -> str | None:
        """Return a header's value, or ``None`` if the header is absent. If it is repeated, the first value counts."""
        value = self._values.get(name)
        return None if value is None else value.decode("latin-1").strip(" \t")

    def is_repeated(self, name: bytes) -> bool:
        """Return whether the header was sent more than once."""
        return name in self._repeated

    def joined(self, name: bytes) -> str | None:
        """Return the value of a header that holds a list. If the header is repeated, commas join its values."""
        if name in self._repeated:
            return ", ".join(value.decode("latin-1") for value in self._repeated[name])
        return self.get(name)

    def single(self, name: bytes, display_name: str) -> str | None:
        """Return the value of a header that may be sent only once.

        :raises MalformedRequest: if the header is repeated.
        """
        if name in self._repeated:
            raise MalformedRequest(f"{display_name} may be sent only once.")
        return self.get(name)


# --- credentials -----------------------------------------------------------------------------------------------


def parse_bearer_token(headers: Headers) -> bytes:
    """Return the bearer token's SHA-256 digest, which is stored instead of the token.

    :raises Unauthenticated: if there is no bearer token, or if there is more than one credential.
    """
    if headers.is_repeated(b"authorization"):
        raise Unauthenticated("Invalid token")
    scheme, _, token = (headers.get(b"authorization") or "").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated
    return hashlib.sha256(token.strip(" \t").encode("latin-1")).digest()


def parse_act_as(headers: Headers) -> int | None:
    """Return the user id in ``Act-As: user:ID``.

    Return ``None`` if the header is absent, and 0 if it does not contain a valid user id.
    """
    value = headers.get(b"act-as")
    if value is None:
        return None
    kind, _, number = value.partition(":")
    # No user has the id 0, so a malformed header is refused like the id of a user who is not a member.
    return (identifier(number) if kind == "user" and not headers.is_repeated(b"act-as") else None) or 0


# --- conditions and idempotency keys ---------------------------------------------------------------------------


def parse_idempotency_key(headers: Headers) -> str | None:
    """Return the value of ``Idempotency-Key``, or ``None`` if the header is absent.

    :raises MalformedRequest: if the value is not 1 to 255 visible ASCII characters, or if the header is repeated.
    """
    key = headers.single(b"idempotency-key", "Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise MalformedRequest("Idempotency-Key must be 1 to 255 visible ASCII characters.")
    return key


def is_idempotency_key(value: JSON) -> bool:
    """Return whether a JSON value is a valid idempotency key."""
    return isinstance(value, str) and _IDEMPOTENCY_KEY.fullmatch(value) is not None


def parse_if_match(headers: Headers) -> str | None:
    """Return the value of ``If-Match``, or ``None`` if the header is absent.

    :raises MalformedRequest: if the value is neither ``*`` nor a list of entity tags (RFC 9110 §13.1.1).
    """
    tags = headers.joined(b"if-match")
    if tags is not None and tags != "*" and not _TAG_LIST.fullmatch(tags):
        raise MalformedRequest('If-Match must be * or a list of tags, such as "<version>" or an ETag of ours.')
    return tags


def expected_versions(condition: str | None) -> tuple[int, ...] | None:
    """Return the versions that an ``If-Match`` value allows, or ``None`` if it allows every version.

    Tags are compared by their version alone: a proxy may have added a suffix, or made them weak. If no tag is one of
    ours, the only version is one that no resource has.
    """
    if condition is None or condition == "*":
        return None
    tags = (_OUR_TAG.fullmatch(tag) for tag in _TAG.findall(condition))
    return tuple(sorted({min(int(tag[1]), MAX_ID) for tag in tags if tag})) or (NO_VERSION,)


def if_version(value: JSON) -> int:
    """Return the version that a bulk item's ``ifVersion`` requires.

    :raises PydanticCustomError: if the value is not an integer.
    """
    return max(NO_VERSION, min(integer(value), MAX_ID))


# --- bodies ----------------------------------------------------------------------------------------------------


BODY_PART_SECONDS: Final = 10.0
"""How long a client may take to send the next part of a body."""


async def read_body(
    headers: Headers, receive: Receive, *, limit: int, part_seconds: float = BODY_PART_SECONDS
) -> bytes:
    """Read the request body, which may have at most ``limit`` bytes. Each part must arrive within ``part_seconds``.

    :raises BodyTooLarge: if the body exceeds the limit.
    :raises RequestTimedOut: if a part does not arrive in time.
    :raises MalformedRequest: if the client disconnects before the body is complete.
    """
    length = headers.get(b"content-length")
    if length is None and headers.get(b"transfer-encoding") is None:
        return b""
    if length is not None and length.isdecimal() and int(length[:19]) > limit:
        raise BodyTooLarge(limit)
    # Each addition to one object would copy all that has arrived before.
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        try:
            async with asyncio.timeout(part_seconds):
                message = await receive()
        except TimeoutError:
            raise RequestTimedOut(part_seconds) from None
        if message["type"] != "http.request":
            # The part that arrived might be valid JSON with another meaning.
            raise MalformedRequest("The body is incomplete.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > limit:
            raise BodyTooLarge(limit)
    return b"".join(parts)


def require_identity_coding(headers: Headers) -> None:
    """Require a body without ``Content-Encoding``, or with ``identity``.

    :raises UnsupportedContentCoding: if the body has any other coding.
    """
    codings = (headers.joined(b"content-encoding") or "").split(",")
    if any(each.strip().lower() not in ("", "identity") for each in codings):
        raise UnsupportedContentCoding


def require_json_type(headers: Headers) -> None:
    """Require a JSON media type. A body without ``Content-Type`` counts as JSON.

    :raises UnsupportedMediaType: if the body has any other media type.
    """
    content_type = headers.get(b"content-type")
    if content_type is None:
        return
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json" and not re.fullmatch(r"application/[!-~]+\+json", media_type):
        raise UnsupportedMediaType(content_type)


def parse_json(body: bytes) -> JSON:
    """Parse a body as JSON. An empty body counts as an empty object.

    :raises MalformedRequest: if the body is not UTF-8 or not JSON, contains an object with a duplicate key, or exceeds
        the limits in :mod:`gateway.http.json_limits`.
    """
    if not body:
        return {}
    require_bounded(body)
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_reject_constant)
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"JSON parse error - {error}") from None
    except ValueError as error:
        raise MalformedRequest(f"JSON parse error - {error}") from None


def require_object(value: JSON, *, errors_key: str = OBJECT_ERRORS_KEY) -> dict[str, JSON]:
    """Return the value if it is an object. ``errors_key`` is the key for errors about the object as a whole.

    :raises InvalidFields: if the value is not an object.
    """
    if not isinstance(value, dict):
        raise InvalidFields({errors_key: [not_an_object(value)]})
    return value


def json_size(value: JSON) -> int:
    """Return the size in bytes of a value's most compact JSON text."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return len(text.encode("utf-8", "surrogatepass"))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        duplicate = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {json.dumps(duplicate[:100])} in an object")
    return fields


def _reject_constant(name: str) -> JSON:
    raise ValueError(f"{name} is not JSON")
