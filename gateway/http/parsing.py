"""What a request says: its headers, its preferences, its JSON; read strictly, judged elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from starlette.types import Receive

from models.enums import JSON, MAX_ID
from models.refusals import BodyTooLarge, InvalidFields, MalformedRequest, UnsupportedMediaType
from tasks.commands.fields import OBJECT_ERRORS_KEY, not_an_object

KIB: Final = 1024
BODY_LIMIT: Final = 64 * KIB
"""Bytes of a body, or of one item of a body that carries many."""

LARGE_BODY_LIMIT: Final = 8 * KIB * KIB
"""Bytes of a body that carries many items."""

MAX_NESTING: Final = 20
MAX_WAIT_SECONDS: Final = 30
DEFAULT_WAIT_SECONDS: Final = 10

_VISIBLE = re.compile(r"[!-~]{1,255}")
_ENTITY_TAG = re.compile(r'"[0-9]{1,19}(-[!#-~]*)?"')


class Headers:
    """The headers of a request by lower-case name; of a repeated one the first, and the fact that it was repeated."""

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
        """A header's text, if it was sent."""
        value = self._values.get(name)
        return None if value is None else value.decode("latin-1").strip(" \t")

    def is_repeated(self, name: bytes) -> bool:
        """Whether it was sent more than once."""
        return name in self._repeated

    def joined(self, name: bytes) -> str | None:
        """A header that is a list: its lines, joined by commas."""
        if name in self._repeated:
            return ", ".join(value.decode("latin-1") for value in self._repeated[name])
        return self.get(name)

    def single(self, name: bytes, spelling: str) -> str | None:
        """A header that may come once.

        :raises Malformed: it came more than once.
        """
        if name in self._repeated:
            raise MalformedRequest(f"{spelling} may be sent only once.")
        return self.get(name)


# --- preferences -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Preference:
    """How long to wait for an outcome; ``wait_seconds`` is ``None`` if the caller did not say."""

    respond_async: bool = False
    wait_seconds: int | None = None

    def seconds(self, *, default: int) -> int:
        """How long to wait, where ``default`` is the address's own patience."""
        if self.wait_seconds is not None:
            return self.wait_seconds
        return 0 if self.respond_async else default

    @property
    def applied(self) -> str | None:
        """What Preference-Applied says."""
        said = ["respond-async"] if self.respond_async else []
        if self.wait_seconds is not None:
            said.append(f"wait={self.wait_seconds}")
        return ", ".join(said) or None


@lru_cache(maxsize=256)
def preference(header: str | None) -> Preference:
    """Read ``Prefer`` (RFC 7240): unknown and malformed preferences are ignored, of repeated ones the first counts."""
    said: dict[str, str] = {}
    for each in (header or "").split(","):
        name, _, value = each.partition(";")[0].partition("=")
        said.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = said.get("wait", "")
    seconds = min(int(wait[:9]), MAX_WAIT_SECONDS) if re.fullmatch(r"[0-9]+", wait) else None
    return Preference(respond_async=said.get("respond-async") == "", wait_seconds=seconds)


# --- conditions and keys ---------------------------------------------------------------------------------------


def idempotency_key(headers: Headers) -> str | None:
    """The key that makes a repetition harmless.

    :raises Malformed: it is not 1 to 255 visible ASCII characters, or came twice.
    """
    key = headers.single(b"idempotency-key", "Idempotency-Key")
    if key is not None and not _VISIBLE.fullmatch(key):
        raise MalformedRequest("Idempotency-Key must be 1 to 255 visible ASCII characters.")
    return key


def is_key(value: JSON) -> bool:
    """Whether a value can be an item's idempotency key."""
    return isinstance(value, str) and _VISIBLE.fullmatch(value) is not None


def if_match(headers: Headers) -> str | None:
    """The version that the caller means to change.

    :raises Malformed: it is neither ``*`` nor ``"<version>"`` nor an ETag of ours.
    """
    tag = headers.single(b"if-match", "If-Match")
    if tag is not None and tag != "*" and not _ENTITY_TAG.fullmatch(tag):
        raise MalformedRequest('If-Match must be *, "<version>" or the ETag of an earlier answer.')
    return tag


def expected_version(condition: str | None) -> int | None:
    """The number in an If-Match; ``None`` if there is none, or any version will do."""
    if condition is None or condition == "*":
        return None
    return min(int(condition.strip('"').partition("-")[0]), MAX_ID)


# --- bodies ----------------------------------------------------------------------------------------------------


async def read_body(headers: Headers, receive: Receive, *, limit: int) -> bytes:
    """The body, read no further than the limit.

    :raises TooLarge: it exceeds ``limit`` bytes.
    :raises Malformed: the caller went away before its end.
    """
    length = headers.get(b"content-length")
    if length is None and headers.get(b"transfer-encoding") is None:
        return b""
    if length is not None and length.isdecimal() and int(length[:19]) > limit:
        raise BodyTooLarge(limit)
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            # What has come may read as JSON, and is not what the caller meant to say.
            raise MalformedRequest("The body broke off.")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            raise BodyTooLarge(limit)
    return body


def require_json_type(headers: Headers) -> None:
    """Look at the media type of a body; one without a type is taken for JSON.

    :raises NotJson: it is said to be something else.
    """
    said = headers.get(b"content-type")
    if said is None:
        return
    media_type = said.partition(";")[0].strip().lower()
    if media_type != "application/json" and not re.fullmatch(r"application/[!-~]+\+json", media_type):
        raise UnsupportedMediaType(said)


class _Doubled(ValueError):
    """A key stands twice in an object."""


def parse_json(body: bytes) -> JSON:
    """A body as JSON; an empty one is an empty object.

    :raises Malformed: it is no UTF-8, no JSON, nested too deeply, or an object has a key twice.
    """
    if not body:
        return {}
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_no_doubles, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"JSON parse error - {error}") from None
    except RecursionError:
        raise MalformedRequest(f"JSON parse error - nested deeper than {MAX_NESTING} levels") from None
    except ValueError as error:
        raise MalformedRequest(f"JSON parse error - {error}") from None
    if body.count(b"[") + body.count(b"{") > MAX_NESTING and _is_deeper(value, MAX_NESTING):
        raise MalformedRequest(f"JSON parse error - nested deeper than {MAX_NESTING} levels")
    return value


def object_of(value: JSON, *, whole: str = OBJECT_ERRORS_KEY) -> dict[str, JSON]:
    """The value, if it is an object; ``whole`` is how errors of the object itself are called.

    :raises InvalidFields: it is something else; the text names it.
    """
    if not isinstance(value, dict):
        raise InvalidFields({whole: [not_an_object(value)]})
    return value


def size_of(value: JSON) -> int:
    """The bytes of a value in its plainest JSON."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return len(text.encode("utf-8", "surrogatepass"))


def digest_of(*facts: JSON) -> str:
    """A digest that is the same for the same facts, however their JSON was written."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _Doubled(f"key {json.dumps(twice[:100])} stands twice in an object")
    return fields


def _refuse_constant(name: str) -> JSON:
    raise ValueError(f"{name} is no JSON")


def _is_deeper(value: JSON, levels: int) -> bool:
    # Level by level, so that no depth of nesting can exhaust the stack.
    layer, depth = [value], 0
    while layer := [each for each in layer if isinstance(each, (dict, list))]:
        depth += 1
        if depth > levels:
            return True
        layer = [child for each in layer for child in (each.values() if isinstance(each, dict) else each)]
    return False
