"""Renames in a directory document: objects that have the id of a stored row, and another name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sqlalchemy.engine import Connection

from models.directory.rows import RENAMABLE, Row, stored_keys

Key = tuple[str, ...]
"""A natural key. Usernames in the key are in lower case, because they are compared case-insensitively."""

_LISTS: Final = ("projects", "teams")


class NamedObject(NamedTuple):
    """An object of the document: its path, its natural key, and the id that it gives, if any."""

    path: str
    key: Key
    id: int | None


@dataclass(slots=True)
class Renames:
    """What a document renames. Stored rows are looked up by old names and then handled under their new ones.

    ``new_names`` maps a section and a natural key to the last part of the new key. The key has the old name, but the
    new slug of its organization. ``objects`` maps the same section and key to the object that renames it.
    """

    new_names: dict[tuple[str, Key], str] = field(default_factory=dict)
    objects: dict[tuple[str, Key], NamedObject] = field(default_factory=dict)

    def old_names(self, names: Iterable[str]) -> set[str]:
        """Return the names, and the names that the same rows have had so far."""
        wanted = set(names)
        return wanted | {key[-1] for (_, key), new in self.new_names.items() if new in wanted}

    def current_key(self, section: str, key: Key) -> Key:
        """Return the key that a row will have after the import, given its stored key."""
        if len(key) > 1:
            key = (self._name("organizations", key[:1]), *key[1:])
        return (*key[:-1], self._name(section, key))

    def apply_to(self, section: str, row: Row) -> Row:
        """Return a stored row under its new name, with references by new names. Usernames must be in lower case."""
        changed: dict[str, Any] = {}
        if row.get("organization") is not None:
            changed["organization"] = self._name("organizations", (row["organization"],))
        if row.get("user") is not None:
            changed["user"] = self._name("users", (row["user"],))
        organization = changed.get("organization", "")
        if section == "organizations":
            changed["slug"] = self._name(section, (row["slug"],))
        elif "slug" in row:
            changed["slug"] = self._name(section, (organization, row["slug"]))
        for many in _LISTS:
            if many in row:
                changed[many] = sorted(self._name(many, (organization, slug)) for slug in row[many])
        return row | changed

    def is_renamed(self, section: str, key: Key) -> bool:
        """Return whether a row gets this key by the import."""
        return any(renamed == section and (*old[:-1], new) == key for (renamed, old), new in self.new_names.items())

    def errors(self, objects: Mapping[str, Sequence[NamedObject]]) -> Iterator[str]:
        """Yield an error for each object that has a name which another object of the document takes away."""
        for section in RENAMABLE:
            for each in objects[section]:
                by = self.objects.get((section, each.key))
                if by is not None and by.path != each.path:
                    yield f"{each.path}: {by.path} gives this row another name; refer to it by that name"

    def _name(self, section: str, key: Key) -> str:
        return self.new_names.get((section, key), key[-1])


def find_renames(connection: Connection, objects: Mapping[str, Sequence[NamedObject]]) -> Renames:
    """Find the objects whose id belongs to a row with another name, in the same organization.

    A name that another row has is no new name: such an object is an error of its id.
    """
    renames = Renames()
    for section in RENAMABLE:
        given = {each.id: each for each in objects[section] if each.id is not None}
        stored = stored_keys(connection, section, given, {each.key[-1] for each in given.values()})
        taken = {renames.current_key(section, key): id_ for id_, key in stored.items()}
        for id_, each in given.items():
            if id_ not in stored or each.key in taken:
                continue
            key = renames.current_key(section, stored[id_])
            if key[:-1] == each.key[:-1]:
                renames.new_names[section, key] = each.key[-1]
                renames.objects[section, key] = each
    return renames
