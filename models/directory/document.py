"""The directory document: read, and checked for everything that can be said without looking at stored rows.

A check never stops at the first fault: what fits is kept, what does not is named with its place.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from zoneinfo import available_timezones

from models.directory.tables import hash_token
from models.directory.tokens import TOKEN_KINDS
from models.enums import JSON, MAX_ID, ObjectStatus, OpsRole, Role
from models.scopes import ALL_SCOPES


class DirectoryError(Exception):
    """A document that cannot be imported; ``places`` has a line for each fault, and nothing was changed."""

    def __init__(self, places: Sequence[str]) -> None:
        super().__init__("; ".join(places))
        self.errors: list[str] = list(places)


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of the document: where it stands, and what it says that fits."""

    place: str
    says: Mapping[str, Any]


def read_document(text: str | bytes) -> JSON:
    """Parse the text of a document; keys that stand twice are kept to be named by the check.

    :raises DirectoryError: the text is not JSON.
    """
    try:
        # Left to itself, json would guess at UTF-16 and UTF-32.
        text = text if isinstance(text, str) else text.decode("utf-8")
        return json.loads(text, object_pairs_hook=_Object, parse_constant=_refuse_constant)
    except RecursionError:
        raise DirectoryError(["the document is nested too deeply"]) from None
    except ValueError as error:
        raise DirectoryError([f"the document is not JSON: {error}"]) from None


def check_document(document: JSON) -> tuple[dict[str, list[Entry]], list[str]]:
    """What the document says, section by section, and its faults, each with its place."""
    faults: list[str] = []
    entries: dict[str, list[Entry]] = {section: [] for section in SECTIONS}
    if not isinstance(document, dict):
        return entries, [f"the document must be a JSON object, not {quote(document)}"]
    faults += [f"key {quote(key)} stands twice" for key in _doubled(document)]
    for section, objects in document.items():
        if section not in SECTIONS:
            faults.append(f"unknown key {quote(section)}")
        elif not isinstance(objects, list):
            faults.append(f"{section}: {quote(objects)} is no list")
        else:
            entries[section] = list(_check_section(section, objects, faults))
    return entries, faults


def quote(value: JSON) -> str:
    """A value of the document as it stands there, shortened; safe to print anywhere."""
    text = json.dumps(value, ensure_ascii=False)
    text = text if len(text) <= 80 else text[:77] + "…"
    return "".join(c if _is_plain(c) else f"\\u{ord(c):04x}" for c in text)


def _check_section(section: str, objects: list[JSON], faults: list[str]) -> Iterator[Entry]:
    """Keep an object if it can be told which row it means."""
    for number, value in enumerate(objects):
        place = f"{section}[{number}]"
        for says in _kept(SECTIONS[section], value, place, faults):
            missing = [part for part in KEYS[section] if part not in value]
            faults += [f"{place}: {quote(part)} is missing" for part in missing]
            if says.keys() >= set(KEYS[section]):
                yield Entry(place, says)


# What a value must be: a function that returns what is kept of it, or a shape made of such functions.

_Check = Callable[[JSON], Any]


@dataclass(frozen=True, slots=True)
class _SetOf:
    """A list whose order and repetitions mean nothing: each item is kept with the number it first stood at."""

    check: _Check


_Shape = _Check | _SetOf | Mapping[str, Any]
"""An object's shape has one for each key that it may have."""


class _Unfit(Exception):
    """The value does not fit; the text is the rest of a sentence that begins with the value."""


def _kept(shape: _Shape, value: JSON, place: str, faults: list[str]) -> list[Any]:
    """The value alone in a list; an empty list if it does not fit, with its place among the faults."""
    try:
        if isinstance(shape, _SetOf):
            return [_check_set(shape, value, place, faults)]
        if isinstance(shape, Mapping):
            return [_check_object(shape, value, place, faults)]
        return [shape(value)]
    except _Unfit as unfit:
        faults.append(f"{place}: {quote(value)} {unfit}")
        return []


def _check_set(shape: _SetOf, value: JSON, place: str, faults: list[str]) -> dict[str, int]:
    if not isinstance(value, list):
        raise _Unfit("is no list")
    first: dict[str, int] = {}
    for number, item in enumerate(value):
        for kept in _kept(shape.check, item, f"{place}[{number}]", faults):
            first.setdefault(kept, number)
    return first


