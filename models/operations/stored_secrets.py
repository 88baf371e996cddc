"""The secrets that are stored encrypted: which of them can be decrypted, and encrypting them anew.

``TOCSIN_SECRET`` holds the new secret and, after a comma, the old one, until everything is encrypted with the new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import Column, ColumnElement, Table, and_, func, select, true, update
from sqlalchemy.engine import Connection

from models.notifications.chat_destination import chat_destinations
from models.notifications.chat_url import URL_PURPOSE
from models.notifications.webhook import SECRET_PURPOSE, webhooks
from models.secrets import SecretBox, UnreadableSecret

ROWS_PER_QUERY: Final = 500


class StoredSecret(NamedTuple):
    """A column with secrets, the purpose for which they are encrypted, and the condition under which they are used."""

    table: Table
    column: Column[Any]
    purpose: str
    is_used: ColumnElement[bool]

    @property
    def name(self) -> str:
        """The table and the column."""
        return f"{self.table.name}.{self.column.name}"


STORED_SECRETS: Final = (
    StoredSecret(webhooks, webhooks.c.secret, SECRET_PURPOSE, true()),
    StoredSecret(
        webhooks,
        webhooks.c.previous_secret,
        SECRET_PURPOSE,
        and_(webhooks.c.previous_secret.is_not(None), webhooks.c.previous_secret_until > func.clock_timestamp()),
    ),
    StoredSecret(chat_destinations, chat_destinations.c.url, URL_PURPOSE, true()),
)
"""Every column with secrets."""


class SecretCount(NamedTuple):
    """How many secrets of a column could be decrypted, or were encrypted anew, and the ids of the rows of all others.

    ``changed`` counts the secrets that were replaced by a process meanwhile; that process used its own settings.
    """

    name: str
    readable: int
    unreadable: tuple[int, ...]
    changed: int = 0


def check_secrets(connection: Connection, secrets: tuple[str, ...]) -> list[SecretCount]:
    """Count the stored secrets that can be decrypted, by column."""
    return [_check(connection, stored, _box(secrets, stored)) for stored in STORED_SECRETS]


def rotate_secrets(connection: Connection, secrets: tuple[str, ...]) -> list[SecretCount]:
    """Encrypt all stored secrets with the first of ``secrets``. Those that cannot be decrypted remain as they are.

    Everything may be running: a secret that changes meanwhile is left alone, and versions do not change.
    """
    return [_rotate(connection, stored, _box(secrets, stored)) for stored in STORED_SECRETS]


def _box(secrets: tuple[str, ...], stored: StoredSecret) -> SecretBox | None:
    return SecretBox(secrets, stored.purpose) if secrets else None


def _check(connection: Connection, stored: StoredSecret, box: SecretBox | None) -> SecretCount:
    readable, unreadable = 0, []
    for id_, sealed in _rows(connection, stored):
        if _reencrypt(box, sealed) is None:
            unreadable.append(id_)
        else:
            readable += 1
    return SecretCount(stored.name, readable, tuple(unreadable))


def _rotate(connection: Connection, stored: StoredSecret, box: SecretBox | None) -> SecretCount:
    rotated, changed, unreadable = 0, 0, []
    for id_, sealed in _rows(connection, stored):
        anew = _reencrypt(box, sealed)
        if anew is None:
            unreadable.append(id_)
            continue
        is_same = (stored.table.c.id == id_, stored.column == sealed)
        result = connection.execute(update(stored.table).where(*is_same).values({stored.column: anew}))
        rotated += result.rowcount
        changed += 1 - result.rowcount
    return SecretCount(stored.name, rotated, tuple(unreadable), changed)


def _reencrypt(box: SecretBox | None, sealed: bytes) -> bytes | None:
    """Return the secret, encrypted with the current key, or ``None`` if it cannot be decrypted."""
    try:
        return None if box is None else box.reencrypt(sealed)
    except UnreadableSecret:
        return None


def _rows(connection: Connection, stored: StoredSecret) -> Iterator[tuple[int, bytes]]:
    """Yield the id and the secret of each row whose secret is used."""
    after = 0
    while True:
        query = (
            select(stored.table.c.id, stored.column)
            .where(stored.table.c.id > after, stored.is_used)
            .order_by(stored.table.c.id)
            .limit(ROWS_PER_QUERY)
        )
        rows = connection.execute(query).all()
        for row in rows:
            yield row[0], bytes(row[1])
        if len(rows) < ROWS_PER_QUERY:
            return
        after = rows[-1][0]
