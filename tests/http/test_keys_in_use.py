"""Idempotency keys in use: a transaction that holds a key delays only the requests that name this key."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from gateway.container import Container, Timeouts
from gateway.ledger.acceptance import CommandAcceptor
from gateway.ledger.idempotency import is_key_in_use
from gateway.ledger.submission import AcceptedCommand, IdempotencyKey, Submission
from gateway.settings import GatewaySettings
from models.base import new_id
from models.database.async_engine import make_async_engine
from models.database.errors import LOCK_NOT_AVAILABLE, is_transient, sqlstate
from models.enums import Lane
from models.messaging.command_ledger import NewCommand
from models.refusals import IdempotencyKeyReused, Unavailable
from tests.conftest import Database
from tests.handlers.acme import Acme
from tests.http.gateway_server import (
    A_COMMENT,
    COMMANDS,
    COMMENTS,
    GENEROUS_TIMEOUTS,
    Gateway,
    running_gateway,
)
from tests.waiting import eventually

CALLER = "user:11"
"""The caller key of dev-mem."""

IMPATIENT = dataclasses.replace(GENEROUS_TIMEOUTS, key_seconds=Timeouts().key_seconds)
INSERT_KEY = "INSERT INTO idempotency_keys (caller, key, request_hash, command_ids) VALUES (%s, %s, 'h', '[]')"


@pytest.fixture
def hold(ledger: Engine) -> Iterator[Callable[..., psycopg.Connection[Any]]]:
    """A function that inserts keys of dev-mem and leaves the transaction open."""
    holding: list[psycopg.Connection[Any]] = []

    def insert(*keys: str) -> psycopg.Connection[Any]:
        connection = psycopg.connect(ledger.url.set(drivername="postgresql").render_as_string(hide_password=False))
        holding.append(connection)
        for key in keys:
            connection.execute(INSERT_KEY, (CALLER, key))
        return connection

    yield insert
    for connection in holding:
        connection.close()


@pytest.fixture
def impatient_gateway(acme: Acme, settings: Callable[..., GatewaySettings]) -> Iterator[Gateway]:
    """A gateway that waits for a key in use no longer than in production."""
    with running_gateway(settings(), IMPATIENT) as running:
        yield running


def post_with_key(gateway: Gateway, key: str) -> httpx.Response:
    return gateway.post(COMMENTS, A_COMMENT, Idempotency_Key=key, Prefer="respond-async")


def waiting_sessions(ledger: Engine) -> int:
    with ledger.connect() as connection:
        return int(
            connection.exec_driver_sql(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ).scalar_one()
        )


# --- over HTTP -------------------------------------------------------------------------------------------------


def test_a_request_whose_key_is_in_use_is_refused_until_the_key_is_free(
    impatient_gateway: Gateway, hold: Callable[..., psycopg.Connection[Any]]
) -> None:
    holding = hold("one")

    refused = post_with_key(impatient_gateway, "one")
    others = [
        post_with_key(impatient_gateway, "two"),
        impatient_gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async"),
    ]
    holding.rollback()
    accepted = post_with_key(impatient_gateway, "one")

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert [response.status_code for response in others] == [202, 202]
    assert accepted.status_code == 202
    assert "idempotent-replayed" not in accepted.headers


def test_a_bulk_request_with_one_key_in_use_is_refused_as_a_whole(
    impatient_gateway: Gateway, hold: Callable[..., psycopg.Connection[Any]], ledger: Engine
) -> None:
    items = [{"type": "comment.post", "incident": 1, "comment": key, "idempotencyKey": key} for key in ("a", "b", "c")]
    holding = hold("b")

    refused = impatient_gateway.post(COMMANDS, {"commands": items})
    with ledger.connect() as connection:
        keys = connection.exec_driver_sql("SELECT key FROM idempotency_keys").scalars().all()
    holding.rollback()
    accepted = impatient_gateway.post(COMMANDS, {"commands": items})

    assert (refused.status_code, keys) == (503, [])
    assert accepted.status_code == 202
    assert "idempotent-replayed" not in accepted.headers


def test_waiting_for_a_key_does_not_delay_requests_without_a_key(
    gateway: Gateway, hold: Callable[..., psycopg.Connection[Any]], ledger: Engine
) -> None:
    """The fixture's gateway waits for a key for as long as the test runs."""
    holding = hold("one", "two")
    with ThreadPoolExecutor(2) as pool:
        blocked = [pool.submit(post_with_key, gateway, key) for key in ("one", "two")]
        eventually(lambda: waiting_sessions(ledger) == 2)

        keyless = gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async")
        still_waiting = waiting_sessions(ledger)
        holding.rollback()

    assert (keyless.status_code, still_waiting) == (202, 2)
    assert [each.result().status_code for each in blocked] == [202, 202]


def test_waiting_for_a_key_does_not_delay_requests_with_other_keys(
    gateway: Gateway, hold: Callable[..., psycopg.Connection[Any]], ledger: Engine
) -> None:
    holding = hold("one")
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(post_with_key, gateway, "one")
        eventually(lambda: waiting_sessions(ledger) == 1)

        others = [post_with_key(gateway, key) for key in ("two", "three")]
        still_waiting = waiting_sessions(ledger)
        holding.rollback()

    assert [response.status_code for response in others] == [202, 202]
    assert (still_waiting, blocked.result().status_code) == (1, 202)


# --- in one batch ----------------------------------------------------------------------------------------------


