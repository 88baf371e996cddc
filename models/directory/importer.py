"""The directory as one document: who exists, imported all or nothing, and exported again.

An import is an upsert by natural key. It reads what is stored, decides in memory what each object comes to, and
writes each section with one statement. Nothing is written, and no counter moves, unless the whole document fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.engine import Connection

from models.directory.document import KEYS, SECTIONS, DirectoryError, Entry, check_document, quote, read_document
from models.directory.rows import (
    OPTIONS,
    Row,
    fold_usernames,
    give_ids,
    remove_members,
    stored_rows,
    taken_ids,
    write_places,
    write_project_teams,
    write_rows,
)
from models.directory.tokens import DEFAULT_SCOPES, TokenSpec, lock_directory, token_errors
from models.enums import JSON, CallerKind, ObjectStatus, Role

__all__ = ["DirectoryError", "ImportSummary", "export_directory", "import_directory", "read_document"]

ImportSummary = dict[str, dict[str, int]]
"""How many objects of each section an import created, changed and left unchanged."""

Key = tuple[str, ...]
"""A natural key; usernames in it are folded, since people are known in any case."""


def import_directory(connection: Connection, document: JSON) -> ImportSummary:
    """Bring the stored directory to what the document says, in the caller's transaction.

    :raises DirectoryError: the document does not fit, naming every place; nothing was changed.
    """
    entries, faults = check_document(document)
    lock_directory(connection)
    wishes = _wishes(connection, entries)
    stored = _stored(connection, wishes)
    steps = {
        section: [_step(section, wish, stored[section].get(wish.key)) for wish in wishes[section]] for section in wishes
    }
    for section in SECTIONS:
        faults += _doubled_keys(wishes[section])
        faults += _unknown_references(wishes[section], wishes, stored)
        faults += _disputed_ids(section, steps[section], taken_ids(connection, section, _given_ids(steps[section])))
    # Of a token with a value that was refused it cannot be told what else is missing.
    sound = [step for step in steps["tokens"] if not any(fault.startswith(f"{step.wish.place}.") for fault in faults)]
    faults += [fault for step in sound for fault in _token_misfits(step)]
    if faults:
        raise DirectoryError(faults)
    _write(connection, steps, stored)
    return {section: _count(steps[section]) for section in SECTIONS}


def export_directory(connection: Connection) -> dict[str, list[Row]]:
    """The stored directory as a document that imports again; without tokens, whose secrets are stored nowhere."""
    lock_directory(connection)
    return {section: stored_rows(connection, section) for section in SECTIONS if section != "tokens"}


@dataclass(frozen=True, slots=True)
class _Reference:
    """A place in the document that names a row of another section."""

    place: str
    section: str
    key: Key
    complaint: str


@dataclass(frozen=True, slots=True)
class _Wish:
    """One object of the document, with the row it means and the rows it leans on."""

    place: str
    key: Key
    says: Mapping[str, Any]
    references: Sequence[_Reference]


@dataclass(frozen=True, slots=True)
class _Step:
    """What a wish comes to: its row as it is stored (``None``: there is none) and as it shall be."""

    wish: _Wish
    stored: Row | None
    wanted: Row
    is_removal: bool = False

    @property
    def outcome(self) -> str:
        """The column of the summary in which it counts."""
        if self.is_removal:
            return "unchanged" if self.stored is None else "changed"
        if self.stored is None:
            return "created"
        return "unchanged" if self.wanted == self.stored else "changed"


# Reading: what the document means, and what is stored of it.


def _wishes(connection: Connection, entries: Mapping[str, Sequence[Entry]]) -> dict[str, list[_Wish]]:
    """Objects with their keys and references; people in them are named by their folded username."""
    said = [entry.says for section in SECTIONS for entry in entries[section]]
    folded = fold_usernames(connection, {says[part] for says in said for part in _PEOPLE if part in says})
    wishes: dict[str, list[_Wish]] = {section: [] for section in SECTIONS}
    for section in SECTIONS:
        for entry in entries[section]:
            references = list(_references(entry, folded))
            key = _key(section, entry.says, folded)
            says = dict(entry.says)
            if "user" in says:
                says["user"] = folded[says["user"]]
            for many in _LISTS & says.keys():
                says[many] = sorted(says[many])
            wishes[section].append(_Wish(entry.place, key, says, references))
    return wishes


_PEOPLE: Final = ("user", "username")
_LISTS: Final = {"features", "projects", "teams", "scopes"}


def _references(entry: Entry, folded: Mapping[str, str]) -> Iterator[_Reference]:
    says, place = entry.says, entry.place
    if "organization" in says:
        slug = says["organization"]
        yield _Reference(f"{place}.organization", "organizations", (slug,), f"{quote(slug)} is no organization")
    if "user" in says:
        name = says["user"]
        yield _Reference(f"{place}.user", "users", (folded[name],), f"{quote(name)} is no user")
    for many, one in (("projects", "project"), ("teams", "team")):
        for slug, number in says.get(many, {}).items():
            complaint = f"{quote(slug)} is no {one} of {quote(says['organization'])}"
            yield _Reference(f"{place}.{many}[{number}]", many, (says["organization"], slug), complaint)


def _stored(connection: Connection, wishes: Mapping[str, Sequence[_Wish]]) -> dict[str, dict[Key, Row]]:
    """The stored rows that the document means, and those that they or the document lean on, by natural key."""
    needed: dict[str, set[Key]] = {section: {wish.key for wish in wishes[section]} for section in SECTIONS}
    for section in SECTIONS:
        _add_supports(needed, (wish.says for wish in wishes[section]))
    stored: dict[str, dict[Key, Row]] = {}
    # Each section leans on those before it alone.
    for section in reversed(SECTIONS):
        parts = {part: {key[place] for key in needed[section]} for place, part in enumerate(KEYS[section])}
        rows = stored_rows(connection, section, parts)
        names = {row[part] for row in rows for part in _PEOPLE if row.get(part) is not None}
        folded = fold_usernames(connection, names)
        for row in rows:
            if row.get("user") is not None:
                row["user"] = folded[row["user"]]
        stored[section] = {_key(section, row, folded): row for row in rows}
        _add_supports(needed, rows)
    return stored


def _add_supports(needed: Mapping[str, set[Key]], rows: Iterable[Mapping[str, Any]]) -> None:
    for row in rows:
        if row.get("organization") is not None:
            needed["organizations"].add((row["organization"],))
        if row.get("user") is not None:
            needed["users"].add((row["user"],))
        for many in ("projects", "teams"):
            needed[many].update((row["organization"], slug) for slug in row.get(many, ()))


def _key(section: str, says: Mapping[str, Any], folded: Mapping[str, str]) -> Key:
    return tuple(folded.get(says[part], says[part]) if part in _PEOPLE else says[part] for part in KEYS[section])


# Deciding: what each object comes to, and what speaks against it.


def _step(section: str, wish: _Wish, stored: Row | None) -> _Step:
    says = dict(wish.says)
    if section == "members" and "role" in says and says["role"] is None:
        return _Step(wish, stored, stored or says, is_removal=True)
    row = stored if stored is not None else _born(section, wish)
    if "options" in says:
        says["options"] = row["options"] | says["options"]
    return _Step(wish, stored, row | says)


def _born(section: str, wish: _Wish) -> Row:
    """A new row's values where the document is silent."""
    row: Row = dict(_DEFAULTS[section])
    if section == "tokens":
        row["kind"] = CallerKind.USER if "user" in wish.says else None
        scopes = DEFAULT_SCOPES.get(wish.says.get("kind", row["kind"]))
        row["scopes"] = None if scopes is None else sorted(scopes)
    elif "name" in SECTIONS[section]:
        row["name"] = wish.says[KEYS[section][-1]]
    return row


