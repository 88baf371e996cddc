"""A process that a server refuses ends with a one-line error; a process whose servers are unreachable waits."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy.engine import Engine, make_url

from tasks.server_check import check_broker
from tasks.startup import StartupError, free_port
from tests.brokers import RabbitBroker, ValkeyBroker, broker_settings
from tests.conftest import Database
from tests.journeys.subprocesses import run_tocsin, running_process
from tests.waiting import eventually
from workers.stack.servers import EmbeddedServers

PROCESSES = ("gateway", "worker", "relay", "notifier")
PASSWORD_ROLE = "with_password"


def start(name: str, servers: EmbeddedServers, **settings: str) -> str:
    """Start a process that a server refuses, and assert that it exits with code 1; return its standard error."""
    ports = ("--port", str(free_port("127.0.0.1", 0))) if name == "gateway" else ()

    done = run_tocsin(name, *ports, **(servers.environment | settings))

    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def url_with(original: Database, **parts: Any) -> str:
    return make_url(original.url).set(**parts).render_as_string(hide_password=False)


@pytest.fixture
def password_role(database: Database, maintenance: Engine) -> Iterator[str]:
    """A role that must log in with the password `right`; every other role still needs no password."""
    with maintenance.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {PASSWORD_ROLE} LOGIN PASSWORD 'right'")
        hba = Path(connection.exec_driver_sql("SHOW hba_file").scalar_one())
        before = hba.read_text()
        hba.write_text(f"local all {PASSWORD_ROLE} scram-sha-256\n{before}")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
        rules = "SELECT count(*) FROM pg_hba_file_rules WHERE user_name = ARRAY[%(role)s]"
        eventually(lambda: connection.exec_driver_sql(rules, {"role": PASSWORD_ROLE}).scalar_one() == 1)
        yield PASSWORD_ROLE
        hba.write_text(before)
        connection.exec_driver_sql("SELECT pg_reload_conf()")
        connection.exec_driver_sql(f"DROP ROLE {PASSWORD_ROLE}")


@pytest.fixture
def valkey_password(valkey: ValkeyBroker) -> Iterator[str]:
    """The password that Valkey requires."""
    url = valkey.url.replace("redis+socket://", "unix://")
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        client.config_set("requirepass", "right")
        client.execute_command("AUTH", "right")  # type: ignore[no-untyped-call]
        yield "right"
        client.config_set("requirepass", "")


@pytest.mark.parametrize("name", PROCESSES)
def test_a_wrong_database_password_ends_a_process_with_a_one_line_error(
    name: str, database: Database, password_role: str, servers: EmbeddedServers
) -> None:
    url = url_with(database, username=password_role, password="wrong")

    assert start(name, servers, DATABASE_URL=url) == (
        f'the database refuses the login (password authentication failed for user "{password_role}"):'
        " correct DATABASE_URL\n"
    )


@pytest.mark.parametrize("name", PROCESSES)
def test_a_missing_schema_ends_a_process_with_a_one_line_error(name: str, servers: EmbeddedServers) -> None:
    assert start(name, servers) == "the database has no schema: run `tocsin migrate`\n"


def test_an_unknown_role_or_database_ends_a_process_with_a_one_line_error(
    database: Database, servers: EmbeddedServers
) -> None:
    unknown_role = start("relay", servers, DATABASE_URL=url_with(database, username="nobody"))
    unknown_database = start("relay", servers, DATABASE_URL=url_with(database, database="nothing"))

    assert unknown_role == 'the database refuses the login (role "nobody" does not exist): correct DATABASE_URL\n'
    assert unknown_database == (
        'the database refuses the login (database "nothing" does not exist): correct DATABASE_URL\n'
    )


def test_a_missing_or_wrong_valkey_password_ends_a_process_with_a_one_line_error(
    database: Database, servers: EmbeddedServers, valkey: ValkeyBroker, valkey_password: str
) -> None:
    without = start("relay", servers, DATABASE_URL=database.url, BROKER_URL=valkey.url)
    wrong = start(
        "relay",
        servers,
        DATABASE_URL=database.url,
        BROKER_URL=valkey.url.replace("://", f"://:not-{valkey_password}@"),
    )

    assert without == "the broker refuses access (Authentication required): correct BROKER_URL or its permissions\n"
    assert wrong.startswith("the broker refuses access (")
    assert wrong.endswith("): correct BROKER_URL or its permissions\n")


def test_a_wrong_rabbitmq_password_is_an_error_at_startup(rabbitmq: RabbitBroker) -> None:
    url = make_url(rabbitmq.url).set(password="wrong").render_as_string(hide_password=False)

    with pytest.raises(
        StartupError, match=r"^the broker refuses access \(.*\): correct BROKER_URL or its permissions$"
    ):
        check_broker(broker_settings(url))


def test_a_port_in_use_ends_the_gateway_with_a_one_line_error(database: Database, servers: EmbeddedServers) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
        port = listening.getsockname()[1]
        done = run_tocsin("gateway", "--port", str(port), **(servers.environment | {"DATABASE_URL": database.url}))

    assert done.returncode == 1
    assert done.stderr == (
        f"port {port} on 127.0.0.1 is in use: stop what listens there, or choose another with --port\n"
    )


@pytest.mark.parametrize("name", ["worker", "relay", "notifier"])
def test_a_process_whose_servers_are_unreachable_starts_and_waits_for_them(name: str, tmp_path: Path) -> None:
    port = free_port("127.0.0.1", 0)
    unreachable = {
        "DATABASE_URL": f"postgresql://tocsin@127.0.0.1:{port}/tocsin",
        "BROKER_URL": f"redis://127.0.0.1:{port}",
    }
    log = tmp_path / "log"

    with running_process(name, environment=unreachable, log=log):
        eventually(lambda: "process.started" in log.read_text())

    assert "startup.database_unreachable" in log.read_text()
    assert "startup.broker_unreachable" in log.read_text()
