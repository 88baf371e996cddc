"""Import and export the directory as one document.

An import matches objects with stored rows by natural key, and updates or inserts the rows. An object with the id of a
row that has another name renames it (:mod:`models.directory.renames`). The import reads the stored rows,
computes in memory how each row changes, and writes each section with a fixed number of statements. Unless the whole
document is valid, nothing is written and no sequence advances.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.engine import Connection

from models.directory.document import (
    NATURAL_KEYS,
    SECTIONS,
    DirectoryError,
    DocumentObject,
    check_document,
    quote,
    read_document,
)
from models.directory.renames import Key, NamedObject, Renames, find_renames
from models.directory.rows import (
    OPTIONS,
    Row,
    assign_ids,
    fold_usernames,
    projects_excluded_by_rules,
    remove_members,
    stored_rows,
    taken_ids,
    write_project_teams,
    write_rows,
    write_team_members,
)
from models.directory.tokens import DEFAULT_SCOPES, TokenSpec, lock_directory, token_errors
from models.enums import CallerKind, Feature, ObjectStatus, Role
from models.types import JSON

__all__ = [
    "DirectoryError",
    "ImportSummary",
    "export_directory",
    "import_directory",
    "lacking_feature",
    "read_document",
]

ImportSummary = dict[str, dict[str, int]]
"""The numbers of objects that an import ``created``, ``changed`` or left ``unchanged``, by section."""


def import_directory(connection: Connection, document: JSON) -> ImportSummary:
    """Import the document in the caller's transaction.

    :raises DirectoryError: when the document is invalid. The exception lists every error, and nothing is changed.
    """
    objects, errors = check_document(document)
    lock_directory(connection)
    desired = _desired_rows(connection, objects)
    named = {
        section: [NamedObject(row.path, row.key, row.values.get("id")) for row in rows]
        for section, rows in desired.items()
    }
    renames = find_renames(connection, named)
    stored = _stored_rows(connection, desired, renames)
    plans = {
        section: [
            _plan(section, row, stored[section].get(row.key), is_renamed=renames.is_renamed(section, row.key))
            for row in desired[section]
        ]
        for section in desired
    }
    errors += renames.errors(named)
    errors += _excluded_projects(connection, plans["projects"])
    for section in SECTIONS:
        errors += _duplicate_keys(desired[section])
        errors += _unknown_references(desired[section], desired, stored)
        errors += _id_conflicts(section, plans[section], taken_ids(connection, section, _given_ids(plans[section])))
    # A token with an invalid value is not checked further, because that value would seem to be missing.
    valid = [plan for plan in plans["tokens"] if not any(error.startswith(f"{plan.desired.path}.") for error in errors)]
    errors += [error for plan in valid for error in _token_errors(plan)]
    if errors:
        raise DirectoryError(errors)
    _write(connection, plans, stored)
    return {section: _count(plans[section]) for section in SECTIONS}


def lacking_feature(connection: Connection, document: JSON, feature: Feature) -> list[str]:
    """Return the slugs of those organizations of an imported document that do not have the feature."""
    listed = [organization["slug"] for organization in document.get("organizations", [])]
    rows = stored_rows(connection, "organizations", {"slug": listed})
    return [row["slug"] for row in rows if feature not in row["features"]]


def export_directory(connection: Connection) -> dict[str, list[Row]]:
    """Return the stored directory as an importable document.

    Tokens are not included, because their secrets are not stored.
    """
    lock_directory(connection)
    return {section: stored_rows(connection, section) for section in SECTIONS if section != "tokens"}


@dataclass(frozen=True, slots=True)
class _Reference:
    """A reference from a path in the document to a row of another section.

    ``error`` is the error message if that row does not exist.
    """

    path: str
    section: str
    key: Key
    complaint: str


@dataclass(frozen=True, slots=True)
class _DesiredRow:
    """An object in the document, with its row's natural key and its references to other rows."""

    path: str
    key: Key
    values: Mapping[str, Any]
    references: Sequence[_Reference]


@dataclass(frozen=True, slots=True)
class _RowPlan:
    """The plan for an object's row: the stored row, or ``None`` if there is none, and the row to write."""

    desired: _DesiredRow
    stored: Row | None
    result: Row
    is_removal: bool = False
    is_renamed: bool = False

    @property
    def outcome(self) -> str:
        """The key under which the import summary counts this object."""
        if self.is_removal:
            return "unchanged" if self.stored is None else "changed"
        if self.stored is None:
            return "created"
        return "unchanged" if self.result == self.stored and not self.is_renamed else "changed"


# --- read the document and the stored rows ---------------------------------------------------------------------------


