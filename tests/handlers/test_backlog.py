"""The cost of sweeping and pruning does not grow with the backlog."""

from __future__ import annotations

from uuid import uuid4

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.engine import Connection, Engine

from models.enums import CommandState, Lane
from models.messaging.backlog import find_overdue_subjects, find_stalled_lanes
from models.messaging.command_ledger import commands, idempotency_keys, prune_idempotency_keys
from tests.builders import an_accepted_command
from tests.conftest import Database

SUBJECTS, LONGEST_BACKLOG = 500, 20_000


@pytest.fixture
def engine(database: Database) -> Engine:
    """A database whose commands have waited for an hour: many subjects, one of them with a very long backlog."""
    with database.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO commands (id, type, subject, lane, caller, payload, accepted_at)"
                " SELECT gen_random_uuid(), 'comment.post',"
                " CASE WHEN n > :others THEN 'incident:1:7' ELSE 'org:' || n END,"
                " 'commands', 'user:1', '{}', now() - interval '1 hour' FROM generate_series(1, :others + :longest) n"
            ),
            {"others": SUBJECTS - 1, "longest": LONGEST_BACKLOG},
        )
    return database.engine


def test_a_sweep_reads_a_bounded_number_of_rows(engine: Engine) -> None:
    with engine.begin() as connection:
        found = find_overdue_subjects(connection, Lane.COMMANDS, older_than=3, rows=100)

        assert len(found.subjects) == 100
        assert 100 <= rows_read(connection, "commands") <= 2 * 100 + 2


def test_successive_sweeps_visit_every_subject(engine: Engine) -> None:
    seen: set[tuple[Lane, str]] = set()
    after = 0
    with engine.begin() as connection:
        while True:
            found = find_overdue_subjects(connection, Lane.COMMANDS, older_than=3, after=after, rows=300, span=3000)
            seen.update(found.subjects)
            after = found.after
            if not after:
                break

    assert len(seen) == SUBJECTS
    assert (Lane.COMMANDS, "incident:1:7") in seen


def test_the_watchdog_reads_only_the_oldest_rows(engine: Engine) -> None:
    with engine.begin() as connection:
        assert find_stalled_lanes(connection, older_than=3, window=200) == {Lane.COMMANDS}
        assert 200 <= rows_read(connection, "commands") <= 2 * 200


def test_old_idempotency_keys_are_pruned_in_chunks_oldest_first(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO idempotency_keys (caller, key, request_hash, command_ids, date_created)"
                " SELECT 'user:1', n::text, '', '[]', now() - interval '3 days' + n * interval '1 second'"
                " FROM generate_series(1, 20000) AS n"
            )
        )

    with database.engine.begin() as connection:
        assert prune_idempotency_keys(connection, older_than_hours=48, most=100) == 100
        assert 100 <= rows_read(connection, "idempotency_keys") <= 3 * 100
        assert connection.execute(text("SELECT min(key::int) FROM idempotency_keys")).scalar_one() == 101


@pytest.mark.parametrize("state", CommandState)
def test_an_idempotency_key_is_kept_while_one_of_its_commands_is_waiting(
    database: Database, state: CommandState
) -> None:
    with database.engine.begin() as connection:
        ids = [an_accepted_command(connection) for _ in range(2)]
        for id_, known in zip(ids, (CommandState.APPLIED, state), strict=True):
            connection.execute(update(commands).where(commands.c.id == id_).values(state=known))
        for key, covered in (("both", ids), ("finished", ids[:1]), ("unknown", [uuid4()])):
            connection.execute(
                insert(idempotency_keys).values(
                    caller="user:1",
                    key=key,
                    request_hash="",
                    command_ids=[str(each) for each in covered],
                    date_created=text("now() - interval '49 hours'"),
                )
            )

    with database.engine.begin() as connection:
        pruned = prune_idempotency_keys(connection, older_than_hours=48)
        left = connection.execute(select(idempotency_keys.c.key)).scalars().all()

    assert (pruned, left) == ((2, ["both"]) if state is CommandState.ACCEPTED else (3, []))


def rows_read(connection: Connection, table: str) -> int:
    """Return the number of the table's rows that this transaction has read or written so far."""
    return int(
        connection.execute(
            text(
                "SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) + n_tup_upd + n_tup_del"
                " FROM pg_stat_xact_user_tables WHERE relname = :table"
            ),
            {"table": table},
        ).scalar_one()
    )