_DEFAULTS: Final[Mapping[str, Row]] = {
    "organizations": {"features": [], "options": dict.fromkeys(OPTIONS, True)},
    "users": {"email": "", "is_active": True, "is_superuser": False, "timezone": "UTC"},
    "projects": {"status": ObjectStatus.ACTIVE},
    "teams": {"status": ObjectStatus.ACTIVE, "projects": []},
    "members": {"role": Role.MEMBER, "teams": []},
    "tokens": {"user": None, "organization": None, "name": "", "act_as": False, "role": None},
}


def _doubled_keys(wishes: Sequence[_Wish]) -> Iterator[str]:
    first: dict[Key, str] = {}
    for wish in wishes:
        before = first.setdefault(wish.key, wish.place)
        if before != wish.place:
            yield f"{wish.place}: {_called(wish)} stands in {before} already"


def _unknown_references(
    wishes: Sequence[_Wish], all_wishes: Mapping[str, Sequence[_Wish]], stored: Mapping[str, Mapping[Key, Row]]
) -> Iterator[str]:
    known = {section: stored[section].keys() | {wish.key for wish in all_wishes[section]} for section in stored}
    for wish in wishes:
        for reference in wish.references:
            if reference.key not in known[reference.section]:
                yield f"{reference.place}: {reference.complaint}"


