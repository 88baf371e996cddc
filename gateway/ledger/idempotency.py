"""Idempotency keys: which submissions share them, which are already stored, and what each submission gets.

Keys are written in the same transaction as the commands that they cover, so that two gateways agree on which request
came first. While a transaction is open, its keys are in use: whoever inserts one of them waits for the transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.submission import AcceptedCommand, IdempotencyKey, Result, Submission
from models.base import column_arrays, insert_statement
from models.database.errors import LOCK_NOT_AVAILABLE, sqlstate
from models.messaging.command_ledger import NewCommand, idempotency_keys
from models.refusals import IdempotencyKeyReused, Refusal

KEY_WAIT_MILLISECONDS: Final = 2
"""How long :func:`find_keys_in_use` waits for each submission's keys. The batch has already waited much longer."""

_KEY_COLUMNS: Final = ("caller", "key", "request_hash", "command_ids")
_INSERT_KEYS: Final = insert_statement(idempotency_keys, _KEY_COLUMNS, "ON CONFLICT DO NOTHING")
_NAMED_KEYS: Final = "FROM unnest(%(callers)b::text[], %(keys)b::text[]) AS named(caller, key)"
_READ_KEYS: Final = (
    f"SELECT k.caller, k.key, k.request_hash, k.command_ids {_NAMED_KEYS}"
    " JOIN idempotency_keys k ON k.caller = named.caller AND k.key = named.key"
)
_DELETE_KEYS: Final = (
    "DELETE FROM idempotency_keys k USING unnest(%(callers)b::text[], %(keys)b::text[]) AS named(caller, key)"
    " WHERE k.caller = named.caller AND k.key = named.key"
)
_UPDATE_KEY: Final = (
    "UPDATE idempotency_keys SET command_ids = %(ids)s::jsonb WHERE caller = %(caller)s AND key = %(key)s"
)
# A block rather than statements with savepoints, which would cost three round trips for each submission. A block has no
# parameters and no result, so settings carry them.
_INSERT_KEYS_SEPARATELY: Final = """
DO $$
DECLARE
    submission json;
    index integer := 0;
    in_use integer[] := '{}';
BEGIN
    FOR submission IN SELECT json_array_elements(current_setting('tocsin.submissions')::json) LOOP
        BEGIN
            INSERT INTO idempotency_keys (caller, key, request_hash, command_ids)
            SELECT r.caller, r.key, r.request_hash, r.command_ids::jsonb
            FROM json_to_recordset(submission) AS r(caller text, key text, request_hash text, command_ids text)
            ON CONFLICT DO NOTHING;
        EXCEPTION WHEN lock_not_available THEN
            in_use := in_use || index;
        END;
        index := index + 1;
    END LOOP;
    PERFORM set_config('tocsin.in_use', to_json(in_use)::text, true);
END $$
"""


# --- submissions of one batch that share keys ------------------------------------------------------------------


class KeyGroups:
    """A batch's submissions, by index, grouped by whether they can be accepted together.

    ``leaders`` have no keys in common. Each of the ``followers`` has exactly the same keys and digests as its leader,
    and gets the leader's commands. ``later`` holds the rest: each shares a key with a leader, but not all
    keys and digests.
    """

    def __init__(self, submissions: Sequence[Submission], indexes: Iterable[int]) -> None:
        self.leaders: list[int] = []
        self.followers: dict[int, int] = {}
        self.later: list[int] = []
        owners: dict[tuple[str, str], int] = {}
        for index in indexes:
            submission = submissions[index]
            names = {(submission.caller, key.name) for key in submission.keys}
            sharing = {owners[name] for name in names if name in owners}
            if not sharing:
                owners |= dict.fromkeys(names, index)
                self.leaders.append(index)
            elif len(sharing) == 1 and submissions[leader := sharing.pop()].keys == submission.keys:
                self.followers[index] = leader
            else:
                self.later.append(index)


# --- stored keys -----------------------------------------------------------------------------------------------


class StoredKey(NamedTuple):
    """A key as stored: the digest of its request, and the ids of the commands that it covers."""

    digest: str
    ids: tuple[UUID, ...]


StoredKeys = Mapping[tuple[str, str], StoredKey]
"""Stored keys by caller and name."""


def is_key_in_use(error: DBAPIError) -> bool:
    """Return whether a statement waited too long for a key in use, and not for a table or another row."""
    context = getattr(getattr(error.orig, "diag", None), "context", None)
    return sqlstate(error) == LOCK_NOT_AVAILABLE and idempotency_keys.name in (context or "")


