"""Backup and restore, also under a running stack whose broker and processes are ahead of the restored database."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from tests.brokers import BROKER_PARAMS, RabbitBroker
from tests.conftest import Database
from tests.journeys.stack import ACME, Stack, post_until_accepted, running_stack, stack_broker
from tests.journeys.subprocesses import public_temp_dir, run_tocsin
from tests.waiting import eventually
from workers.stack.servers import embedded_servers

COMMENTS = f"{ACME}/incidents/1/comments/"


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_temp_dir() as opened:
        yield opened


@pytest.fixture(params=BROKER_PARAMS)
def broker(request: pytest.FixtureRequest) -> Iterator[RabbitBroker | None]:
    with stack_broker(request) as found:
        yield found


def post(client: httpx.Client, text: str) -> httpx.Response:
    response = post_until_accepted(
        client, COMMENTS, {"comment": text, "mentions": ["user:12"]}, key=text.replace(" ", "-")
    )
    assert response.status_code in {201, 202}, response.text
    return response


def applied(client: httpx.Client, response: httpx.Response) -> bool:
    resource = client.get(f"/api/0/commands/{response.headers['Command-Id']}/")
    return resource.status_code == 200 and resource.json()["status"] == "applied"


def rows(stack: Stack, query: str) -> list[Any]:
    engine = stack.engine()
    with engine.connect() as connection:
        found = list(connection.exec_driver_sql(query))
    engine.dispose()
    return found


@contextlib.contextmanager
def paused_worker(stack: Stack) -> Iterator[None]:
    """Suspend the worker's processes for the duration of the block."""
    worker = psutil.Process(stack.state["pids"]["worker-1"])
    family = [worker, *worker.children(recursive=True)]
    for process in family:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in family:
            process.send_signal(signal.SIGCONT)


def snapshot(stack: Stack) -> dict[str, Any]:
    """Return the state of incident 1: version, comments, notifications, and gaps between events."""
    [(incident, version, sequence)] = rows(
        stack,
        "SELECT id, version, event_sequence FROM incidents WHERE identifier = 1"
        " AND organization_id = (SELECT id FROM organizations WHERE slug = 'acme')",
    )
    activities = f"FROM incident_activities WHERE incident_id = {incident} AND type = 3"
    notifications = f"FROM notifications WHERE user_id = 12 AND reason = 'mention' AND incident_id = {incident}"
    return {
        "version": version,
        "comments": [text for (text,) in rows(stack, f"SELECT comment {activities} ORDER BY id")],
        "newest": rows(stack, f"SELECT max(id) {activities}")[0][0],
        "notifications": rows(stack, f"SELECT count(*) {notifications}")[0][0],
        "gaps": sequence - rows(stack, f"SELECT count(*) FROM events WHERE incident_id = {incident}")[0][0],
    }


@pytest.mark.slow
def test_a_restore_while_the_stack_runs_applies_only_the_commands_in_the_backup_and_each_once(
    folder: Path, broker: RabbitBroker | None
) -> None:
    with (
        running_stack(folder / "data", "--workers", "1", broker=broker) as stack,
        stack.client(Prefer="respond-async") as mem,
    ):

        def comment(kind: str) -> list[httpx.Response]:
            return [post(mem, f"{kind} {number}") for number in range(5)]

        def until_applied(*responses: httpx.Response) -> None:
            eventually(lambda: all(applied(mem, response) for response in responses), within_seconds=30)

        first = snapshot(stack)
        until_applied(*comment("kept"))
        with paused_worker(stack):
            waiting = comment("waiting")
            stack.run_tocsin("backup", str(folder / "all.backup"))
        lost = comment("lost")
        until_applied(*waiting, *lost)
        before = snapshot(stack)

        with paused_worker(stack):
            stale = comment("stale")
            stack.run_tocsin("restore", str(folder / "all.backup"), "--yes")
        new = post(mem, "new")
        until_applied(*waiting, new)
        eventually(lambda: snapshot(stack)["notifications"] >= 11)
        after = snapshot(stack)
        gone = {
            mem.get(f"/api/0/commands/{response.headers['Command-Id']}/").status_code for response in (*lost, *stale)
        }

    assert after["comments"] == [*(f"kept {n}" for n in range(5)), *(f"waiting {n}" for n in range(5)), "new"]
    assert after["version"] == first["version"] + 11
    assert after["gaps"] == 0
    assert after["notifications"] == 11
    assert after["newest"] > before["newest"]
    assert gone == {404}


@pytest.mark.slow
def test_a_stopped_stack_restarts_with_its_data_and_its_backup_can_be_restored_elsewhere(folder: Path) -> None:
    with running_stack(folder / "data") as stack, stack.client() as mem:
        posted = post(mem, "before the stop").json()
        assert stack.program.stop(signal.SIGTERM) == 0

    with embedded_servers(folder / "data") as servers, psycopg.connect(servers.database_url) as connection:
        valid = connection.execute("SELECT count(*) FROM tokens WHERE revoked_at IS NULL").fetchone()
    assert valid == (0,), "everyone knows the demo's tokens, so they end with it"

    backed_up = run_tocsin("backup", str(folder / "all.backup"), "--data", str(folder / "data"))
    restored = run_tocsin("restore", str(folder / "all.backup"), "--data", str(folder / "new"))

    assert (backed_up.returncode, restored.returncode) == (0, 0), backed_up.stderr + restored.stderr
    for place in ("data", "new"):
        with running_stack(folder / place) as stack, stack.client() as mem:
            assert mem.get(f"{ACME}/incidents/1/activity/").json()[0] == posted
            assert post(mem, "after the start").status_code == 201


def test_a_restore_requires_confirmation_before_it_discards_data(database: Database, folder: Path) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO organizations (slug, name) VALUES ('acme', 'Acme')")
    run_tocsin("backup", str(folder / "all.backup"), DATABASE_URL=database.url)

    refused = run_tocsin("restore", str(folder / "all.backup"), DATABASE_URL=database.url)
    forced = run_tocsin("restore", str(folder / "all.backup"), "--yes", DATABASE_URL=database.url)

    assert (refused.returncode, forced.returncode) == (1, 0), forced.stderr
    assert "--yes" in refused.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("restore", "/nowhere/at-all"), "cannot be read"),
        (("restore", __file__), "is not a backup of tocsin"),
        (("backup", "/nowhere/at-all"), "cannot be written"),
    ],
)
def test_an_unusable_file_is_reported_in_one_line(database: Database, words: tuple[str, ...], message: str) -> None:
    done = run_tocsin(*words, DATABASE_URL=database.url)

    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