def _given_ids(steps: Sequence[_Step]) -> list[int]:
    return [step.wish.says["id"] for step in steps if "id" in step.wish.says]


def _disputed_ids(section: str, steps: Sequence[_Step], taken: set[int]) -> Iterator[str]:
    """An id belongs to one row, and a row keeps its id."""
    first: dict[int, str] = {}
    for step in steps:
        if "id" not in step.wish.says:
            continue
        number, place = step.wish.says["id"], step.wish.place
        if step.stored is not None and step.stored["id"] != number:
            yield f"{place}.id: {number} is not the id of {_called(step.wish)}, that is {step.stored['id']}"
        elif step.stored is None and number in taken:
            yield f"{place}.id: {number} is the id of another row of {section}"
        elif first.setdefault(number, place) != place:
            yield f"{place}.id: {number} stands in {first[number]} already"


def _token_misfits(step: _Step) -> Iterator[str]:
    place, wanted = step.wish.place, step.wanted
    if wanted["kind"] is None:
        yield f'{place}: "kind" is missing'
        return
    if step.stored is not None and step.stored["kind"] != wanted["kind"]:
        yield f"{place}.kind: {quote(wanted['kind'])} is not the kind of this token, that is {step.stored['kind']}"
        return
    facts = TokenSpec(
        kind=CallerKind(wanted["kind"]),
        user=wanted["user"],
        organization=wanted["organization"],
        name=wanted["name"],
        scopes=None if wanted["scopes"] is None else frozenset(wanted["scopes"]),
        act_as=wanted["act_as"],
        ops_role=wanted["role"],
    )
    for key, says in token_errors(facts):
        value = wanted[key]
        yield f"{place}: {quote(key)} is missing: {says}" if not value else f"{place}.{key}: {quote(value)}, but {says}"


def _called(wish: _Wish) -> str:
    """How the document calls a row; a token is not repeated."""
    return "this token" if wish.place.startswith("tokens") else " in ".join(quote(part) for part in reversed(wish.key))


# Writing: each section leans on the ids of those before it.


def _write(
    connection: Connection, steps: Mapping[str, Sequence[_Step]], stored: Mapping[str, Mapping[Key, Row]]
) -> None:
    ids = {section: {key: row["id"] for key, row in stored[section].items()} for section in SECTIONS}
    for section in SECTIONS:
        moving = [step for step in steps[section] if step.outcome != "unchanged"]
        written = [step for step in moving if not step.is_removal]
        created = [step for step in written if step.stored is None]
        if created:
            give_ids(connection, section, [step.wanted for step in created])
            ids[section] |= {step.wish.key: step.wanted["id"] for step in created}
        rows = [step.wanted for step in written]
        write_rows(connection, section, rows, ids)
        if section == "teams":
            write_project_teams(connection, rows, ids)
        if section == "members":
            write_places(connection, rows, ids)
            remove_members(connection, [step.wanted for step in moving if step.is_removal])


def _count(steps: Sequence[_Step]) -> dict[str, int]:
    outcomes = [step.outcome for step in steps]
    return {outcome: outcomes.count(outcome) for outcome in ("created", "changed", "unchanged")}