async def find_keys_in_use(connection: AsyncConnection, submissions: Sequence[Submission]) -> set[int]:
    """Insert each submission's keys separately. Return the indexes of the submissions that have a key in use.

    No key of these submissions is inserted.
    """
    rows = [[dict(zip(_KEY_COLUMNS, row, strict=True)) for row in _key_rows([each])] for each in submissions]
    # With the table locked, only a key can make the block wait.
    await connection.exec_driver_sql("LOCK TABLE idempotency_keys IN ROW EXCLUSIVE MODE")
    await connection.exec_driver_sql(
        "SELECT set_config('lock_timeout', %(timeout)s, true), set_config('tocsin.submissions', %(rows)s, true)",
        {"timeout": str(KEY_WAIT_MILLISECONDS), "rows": orjson.dumps(rows).decode()},
    )
    await connection.exec_driver_sql(_INSERT_KEYS_SEPARATELY)
    in_use = await connection.exec_driver_sql("SELECT current_setting('tocsin.in_use')")
    await connection.exec_driver_sql("SET LOCAL lock_timeout TO DEFAULT")
    return set(orjson.loads(in_use.scalar_one()))


async def store_keys(connection: AsyncConnection, submissions: Sequence[Submission]) -> StoredKeys:
    """Insert the keys that do not exist yet, and return all the submissions' keys as they are now stored."""
    rows = _key_rows(submissions)
    if not rows:
        return {}
    await connection.exec_driver_sql(_INSERT_KEYS, dict(column_arrays(_KEY_COLUMNS, rows)))
    # This is a separate statement, so that its snapshot includes the keys that other transactions committed while the
    # insert waited for them.
    stored = await connection.exec_driver_sql(_READ_KEYS, _key_arrays([row[:2] for row in rows]))
    return {
        (row.caller, row.key): StoredKey(row.request_hash, tuple(UUID(each) for each in row.command_ids))
        for row in stored
    }


def _key_rows(submissions: Iterable[Submission]) -> list[tuple[str, str, str, str]]:
    # Sorted, so that two gateways rarely deadlock.
    return sorted(
        (submission.caller, key.name, key.digest, _ids_json(submission, key.indexes))
        for submission in submissions
        for key in submission.keys
    )


# --- decisions -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Decision:
    """The decision on one submission: which rows to insert and which ids to return, or which refusal to raise.

    ``release`` holds the names of new keys to delete. ``redirect`` holds new keys that must cover earlier commands
    instead of those with which they were inserted.
    """

    submission: Submission
    rows: tuple[NewCommand, ...] = ()
    ids: tuple[UUID, ...] = ()
    refusal: Refusal | None = None
    release: list[str] = field(default_factory=list)
    redirect: list[IdempotencyKey] = field(default_factory=list)

    def result(self, accepted: Mapping[UUID, AcceptedCommand]) -> Result:
        """Return the submission's result. ``accepted`` holds its rows, and the earlier commands that it replays."""
        if self.refusal:
            return self.refusal
        new = {row.id for row in self.rows}
        return tuple(accepted[id_]._replace(is_replay=id_ not in new) for id_ in self.ids)


def decide(submission: Submission, stored: StoredKeys) -> Decision:
    """Decide on a submission whose keys have been stored. ``stored`` contains all of them."""
    ids = [row.id for row in submission.rows]
    found = [(key, stored[submission.caller, key.name]) for key in submission.keys]
    added = [key for key, known in found if set(known.ids) <= set(ids) and known.digest == key.digest]
    earlier = [(key, known) for key, known in found if key not in added]
    if any(known.digest != key.digest for key, known in earlier):
        return Decision(submission, refusal=IdempotencyKeyReused(), release=[key.name for key in added])
    for key, known in earlier:
        for index, id_ in zip(key.indexes, known.ids, strict=True):
            ids[index] = id_
    rows = tuple(row for row, id_ in zip(submission.rows, ids, strict=True) if row.id == id_)
    # A new key must cover the earlier commands that are returned for its request.
    redirect = [key for key in added if any(ids[index] != submission.rows[index].id for index in key.indexes)]
    return Decision(submission, rows=rows, ids=tuple(ids), redirect=redirect)


async def release_keys(connection: AsyncConnection, decisions: Sequence[Decision]) -> None:
    """Delete the new keys of refused submissions."""
    names = [(decision.submission.caller, name) for decision in decisions for name in decision.release]
    if names:
        await connection.exec_driver_sql(_DELETE_KEYS, _key_arrays(names))


async def redirect_keys(connection: AsyncConnection, decisions: Sequence[Decision]) -> None:
    """Replace the command ids of the new keys that must cover earlier commands."""
    for decision in decisions:
        for key in decision.redirect:
            ids = [str(decision.ids[index]) for index in key.indexes]
            await connection.exec_driver_sql(
                _UPDATE_KEY, {"ids": orjson.dumps(ids).decode(), "caller": decision.submission.caller, "key": key.name}
            )


def _key_arrays(names: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    return {"callers": [caller for caller, _ in names], "keys": [name for _, name in names]}


def _ids_json(submission: Submission, indexes: Iterable[int]) -> str:
    return orjson.dumps([str(submission.rows[index].id) for index in indexes]).decode()
