"""docker-compose.yml describes a working stack whose commands, settings, ports and health checks match the programs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from models.database.grants import GRANTS
from models.messaging.canary import ALL_QUEUES
from models.settings import SETTING_NAMES
from tasks.startup import free_port
from tests.brokers import RabbitBroker
from tests.conftest import Database
from tests.journeys.stack import ACME, post_until_accepted
from tests.journeys.subprocesses import CLEAN_ENVIRONMENT, run_tocsin, running_process
from tests.project.compose import COMPOSE, own_services, services, variables
from tests.project.tree import ROOT
from tests.rabbitmq import find_rabbitmq_server
from tests.waiting import eventually
from workers.cli import CLI_COMMANDS
from workers.stack.demo_tokens import DIRECTORY
from workers.stack.servers import EmbeddedServers

SERVERS = {"postgres", "rabbitmq", "valkey"}
PASSWORDS = {"GATEWAY_PASSWORD", "WORKER_PASSWORD", "RELAY_PASSWORD", "NOTIFIER_PASSWORD"}


def schema_exit_code(file: Path) -> int:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(check, capture_output=True, check=False).returncode


def test_the_compose_file_matches_its_schema(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("healthcheck:", "healthchek:"))

    assert schema_exit_code(COMPOSE) == 0
    assert schema_exit_code(wrong) == 1


@pytest.mark.parametrize("name", own_services())
def test_every_service_runs_a_tocsin_command(name: str) -> None:
    assert own_services()[name]["command"][0] in CLI_COMMANDS


def test_every_production_process_has_a_service() -> None:
    assert {service["command"][0] for service in own_services().values()} >= {
        "migrate", "gateway", "worker", "relay", "notifier",
    }  # fmt: skip


@pytest.mark.parametrize("name", own_services())
def test_every_setting_in_the_compose_file_is_a_known_setting(name: str) -> None:
    assert set(own_services()[name]["environment"]) <= SETTING_NAMES.keys()


@pytest.mark.parametrize("name", sorted(set(own_services()) - {"migrate"}))
def test_every_process_waits_for_its_servers_and_for_the_schema(name: str) -> None:
    conditions = {other: how["condition"] for other, how in own_services()[name]["depends_on"].items()}

    assert conditions == {
        "migrate": "service_completed_successfully", "rabbitmq": "service_healthy", "valkey": "service_healthy",
    }  # fmt: skip
    assert all("healthcheck" in services()[other] for other in SERVERS)


def test_every_host_named_in_a_setting_is_a_service() -> None:
    urls = [str(value) for service in own_services().values() for value in service["environment"].values()]

    hosts = {make_url(url).host for url in urls if "://" in url and not url.startswith("http")}

    assert hosts == SERVERS


def test_only_user_facing_ports_are_published_and_only_on_loopback() -> None:
    ports = {name: service["ports"] for name, service in services().items() if "ports" in service}

    assert ports.keys() == {"gateway", "prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for each in ports.values() for port in each)


def test_dashboards_start_only_on_request() -> None:
    on_request = {name for name, service in services().items() if service.get("profiles") == ["dashboards"]}

    assert on_request == {"prometheus", "grafana"}


def test_every_mounted_file_exists() -> None:
    mounts = [mount for service in services().values() for mount in service.get("volumes", ())]

    sources = [mount.partition(":")[0] for mount in mounts if mount.startswith("./")]

    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_every_password_has_a_documented_variable() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()

    assert variables().keys() >= PASSWORDS
    assert [name for name in variables() if f"`{name}`" not in page] == []


@pytest.fixture
def logins(servers: EmbeddedServers, database: Database) -> Iterator[None]:
    """Run the script with which the PostgreSQL container initializes its database."""
    environment = {name: variables()[name] for name in PASSWORDS}
    psql = Path(servers.postgres.command[0]).with_name("psql")
    script = ROOT / "deploy" / "postgres" / "logins.sql"
    done = subprocess.run(
        [psql, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", database.url, "--file", "-"],
        input=script.read_text(),
        env=CLEAN_ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    yield
    with database.engine.begin() as connection:
        for role in GRANTS:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")
        connection.exec_driver_sql("DROP ROLE gateway, worker, relay, notifier")


def local_settings(
    service: dict[str, Any], servers: EmbeddedServers, database: Database, broker_url: str
) -> dict[str, str]:
    """Return a service's settings, with the addresses of this test's servers and the service's own login."""
    settings = {name: str(value) for name, value in service["environment"].items()}
    original = make_url(settings["DATABASE_URL"])
    user = make_url(database.url).username if original.username == "tocsin" else original.username
    url = make_url(database.url).set(username=user, password=original.password)
    settings["DATABASE_URL"] = url.render_as_string(hide_password=False)
    addresses = {"BROKER_URL": broker_url, "REDIS_URL": servers.redis_url}
    return settings | {name: address for name, address in addresses.items() if name in settings}


@pytest.fixture
def broker_url(request: pytest.FixtureRequest, servers: EmbeddedServers) -> str:
    """The URL of a RabbitMQ like the one in the file, or of the embedded Valkey if RabbitMQ is not installed."""
    if find_rabbitmq_server() is None and "CI" not in os.environ:
        return servers.broker_url
    rabbitmq: RabbitBroker = request.getfixturevalue("rabbitmq")
    return rabbitmq.url