def _desired_rows(
    connection: Connection, objects: Mapping[str, Sequence[DocumentObject]]
) -> dict[str, list[_DesiredRow]]:
    """Return the objects with their natural keys and references. Usernames in keys and references are in lower case."""
    all_values = [object_.values for section in SECTIONS for object_ in objects[section]]
    folded = fold_usernames(connection, {values[part] for values in all_values for part in _PEOPLE if part in values})
    desired: dict[str, list[_DesiredRow]] = {section: [] for section in SECTIONS}
    for section in SECTIONS:
        for object_ in objects[section]:
            references = list(_references(object_, folded))
            key = _key(section, object_.values, folded)
            values = dict(object_.values)
            if "user" in values:
                values["user"] = folded[values["user"]]
            for many in _LISTS & values.keys():
                values[many] = sorted(values[many])
            desired[section].append(_DesiredRow(object_.path, key, values, references))
    return desired


_PEOPLE: Final = ("user", "username")
_LISTS: Final = {"features", "projects", "teams", "scopes"}


def _references(object_: DocumentObject, folded: Mapping[str, str]) -> Iterator[_Reference]:
    values, path = object_.values, object_.path
    if "organization" in values:
        slug = values["organization"]
        yield _Reference(f"{path}.organization", "organizations", (slug,), f"{quote(slug)} is not an organization")
    if "user" in values:
        name = values["user"]
        yield _Reference(f"{path}.user", "users", (folded[name],), f"{quote(name)} is not a user")
    for many, one in (("projects", "project"), ("teams", "team")):
        for slug, number in values.get(many, {}).items():
            complaint = f"{quote(slug)} is not a {one} of {quote(values['organization'])}"
            yield _Reference(f"{path}.{many}[{number}]", many, (values["organization"], slug), complaint)


def _stored_rows(
    connection: Connection, desired: Mapping[str, Sequence[_DesiredRow]], renames: Renames
) -> dict[str, dict[Key, Row]]:
    """Return the stored rows for the document's objects, by section and natural key, under their new names.

    The rows to which these objects and rows refer are also returned.
    """
    needed: dict[str, set[Key]] = {section: {row.key for row in desired[section]} for section in SECTIONS}
    for section in SECTIONS:
        _add_references(needed, (row.values for row in desired[section]))
    stored: dict[str, dict[Key, Row]] = {}
    # A section refers only to sections before it.
    for section in reversed(SECTIONS):
        parts = {
            part: renames.old_names(key[index] for key in needed[section])
            for index, part in enumerate(NATURAL_KEYS[section])
        }
        rows = stored_rows(connection, section, parts)
        names = {row[part] for row in rows for part in _PEOPLE if row.get(part) is not None}
        folded = fold_usernames(connection, names)
        for row in rows:
            if row.get("user") is not None:
                row["user"] = folded[row["user"]]
        rows = [renames.apply_to(section, row) for row in rows]
        stored[section] = {renames.current_key(section, _key(section, row, folded)): row for row in rows}
        _add_references(needed, rows)
    return stored


def _add_references(needed: Mapping[str, set[Key]], rows: Iterable[Mapping[str, Any]]) -> None:
    for row in rows:
        if row.get("organization") is not None:
            needed["organizations"].add((row["organization"],))
        if row.get("user") is not None:
            needed["users"].add((row["user"],))
        for many in ("projects", "teams"):
            needed[many].update((row["organization"], slug) for slug in row.get(many, ()))


def _key(section: str, values: Mapping[str, Any], folded: Mapping[str, str]) -> Key:
    parts = ((part, values[part]) for part in NATURAL_KEYS[section])
    return tuple(folded.get(value, value) if part in _PEOPLE else value for part, value in parts)


# --- plan and validate -----------------------------------------------------------------------------------------------


def _plan(section: str, desired: _DesiredRow, stored: Row | None, *, is_renamed: bool) -> _RowPlan:
    values = dict(desired.values)
    if section == "members" and "role" in values and values["role"] is None:
        return _RowPlan(desired, stored, stored or values, is_removal=True)
    row = stored if stored is not None else _new_row(section, desired.values)
    if "options" in values:
        values["options"] = row["options"] | values["options"]
    return _RowPlan(desired, stored, row | values, is_renamed=is_renamed)


def _new_row(section: str, values: Mapping[str, Any]) -> Row:
    """Return the default values for a new row, given its values in the document."""
    row: Row = dict(_DEFAULTS[section])
    if section == "tokens":
        row["kind"] = CallerKind.USER if "user" in values else None
        scopes = DEFAULT_SCOPES.get(values.get("kind", row["kind"]))
        row["scopes"] = None if scopes is None else sorted(scopes)
    elif "name" in SECTIONS[section]:
        row["name"] = values[NATURAL_KEYS[section][-1]]
    return row


