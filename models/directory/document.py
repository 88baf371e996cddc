"""Parse the directory document, and validate everything that can be validated without the stored rows.

Validation does not stop at the first error: valid values are kept, and each invalid one is reported with its path, for
example ``members[0].role``.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from models.directory.tables import TOKEN_KINDS, hash_token
from models.enums import ObjectStatus, OpsRole, Role
from models.local_time import zone_names
from models.role_scopes import ALL_SCOPES
from models.types import JSON

MAX_GIVEN_ID: Final = 2**53 - 1
"""The greatest id that a document may give: the greatest whole number that every JSON parser reads exactly.

tocsin assigns ids after the greatest one given, so enough must be left.
"""


class DirectoryError(Exception):
    """Raised when the document cannot be imported. Nothing was changed. ``errors`` has one line for each error."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("; ".join(errors))
        self.errors: list[str] = list(errors)


@dataclass(frozen=True, slots=True)
class DocumentObject:
    """An object in the directory document: its path, and its valid values by key."""

    path: str
    values: Mapping[str, Any]


def read_document(text: str | bytes) -> JSON:
    """Parse the text of a directory document. Duplicate keys are recorded, so that :func:`check_document` reports them.

    :raises DirectoryError: when the text is not JSON.
    """
    try:
        # Bytes are decoded first, because json would also accept UTF-16 and UTF-32.
        text = text if isinstance(text, str) else text.decode("utf-8")
        return json.loads(text, object_pairs_hook=_Object, parse_constant=_refuse_constant)
    except RecursionError:
        raise DirectoryError(["the document is nested too deeply"]) from None
    except ValueError as error:
        raise DirectoryError([f"the document is not JSON: {error}"]) from None


def check_document(document: JSON) -> tuple[dict[str, list[DocumentObject]], list[str]]:
    """Return the document's objects by section, and its errors. Each error names the path of the invalid value."""
    errors: list[str] = []
    parsed: dict[str, list[DocumentObject]] = {section: [] for section in SECTIONS}
    if not isinstance(document, dict):
        return parsed, [f"the document must be a JSON object, not {quote(document)}"]
    errors += [f"key {quote(key)} occurs twice" for key in _duplicate_keys(document)]
    for section, objects in document.items():
        if section not in SECTIONS:
            errors.append(f"unknown key {quote(section)}")
        elif not isinstance(objects, list):
            errors.append(f"{section}: {quote(objects)} is not a list")
        else:
            parsed[section] = list(_check_section(section, objects, errors))
    return parsed, errors


def quote(value: JSON) -> str:
    """Return a value as JSON for an error message, truncated to 80 characters, with control characters escaped."""
    text = json.dumps(value, ensure_ascii=False)
    text = text if len(text) <= 80 else text[:77] + "…"
    return "".join(c if _is_plain(c) else f"\\u{ord(c):04x}" for c in text)


def _check_section(section: str, objects: list[JSON], errors: list[str]) -> Iterator[DocumentObject]:
    """Yield the section's objects that have a complete natural key, so that they can be matched with stored rows."""
    for number, value in enumerate(objects):
        path = f"{section}[{number}]"
        for values in _checked(SECTIONS[section], value, path, errors):
            missing = [part for part in NATURAL_KEYS[section] if part not in value]
            errors += [f"{path}: {quote(part)} is missing" for part in missing]
            if values.keys() >= set(NATURAL_KEYS[section]):
                yield DocumentObject(path, values)


# A shape describes a valid value: a function that returns the value to keep, or a composition of such functions.

_Check = Callable[[JSON], Any]


@dataclass(frozen=True, slots=True)
class _SetOf:
    """The shape of a list used as a set. Each item is kept with the index of its first occurrence."""

    check: _Check


_Shape = _Check | _SetOf | Mapping[str, Any]
"""The type of a shape, which describes valid values.

An object's shape maps each allowed key to the shape of its value.
"""


class _InvalidValue(Exception):
    """Raised when a value is invalid. The message completes a sentence that begins with the value."""


