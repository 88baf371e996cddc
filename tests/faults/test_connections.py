"""Pooled connections: one that the server has closed fails nobody, and none costs a round trip at each use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import Engine

from models.database import engine as engine_module
from models.database.engine import make_engine
from tests.conftest import Database

APPLICATION = "test-pool"


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    engine = make_engine(database.engine.url.render_as_string(hide_password=False), application=APPLICATION)
    yield engine
    engine.dispose()


@pytest.fixture
def pings(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The connections that were tried with a round trip."""
    tried: list[Any] = []
    ping = engine.dialect.do_ping

    def do_ping(connection: Any) -> bool:
        tried.append(connection)
        return ping(connection)

    monkeypatch.setattr(engine.dialect, "do_ping", do_ping)
    return tried


def backend_pid(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def test_a_connection_in_use_is_not_tried_at_each_use(engine: Engine, pings: list[Any]) -> None:
    assert len({backend_pid(engine) for _ in range(5)}) == 1

    assert pings == []


def test_a_connection_that_the_server_has_ended_is_replaced(database: Database, engine: Engine) -> None:
    ended = backend_pid(engine)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("SELECT pg_terminate_backend(%(pid)s, 10000)", {"pid": ended})

    assert backend_pid(engine) != ended


def test_a_connection_that_was_idle_for_long_is_tried(
    engine: Engine, pings: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = backend_pid(engine)
    monkeypatch.setattr(engine_module, "TRUSTED_SECONDS", 0.0)

    assert backend_pid(engine) == used
    assert len(pings) == 1


def test_a_connection_that_was_lost_silently_is_replaced_when_it_is_tried(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = backend_pid(engine)
    monkeypatch.setattr(engine_module, "TRUSTED_SECONDS", 0.0)
    monkeypatch.setattr(engine.dialect, "do_ping", failing_once(engine.dialect.do_ping))

    assert backend_pid(engine) != lost


def test_a_connection_that_has_received_a_notice_is_kept(database: Database, engine: Engine) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql("LISTEN news")
        connection.commit()
    used = backend_pid(engine)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("NOTIFY news")
    # The notification arrives after the commit of the statement that sends it.
    with database.engine.begin() as connection:
        connection.exec_driver_sql("SELECT 1")

    assert backend_pid(engine) == used


def failing_once(ping: Callable[[Any], bool]) -> Callable[[Any], bool]:
    calls: list[Any] = []

    def do_ping(connection: Any) -> bool:
        calls.append(connection)
        if len(calls) == 1:
            raise psycopg.OperationalError("no answer")
        return ping(connection)

    return do_ping