_DEFAULTS: Final[Mapping[str, Row]] = {
    "organizations": {"features": [], "options": dict.fromkeys(OPTIONS, True)},
    "users": {"email": "", "is_active": True, "is_superuser": False, "timezone": "UTC"},
    "projects": {"status": ObjectStatus.ACTIVE},
    "teams": {"status": ObjectStatus.ACTIVE, "projects": []},
    "members": {"role": Role.MEMBER, "teams": []},
    "tokens": {"user": None, "organization": None, "name": "", "act_as": False, "role": None},
}


def _duplicate_keys(rows: Sequence[_DesiredRow]) -> Iterator[str]:
    first: dict[Key, str] = {}
    for row in rows:
        before = first.setdefault(row.key, row.path)
        if before != row.path:
            yield f"{row.path}: {_name(row)} is already in {before}"


def _unknown_references(
    rows: Sequence[_DesiredRow], desired: Mapping[str, Sequence[_DesiredRow]], stored: Mapping[str, Mapping[Key, Row]]
) -> Iterator[str]:
    known = {section: stored[section].keys() | {row.key for row in desired[section]} for section in stored}
    for row in rows:
        for reference in row.references:
            if reference.key not in known[reference.section]:
                yield f"{reference.path}: {reference.complaint}"


def _given_ids(plans: Sequence[_RowPlan]) -> list[int]:
    return [plan.desired.values["id"] for plan in plans if "id" in plan.desired.values]


def _id_conflicts(section: str, plans: Sequence[_RowPlan], taken: set[int]) -> Iterator[str]:
    """Yield an error for each id that belongs to another row, and for each change to a row's id."""
    first: dict[int, str] = {}
    for plan in plans:
        if "id" not in plan.desired.values:
            continue
        number, path = plan.desired.values["id"], plan.desired.path
        if plan.stored is not None and plan.stored["id"] != number:
            yield f"{path}.id: {number} is not the id of {_name(plan.desired)}, which is {plan.stored['id']}"
        elif plan.stored is None and number in taken:
            yield f"{path}.id: {number} is the id of another row of {section}"
        elif first.setdefault(number, path) != path:
            yield f"{path}.id: {number} is already in {first[number]}"


def _excluded_projects(connection: Connection, plans: Sequence[_RowPlan]) -> Iterator[str]:
    """Yield an error for each project that cannot be renamed, because an alert rule excludes it by its slug."""
    renamed = {plan.result["id"]: plan for plan in plans if plan.is_renamed}
    for id_ in sorted(projects_excluded_by_rules(connection, renamed)) if renamed else ():
        plan = renamed[id_]
        yield f"{plan.desired.path}.slug: {_name(plan.desired)} is the new name of a project that alert rules exclude"


def _token_errors(plan: _RowPlan) -> Iterator[str]:
    path, result = plan.desired.path, plan.result
    if result["kind"] is None:
        yield f'{path}: "kind" is missing'
        return
    if plan.stored is not None and plan.stored["kind"] != result["kind"]:
        yield f"{path}.kind: {quote(result['kind'])} is not the kind of this token, which is {plan.stored['kind']}"
        return
    spec = TokenSpec(
        kind=CallerKind(result["kind"]),
        user=result["user"],
        organization=result["organization"],
        name=result["name"],
        scopes=None if result["scopes"] is None else frozenset(result["scopes"]),
        act_as=result["act_as"],
        ops_role=result["role"],
    )
    for key, message in token_errors(spec):
        value = result[key]
        if value:
            yield f"{path}.{key}: {quote(value)}, but {message}"
        else:
            yield f"{path}: {quote(key)} is missing: {message}"


def _name(row: _DesiredRow) -> str:
    """Return the row's name for use in error messages. The name never contains a token."""
    return "this token" if row.path.startswith("tokens") else " in ".join(quote(part) for part in reversed(row.key))


# --- write -----------------------------------------------------------------------------------------------------------


def _write(
    connection: Connection, plans: Mapping[str, Sequence[_RowPlan]], stored: Mapping[str, Mapping[Key, Row]]
) -> None:
    ids = {section: {key: row["id"] for key, row in stored[section].items()} for section in SECTIONS}
    for section in SECTIONS:
        changed = [plan for plan in plans[section] if plan.outcome != "unchanged"]
        written = [plan for plan in changed if not plan.is_removal]
        created = [plan for plan in written if plan.stored is None]
        if created:
            assign_ids(connection, section, [plan.result for plan in created])
            ids[section] |= {plan.desired.key: plan.result["id"] for plan in created}
        rows = [plan.result for plan in written]
        write_rows(connection, section, rows, ids)
        if section == "teams":
            write_project_teams(connection, rows, ids)
        if section == "members":
            write_team_members(connection, rows, ids)
            remove_members(connection, [plan.result for plan in changed if plan.is_removal])


def _count(plans: Sequence[_RowPlan]) -> dict[str, int]:
    outcomes = [plan.outcome for plan in plans]
    return {outcome: outcomes.count(outcome) for outcome in ("created", "changed", "unchanged")}
