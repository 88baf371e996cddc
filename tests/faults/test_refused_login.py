"""A running worker whose login the database refuses logs this once, and continues after an operator has corrected
it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.engine import Engine
from structlog.testing import capture_logs

from models.enums import Lane
from tasks.app import make_app
from tasks.broker.hints import Hint
from tests.brokers import Broker
from tests.faults.ledger import a_comment_command
from tests.handlers.acme import Acme
from tests.harness import Harness
from workers.apply.applier import Applier
from workers.apply.process import _Child
from workers.apply.watchdog import Heartbeat
from workers.settings import WorkerSettings

ROLE = "worker_login"

UNREPORTED = "process.unreported"
"""The log line of the thread that reports the process, which notices the outage by itself."""


@pytest.fixture
def role(harness: Harness, maintenance: Engine) -> Iterator[str]:
    """A role that may log in until a test forbids it."""
    with maintenance.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {ROLE} LOGIN SUPERUSER")
        yield ROLE
        connection.exec_driver_sql(f"DROP ROLE {ROLE}")


@pytest.fixture
def child(harness: Harness, valkey: Broker, role: str) -> Iterator[_Child]:
    """The part of a worker that handles hints, in this process, logged in as the role."""
    url = harness.engine.url.set(drivername="postgresql", username=role)
    settings = WorkerSettings(
        database_url=url.render_as_string(hide_password=False), **valkey.settings.model_dump(exclude_unset=True)
    )
    child = _Child.start(settings, make_app(settings), [Lane.COMMANDS], Heartbeat())
    yield child
    child.stop()
    child.applier.engine.dispose()
    child.in_flight.engine.dispose()


def refuse_login(maintenance: Engine, role: str) -> None:
    with maintenance.connect() as connection:
        connection.exec_driver_sql(f"ALTER ROLE {role} NOLOGIN")
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = %(role)s", {"role": role}
        )


def allow_login(maintenance: Engine, role: str) -> None:
    with maintenance.connect() as connection:
        connection.exec_driver_sql(f"ALTER ROLE {role} LOGIN")


def test_a_login_refused_at_run_time_is_logged_once_as_a_sentence_and_the_worker_recovers(
    harness: Harness, acme: Acme, maintenance: Engine, role: str, child: _Child
) -> None:
    child.handle_hint_or_wait(Lane.COMMANDS, Hint(()))
    refuse_login(maintenance, role)
    id_ = harness.accept(a_comment_command("Anyone?"), **acme.by("mem"))

    with capture_logs() as lines:
        for _ in range(3):
            child.handle_hint_or_wait(Lane.COMMANDS, Hint(()))
    waiting = harness.ledger_row(id_)["state"]
    allow_login(maintenance, role)
    child.handle_hint_or_wait(Lane.COMMANDS, Hint(()))

    assert [(line["event"], line["log_level"], line["error"]) for line in lines if line["event"] != UNREPORTED] == [
        (
            "worker.failed",
            "error",
            f'the database refuses the login (role "{role}" is not permitted to log in): correct DATABASE_URL',
        )
    ]
    assert (waiting, harness.ledger_row(id_)["state"]) == ("accepted", "applied")


def test_a_login_refused_again_after_a_recovery_is_logged_again(maintenance: Engine, role: str, child: _Child) -> None:
    with capture_logs() as lines:
        for _ in range(2):
            refuse_login(maintenance, role)
            child.handle_hint_or_wait(Lane.COMMANDS, Hint(()))
            allow_login(maintenance, role)
            child.handle_hint_or_wait(Lane.COMMANDS, Hint(()))

    assert [line["event"] for line in lines if line["event"] != UNREPORTED] == ["worker.failed", "worker.failed"]


def test_any_other_error_is_left_to_celery(child: _Child, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(Applier, "drain", fail)

    with pytest.raises(ConnectionError, match="away"):
        child.handle_hint_or_wait(Lane.COMMANDS, Hint(()))