def _checked(shape: _Shape, value: JSON, path: str, errors: list[str]) -> list[Any]:
    """Return a list that contains the value if it is valid. Otherwise, add an error and return an empty list."""
    try:
        if isinstance(shape, _SetOf):
            return [_check_set(shape, value, path, errors)]
        if isinstance(shape, Mapping):
            return [_check_object(shape, value, path, errors)]
        return [shape(value)]
    except _InvalidValue as error:
        errors.append(f"{path}: {quote(value)} {error}")
        return []


def _check_set(shape: _SetOf, value: JSON, path: str, errors: list[str]) -> dict[str, int]:
    if not isinstance(value, list):
        raise _InvalidValue("is not a list")
    first: dict[str, int] = {}
    for number, item in enumerate(value):
        for kept in _checked(shape.check, item, f"{path}[{number}]", errors):
            first.setdefault(kept, number)
    return first


def _check_object(shape: Mapping[str, _Shape], value: JSON, path: str, errors: list[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _InvalidValue("is not an object")
    errors += [f"{path}: key {quote(key)} occurs twice" for key in _duplicate_keys(value)]
    values = {}
    for key, item in value.items():
        if key not in shape:
            errors.append(f"{path}: unknown key {quote(key)}")
            continue
        for kept in _checked(shape[key], item, f"{path}.{key}", errors):
            values[key] = kept
    return values


def _id(value: JSON) -> int:
    if type(value) is not int or not 0 < value <= MAX_GIVEN_ID:
        raise _InvalidValue(f"is not an id: ids are whole numbers from 1 to {MAX_GIVEN_ID}")
    return value


def _flag(value: JSON) -> bool:
    if not isinstance(value, bool):
        raise _InvalidValue("is neither true nor false")
    return value


def _text(what: str, *, most: int, blank: bool = False) -> _Check:
    def check(value: JSON) -> str:
        if not isinstance(value, str):
            raise _InvalidValue(f"is not a {what}")
        if not blank and not value.strip():
            raise _InvalidValue(f"is blank: a {what} must not be blank")
        if not all(map(_is_plain, value)):
            raise _InvalidValue("contains characters that cannot be stored")
        if any(map(_is_deceptive, value)) or (not blank and all(map(_is_invisible, value))):
            raise _InvalidValue("contains invisible characters")
        if len(value) > most:
            raise _InvalidValue(f"is longer than {most} characters")
        return value

    return check


def _key_text(what: str, *, most: int) -> _Check:
    """Return a check for a text by which rows are found, so two different ones must not look alike."""
    check_text = _text(what, most=most)

    def check(value: JSON) -> str:
        text: str = check_text(value)
        if any(map(_is_invisible, text)):
            raise _InvalidValue("contains invisible characters")
        if text != text.strip():
            raise _InvalidValue("begins or ends with a blank")
        if not unicodedata.is_normalized("NFC", text):
            raise _InvalidValue("is not in Unicode's normalization form C")
        return text

    return check


def _username(value: JSON) -> str:
    """Validate a username. No mention could use one that begins like the mention of an id."""
    username: str = _key_text("username", most=128)(value)
    if username.lower().startswith(("user:", "team:")):
        raise _InvalidValue("is not a username: it begins like the mention of an id")
    return username


def _one_of(allowed: Iterable[str], complaint: str) -> _Check:
    known = {str(value): value for value in allowed}

    def check(value: JSON) -> str:
        if not isinstance(value, str) or value not in known:
            raise _InvalidValue(complaint)
        return known[value]

    return check


def _or_null(check_value: _Check) -> _Check:
    def check(value: JSON) -> Any:
        return None if value is None else check_value(value)

    return check


def _email(value: JSON) -> str:
    """Validate an e-mail address, or an empty string for a person who does not receive mail."""
    if not isinstance(value, str) or not _EMAIL.fullmatch(value) or not all(map(_is_plain, value)):
        raise _InvalidValue("is not an e-mail address")
    if any(map(_is_invisible, value)):
        raise _InvalidValue("contains invisible characters")
    return value


def _timezone(value: JSON) -> str:
    if not isinstance(value, str) or value not in zone_names():
        raise _InvalidValue("is not a time zone")
    return value


def _slug(value: JSON) -> str:
    # URLs contain an organization's slug or id, so a slug must not look like an id.
    if not isinstance(value, str) or not re.fullmatch(r"(?![0-9]+\Z)[a-z0-9_-]{1,100}", value):
        raise _InvalidValue("is not a slug: slugs are lowercase letters, digits, - and _, and not only digits")
    return value


def _token(value: JSON) -> str:
    """Validate a token and return its hash in hexadecimal."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]{1,255}", value):
        raise _InvalidValue("is not a token: tokens are 1 to 255 visible ASCII characters")
    return hash_token(value).hex()


_EMAIL: Final = re.compile(r"|(?=.{3,254}\Z)[^@\s<>()\[\]\\,;:\"]+@[^@\s<>()\[\]\\,;:\"]+")
_name = _text("name", most=200)
_status = _one_of(ObjectStatus, "is not a status")
_project = {"id": _id, "organization": _slug, "slug": _slug, "name": _name, "status": _status}

SECTIONS: Final[dict[str, Mapping[str, _Shape]]] = {
    "organizations": {
        "id": _id,
        "slug": _slug,
        "name": _name,
        "features": _SetOf(_key_text("feature", most=200)),
        "options": {"open_membership": _flag, "alerts_member_write": _flag, "events_member_admin": _flag},
    },
    "users": {
        "id": _id,
        "username": _username,
        "name": _name,
        "email": _email,
        "is_active": _flag,
        "is_superuser": _flag,
        "timezone": _timezone,
    },
    "projects": _project,
    "teams": {**_project, "projects": _SetOf(_slug)},
    "members": {
        "id": _id,
        "organization": _slug,
        "user": _username,
        # The HTTP contract quotes this message.
        "role": _or_null(_one_of(Role, "is no role")),
        "teams": _SetOf(_slug),
    },
    "tokens": {
        "id": _id,
        "token": _token,
        "kind": _one_of(TOKEN_KINDS, "is not a kind of token"),
        "user": _username,
        "organization": _slug,
        "name": _name,
        "scopes": _SetOf(_one_of(ALL_SCOPES, "is not a scope")),
        "act_as": _flag,
        "role": _one_of(OpsRole, "is not an ops role"),
    },
}
"""The shape of the objects in each section. Objects refer only to objects of earlier sections."""

NATURAL_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "organizations": ("slug",),
    "users": ("username",),
    "projects": ("organization", "slug"),
    "teams": ("organization", "slug"),
    "members": ("organization", "user"),
    "tokens": ("token",),
}
"""The natural key of each section: the keys that together identify a row."""


class _Object(dict[str, JSON]):
    """A JSON object that records which keys occurred more than once."""

    def __init__(self, pairs: list[tuple[str, JSON]]) -> None:
        super().__init__(pairs)
        self.duplicates = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]


def _duplicate_keys(value: dict[str, JSON]) -> list[str]:
    return value.duplicates if isinstance(value, _Object) else []


def _refuse_constant(constant: str) -> JSON:
    raise ValueError(f"{constant} is not a JSON value")


def _is_plain(character: str) -> bool:
    """Whether the character is neither a control character nor a surrogate."""
    return unicodedata.category(character) not in {"Cc", "Cs"}


def _is_deceptive(character: str) -> bool:
    """Whether the character is invisible, and no script or emoji needs it inside a word."""
    return _is_invisible(character) and character not in _JOINERS and character != " "


def _is_invisible(character: str) -> bool:
    """Whether the character shows nothing. A space counts as visible."""
    return character in _BLANK_LETTERS or (
        character != " " and unicodedata.category(character) in {"Cf", "Zs", "Zl", "Zp"}
    )


_JOINERS: Final = frozenset("\u200c\u200d\u00a0\u202f\u3000")
"""Zero-width joiners, and spaces of scripts: names may contain them."""
_BLANK_LETTERS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and symbols that look like nothing."""