class Hints:
    """Collects the hinted subjects."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    def publish(self, lane: Lane, subjects: Iterable[str]) -> None:
        self.subjects += subjects


def a_submission(*keys: str) -> Submission:
    """A submission with one command per key, whose subject names the key."""
    rows = tuple(
        NewCommand(
            id=new_id(),
            type="comment.post",
            subject=f"incident:1:{key}",
            lane=Lane.COMMANDS,
            organization_id=1,
            token_id=None,
            user_id=11,
            caller=CALLER,
            payload="{}",
        )
        for key in keys
    )
    return Submission(rows, tuple(IdempotencyKey(key, "digest", (index,)) for index, key in enumerate(keys)))


async def accept_in_one_batch(
    database: Database, submissions: list[Submission], hints: Hints
) -> list[tuple[AcceptedCommand, ...] | BaseException]:
    """Accept the submissions, which form one batch, because they are all submitted before the batcher runs."""
    url = database.engine.url.render_as_string(hide_password=False)
    engine = make_async_engine(url, application="test", pool_size=3, pool_timeout=60, lock_timeout="50ms")
    acceptor = CommandAcceptor(engine, engine, hints, timeout_seconds=60)
    deadline = asyncio.get_running_loop().time() + 60
    results = await asyncio.gather(
        *(acceptor.accept(each, deadline=deadline) for each in submissions), return_exceptions=True
    )
    await acceptor.stop()
    await engine.dispose()
    return results


def test_a_key_in_use_affects_no_other_request_in_the_batch(
    database: Database, ledger: Engine, hold: Callable[..., psycopg.Connection[Any]]
) -> None:
    hold("held-1", "held-2")
    names = [("a",), ("held-1",), ("b", "c"), ("d", "held-2"), ("e",)]
    submissions = [a_submission(*each) for each in names]
    hints = Hints()

    results = asyncio.run(accept_in_one_batch(database, submissions, hints))

    assert [isinstance(result, Unavailable) for result in results] == [False, True, False, True, False]
    with ledger.connect() as connection:
        keys = set(connection.exec_driver_sql("SELECT key FROM idempotency_keys").scalars())
        accepted = set(connection.exec_driver_sql("SELECT subject FROM commands").scalars())
    assert keys == {"a", "b", "c", "e"}
    assert accepted == set(hints.subjects) == {f"incident:1:{key}" for key in keys}


def test_stored_keys_are_replayed_or_refused_in_a_batch_with_a_key_in_use(
    database: Database, hold: Callable[..., psycopg.Connection[Any]]
) -> None:
    first = a_submission("used")
    asyncio.run(accept_in_one_batch(database, [first], Hints()))
    hold("held")
    other_digest = dataclasses.replace(a_submission("used"), keys=(IdempotencyKey("used", "other", (0,)),))

    results = asyncio.run(
        accept_in_one_batch(database, [a_submission("held"), a_submission("used"), other_digest], Hints())
    )

    held, replayed, reused = results
    assert isinstance(held, Unavailable)
    assert isinstance(replayed, tuple)
    assert [(each.id, each.is_replay) for each in replayed] == [(first.rows[0].id, True)]
    assert isinstance(reused, IdempotencyKeyReused)


@pytest.mark.parametrize(("statement", "expected"), [(INSERT_KEY, True), ("LOCK TABLE idempotency_keys", False)])
def test_a_locked_table_is_not_mistaken_for_a_key_in_use(
    ledger: Engine, hold: Callable[..., psycopg.Connection[Any]], statement: str, expected: bool
) -> None:
    """A migration may lock the table. Every request of the batch needs it, so the batch is retried as a whole."""
    hold().execute(statement, (CALLER, "one") if expected else ())

    with ledger.connect() as connection:
        connection.exec_driver_sql("SET LOCAL lock_timeout = 10")
        with pytest.raises(DBAPIError) as waited:
            connection.exec_driver_sql(INSERT_KEY, (CALLER, "one"))

    assert sqlstate(waited.value) == LOCK_NOT_AVAILABLE
    assert is_key_in_use(waited.value) is expected


# --- sessions --------------------------------------------------------------------------------------------------


def test_every_session_of_the_gateway_has_time_limits_and_keepalives(
    settings: Callable[..., GatewaySettings],
) -> None:
    async def read() -> list[tuple[dict[str, str], dict[str, str]]]:
        container = Container(settings(), Timeouts())
        found = []
        for engine in container.engines:
            async with engine.connect() as connection:
                rows = await connection.exec_driver_sql("SELECT name, reset_val FROM pg_settings")
                raw = (await connection.get_raw_connection()).driver_connection
                assert raw is not None
                found.append(({row.name: row.reset_val for row in rows}, raw.info.get_parameters()))
            await engine.dispose()
        container.directory.close()
        return found

    sessions = asyncio.run(read())

    assert [known["lock_timeout"] for known, _ in sessions] == ["3000", "250", "3000"]
    assert {known["statement_timeout"] for known, _ in sessions} == {"10000"}
    assert {known["idle_in_transaction_session_timeout"] for known, _ in sessions} == {"2000"}
    assert {(known["keepalives_idle"], known["tcp_user_timeout"]) for _, known in sessions} == {("5", "10000")}


def test_the_server_ends_the_idle_transaction_of_a_lost_gateway(
    impatient_gateway: Gateway, settings: Callable[..., GatewaySettings]
) -> None:
    """The lost gateway has inserted a key and sends nothing more."""

    async def lose() -> DBAPIError:
        container = Container(settings(), Timeouts())
        async with container.engines[1].connect() as connection:
            await connection.exec_driver_sql(INSERT_KEY, (CALLER, "one"))
            await asyncio.to_thread(
                eventually, lambda: post_with_key(impatient_gateway, "one").status_code == httpx.codes.ACCEPTED
            )
            with pytest.raises(DBAPIError) as lost:
                await connection.exec_driver_sql("SELECT 1")
        container.directory.close()
        return lost.value

    error = asyncio.run(lose())

    assert is_transient(error)