@pytest.mark.slow
@pytest.mark.xdist_group("faults")
def test_the_services_work_with_the_commands_and_settings_in_the_file(
    logins: None, servers: EmbeddedServers, database: Database, broker_url: str, tmp_path: Path
) -> None:
    port = free_port("127.0.0.1", 0)
    first = free_port("127.0.0.1", 0)
    metrics_ports = range(first, first + 10)
    services_here = json.loads(json.dumps(own_services()).replace("8400", str(port)))
    migrated = run_tocsin(
        *services_here["migrate"]["command"], **local_settings(services_here["migrate"], servers, database, broker_url)
    )
    run_tocsin("directory", "import", str(DIRECTORY), DATABASE_URL=database.url)

    with contextlib.ExitStack() as running:
        for name, service in services_here.items():
            if name != "migrate":
                environment = local_settings(service, servers, database, broker_url)
                if "TOCSIN_METRICS" in environment:
                    # In the file, each process has a container of its own.
                    environment["TOCSIN_METRICS"] = f"127.0.0.1:{metrics_ports[0]}-{metrics_ports[-1]}"
                log = tmp_path / f"{name}.log"
                running.enter_context(running_process(*service["command"], environment=environment, log=log))
        bot = running.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "Bearer dev-bot"}, timeout=40)
        )
        opened = post_until_accepted(bot, f"{ACME}/incidents/", {"title": "Slow", "projects": ["p1"]}, key="open")
        check = services_here["gateway"]["healthcheck"]["test"]
        healthy = subprocess.run([sys.executable, *check[2:]], capture_output=True, check=False)
        target = services_here["gateway"]["ports"][0].rpartition(":")[2]
        eventually(lambda: all_events_processed(database))
        served = eventually(lambda: all_metrics([target, *metrics_ports]), within_seconds=60)

    assert migrated.returncode == 0, migrated.stderr
    assert opened.status_code == 201
    assert (check[0], check[1], healthy.returncode) == ("CMD", "python3", 0)
    assert target == str(port)
    assert served is not None
    assert 'tocsin_commands_finished_total{outcome="applied",reason="",type="incident.open"} 1.0' in served["worker"]
    assert 'tocsin_command_wait_seconds_count{lane="commands"} 1.0' in served["worker"]
    assert re.search(r"^tocsin_events_published_total [1-9]", served["relay"], re.MULTILINE)
    assert "tocsin_events_planned_total 0.0" in served["notifier"]  # of this event, nobody is told
    for text in served.values():
        assert "tocsin_broker_blocked 0.0" in text
        assert "_created" not in text
    assert "permission denied" not in "".join(log.read_text() for log in tmp_path.glob("*.log"))
    broken = subprocess.run([sys.executable, *check[2:]], capture_output=True, check=False)
    assert broken.returncode == 1


def all_metrics(ports: Iterable[int | str]) -> dict[str, str] | None:
    """Return the metrics on these ports by the kind of process, once all kinds and all canaries are there."""
    served = {}
    for port in ports:
        with contextlib.suppress(httpx.TransportError):
            text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=20).text
            if found := re.search(r'tocsin_build_info{kind="(\w+)"', text):
                served[found[1]] = text
    seen = re.findall(r'tocsin_canary_way_seconds{queue="(\w+)"}', served.get("relay", ""))
    is_complete = served.keys() == {"gateway", "worker", "relay", "notifier"} and set(seen) == {*ALL_QUEUES["queues"]}
    return served if is_complete else None


def all_events_processed(database: Database) -> bool:
    engine = create_engine(database.engine.url, poolclass=NullPool)
    with engine.connect() as connection:
        waiting, total = connection.exec_driver_sql(
            "SELECT count(*) FILTER (WHERE announced_at IS NULL OR planned_at IS NULL), count(*) FROM events"
        ).one()
    return bool(total) and not waiting


def test_the_postgres_health_check_works(servers: EmbeddedServers) -> None:
    program, *words = services()["postgres"]["healthcheck"]["test"][1:]
    ready = Path(servers.postgres.command[0]).with_name(program)
    environment = {"PGHOST": str(servers.postgres.sockets)}

    available = subprocess.run([ready, *words], env=environment, capture_output=True, check=False)
    unavailable = subprocess.run([ready, *words], env={"PGHOST": "/nowhere"}, capture_output=True, check=False)

    assert (available.returncode, unavailable.returncode) == (0, 2)


def test_valkey_starts_with_the_options_in_the_file(servers: EmbeddedServers, tmp_path: Path) -> None:
    program, *words = services()["valkey"]["command"]
    server = Path(servers.valkey.command[0])

    process = subprocess.Popen(
        [server, *words, "--port", "0", "--unixsocket", str(tmp_path / "v.sock")],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        status_line = next((line for line in process.stdout if "Ready to accept" in line or "FATAL" in line), "")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()

    assert program == "valkey-server"
    assert "Ready to accept" in status_line


def test_the_valkey_health_check_works(servers: EmbeddedServers) -> None:
    program, *words = services()["valkey"]["healthcheck"]["test"][1:]
    client = shutil.which(program) or shutil.which("redis-cli")
    if client is None:
        pytest.skip("valkey-cli and redis-cli are not installed")

    result = subprocess.run(
        [client, "-s", str(servers.valkey.socket), *words], capture_output=True, text=True, check=False
    )

    assert result.stdout.strip() == "PONG"