def _check_object(shape: Mapping[str, _Shape], value: JSON, place: str, faults: list[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Unfit("is no object")
    faults += [f"{place}: key {quote(key)} stands twice" for key in _doubled(value)]
    says = {}
    for key, item in value.items():
        if key not in shape:
            faults.append(f"{place}: unknown key {quote(key)}")
            continue
        for kept in _kept(shape[key], item, f"{place}.{key}", faults):
            says[key] = kept
    return says


def _id(value: JSON) -> int:
    if type(value) is not int or not 0 < value <= MAX_ID:
        raise _Unfit(f"is no id: ids are whole numbers from 1 to {MAX_ID}")
    return value


def _flag(value: JSON) -> bool:
    if not isinstance(value, bool):
        raise _Unfit("is neither true nor false")
    return value


def _text(what: str, *, most: int, blank: bool = False) -> _Check:
    def check(value: JSON) -> str:
        if not isinstance(value, str):
            raise _Unfit(f"is no {what}")
        if not blank and not value.strip():
            raise _Unfit(f"is blank, a {what} is not")
        if not all(map(_is_plain, value)):
            raise _Unfit("contains characters that cannot be stored")
        if len(value) > most:
            raise _Unfit(f"is longer than {most} characters")
        return value

    return check


def _pattern(pattern: str, what: str) -> _Check:
    compiled = re.compile(pattern)

    def check(value: JSON) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise _Unfit(f"is no {what}")
        return value

    return check


def _one_of(words: Iterable[str], what: str) -> _Check:
    known = {str(word): word for word in words}

    def check(value: JSON) -> str:
        if not isinstance(value, str) or value not in known:
            raise _Unfit(f"is no {what}")
        return known[value]

    return check


def _or_null(check_value: _Check) -> _Check:
    def check(value: JSON) -> Any:
        return None if value is None else check_value(value)

    return check


def _email(value: JSON) -> str:
    """An address, or an empty string for someone who gets no mail."""
    if not isinstance(value, str) or not _EMAIL.fullmatch(value) or not all(map(_is_plain, value)):
        raise _Unfit("is no e-mail address")
    return value


def _timezone(value: JSON) -> str:
    if not isinstance(value, str) or value not in _timezones():
        raise _Unfit("is no time zone")
    return value


def _token(value: JSON) -> str:
    """A token is known by its hash from here on."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]{1,255}", value):
        raise _Unfit("is no token: tokens are 1 to 255 visible ASCII characters")
    return hash_token(value).hex()


_EMAIL: Final = re.compile(r"|(?=.{3,254}\Z)[^@\s<>()\[\]\\,;:\"]+@[^@\s<>()\[\]\\,;:\"]+")
_name = _text("name", most=200)
_username = _text("username", most=128)
# Addresses hold organizations by slug or by an id of digits alone: a slug must not look like an id.
_slug = _pattern(
    r"(?![0-9]+\Z)[a-z0-9_-]{1,100}", "slug: slugs are lowercase letters, digits, - and _, not digits alone"
)
_status = _one_of(ObjectStatus, "status")
_project = {"id": _id, "organization": _slug, "slug": _slug, "name": _name, "status": _status}

SECTIONS: Final[dict[str, Mapping[str, _Shape]]] = {
    "organizations": {
        "id": _id,
        "slug": _slug,
        "name": _name,
        "features": _SetOf(_text("feature", most=200)),
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
        "role": _or_null(_one_of(Role, "role")),
        "teams": _SetOf(_slug),
    },
    "tokens": {
        "id": _id,
        "token": _token,
        "kind": _one_of(TOKEN_KINDS, "kind of token"),
        "user": _username,
        "organization": _slug,
        "name": _name,
        "scopes": _SetOf(_one_of(ALL_SCOPES, "scope")),
        "act_as": _flag,
        "role": _one_of(OpsRole, "role of operators"),
    },
}
"""What each section's objects may say, in the order in which sections lean on each other."""

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "organizations": ("slug",),
    "users": ("username",),
    "projects": ("organization", "slug"),
    "teams": ("organization", "slug"),
    "members": ("organization", "user"),
    "tokens": ("token",),
}
"""What tells a row of each section from the others: its natural key."""


class _Object(dict[str, JSON]):
    """A JSON object that remembers which of its keys stood twice."""

    def __init__(self, pairs: list[tuple[str, JSON]]) -> None:
        super().__init__(pairs)
        self.doubled = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]


def _doubled(value: dict[str, JSON]) -> list[str]:
    return value.doubled if isinstance(value, _Object) else []


def _refuse_constant(constant: str) -> JSON:
    raise ValueError(f"{constant} is no JSON value")


def _is_plain(character: str) -> bool:
    """Neither a control character nor half of a surrogate pair."""
    return unicodedata.category(character) not in {"Cc", "Cs"}


@lru_cache(maxsize=1)
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones() | {"UTC"})
