"""Processes of two successive releases work together, and can be replaced in the order that docs/operations.md gives.

The previous release is run from its wheel. It is the newest tag ``v*`` before HEAD, or else the commit before HEAD on
the first-parent history, if its code can run on today's schema while other processes run: it has migration 0010, the
first after 0009, which requires a stop, and it has no migration that the checkout lacks. If there is no such tag or
commit, as on a shallow clone or without git, the wheel of the checkout takes its place.

The next release is the checkout with a command type and a payload version that the previous release does not know
(:mod:`tests.project.next_release`).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.engine import Engine

from models.enums import Lane
from models.messaging.command_ledger import commands
from models.messaging.subject import Subject
from tasks.app import make_app
from tasks.broker.hint_publisher import HintPublisher
from tasks.commands.comments import PostComment
from tests.brokers import ValkeyBroker
from tests.builders import an_accepted_command, an_incident
from tests.conftest import Database
from tests.handlers.acme import Acme
from tests.journeys.stack import ACME, post_until_accepted
from tests.journeys.subprocesses import CLEAN_ENVIRONMENT
from tests.project.deployment import Deployment, Release
from tests.project.next_release import NEXT_PAYLOAD_VERSION, NEXT_TYPES, PinComment
from tests.project.releases import (
    build_and_unpack_wheel,
    copy_checkout,
    git,
    migrations_of,
    migrations_today,
    unpack,
)
from tests.project.tree import PACKAGES, ROOT
from tests.waiting import eventually
from workers.stack.servers import EmbeddedServers

# One worker runs these tests, so that the wheel is built once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("rolling_upgrade")]

FIRST_MIGRATION = "0010_"
"""The first migration whose release can run at the same time as today's."""

WAITING = "SELECT type, payload_version, count(*) FROM commands WHERE state = 'accepted' GROUP BY 1, 2"
"""The query with which docs/operations.md finds the commands that only the newer release knows."""

INCIDENTS = (1, 2, 3)


# --- releases ----------------------------------------------------------------------------------------------------


def previous_release() -> str | None:
    """Return the tag or commit of the previous release, if it can run on today's schema."""
    tags = git("tag", "--list", "v*", "--merged", "HEAD", "--no-contains", "HEAD", "--sort=-version:refname").split()
    for release in (*tags, "HEAD^"):
        then = migrations_of(release)
        if then <= migrations_today() and any(Path(path).name.startswith(FIRST_MIGRATION) for path in then):
            return release
    return None


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The previous release, from its wheel."""
    folder = tmp_path_factory.mktemp("previous")
    source = folder / "source"
    source.mkdir()
    if commit := previous_release():
        unpack(commit, source)
    else:
        copy_checkout(source)
    return Release(build_and_unpack_wheel(source, folder), "workers.cli")


@pytest.fixture(scope="module")
def following() -> Release:
    """The next release, from the checkout."""
    return Release(ROOT, "tests.project.next_release")


@pytest.fixture
def deployment(database: Database, servers: EmbeddedServers, acme: Acme, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment without any process yet, with three incidents."""
    with database.engine.begin() as connection:
        for identifier in INCIDENTS[1:]:
            an_incident(
                connection,
                acme.organizations["acme"],
                projects=[acme.projects["acme", "p1"]],
                identifier=identifier,
            )
    deployment = Deployment(servers.environment | {"DATABASE_URL": database.url}, tmp_path)
    yield deployment
    deployment.stop()


# --- tests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fixture", ["previous", "following"])
def test_every_package_is_imported_from_the_release_that_is_run(fixture: str, request: pytest.FixtureRequest) -> None:
    release: Release = request.getfixturevalue(fixture)
    script = f"import {', '.join(PACKAGES)}; print(*(each.__path__[0] for each in ({', '.join(PACKAGES)})))"

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=CLEAN_ENVIRONMENT | release.environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == [str(release.path / package) for package in PACKAGES]


def test_commands_that_a_worker_does_not_know_wait_for_one_that_does(
    deployment: Deployment, previous: Release, following: Release, database: Database, acme: Acme, hints: HintPublisher
) -> None:
    engine = database.engine
    organization = acme.organizations["acme"]
    subjects = [str(Subject.incident(organization, identifier)) for identifier in INCIDENTS]
    deployment.start(previous, "worker")

    waiting = accept(
        engine,
        acme,
        Accepted(1, "first", version=NEXT_PAYLOAD_VERSION),
        Accepted(1, "second", type=PinComment.name),
        Accepted(2, "first", type=PinComment.name),
    )
    [ordinary] = accept(engine, acme, Accepted(3, "first"))
    hints.publish(Lane.COMMANDS, subjects)
    eventually(lambda: states(engine, [ordinary]) == ["applied"])
    waiting += accept(engine, acme, Accepted(1, "third"), Accepted(2, "second"))
    [later] = accept(engine, acme, Accepted(3, "second"))
    hints.publish(Lane.COMMANDS, subjects)
    eventually(lambda: states(engine, [later]) == ["applied"])

    assert [state_and_counts(engine, each) for each in waiting] == [("accepted", 0, 0)] * 5
    assert deployment.running["worker"].is_running()
    assert deployment.errors() == []

    deployment.replace(following, "worker")
    hints.publish(Lane.COMMANDS, subjects)

    eventually(lambda: set(states(engine, waiting)) == {"applied"})
    assert [state_and_counts(engine, each) for each in waiting] == [("applied", 1, 0)] * 5
    assert comments(engine) == {1: ["first", "second", "third"], 2: ["first", "second"], 3: ["first", "second"]}
    assert deployment.errors() == []


def test_replacing_all_processes_in_the_documented_order_and_back_loses_and_duplicates_nothing(
    deployment: Deployment, previous: Release, following: Release, database: Database
) -> None:
    engine = database.engine
    deployment.start(previous, "gateway", "worker", "relay", "notifier")

    with posting(deployment.url) as (caller, wait_for_more):
        wait_for_more()
        deployment.replace(following, "worker", "relay", "notifier")
        wait_for_more()
        deployment.replace(following, "gateway")
        wait_for_more()

        deployment.replace(previous, "gateway")
        wait_for_more()
        eventually(lambda: not NEXT_TYPES & waiting_types(engine))
        deployment.replace(previous, "worker", "relay", "notifier")
        wait_for_more()
    eventually(lambda: not waiting_types(engine))
    eventually(lambda: unprocessed_events(engine) == 0)

    assert comments(engine) == caller.texts
    assert mentions(engine) == caller.count
    with engine.connect() as connection:
        rows = connection.execute(select(commands).order_by(commands.c.seq)).all()
    assert [(row.state, row.attempts) for row in rows] == [("applied", 1)] * caller.count
    assert [version for version, _ in groupby(row.payload_version for row in rows)] == [1, NEXT_PAYLOAD_VERSION, 1]
    assert deployment.errors() == []


def test_the_operations_page_has_the_query_for_commands_that_only_the_newer_release_knows() -> None:
    assert f"`{WAITING}`" in (ROOT / "docs" / "operations.md").read_text()


# --- commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def hints(servers: EmbeddedServers) -> Iterator[HintPublisher]:
    """A running hint publisher."""
    publisher = HintPublisher(make_app(ValkeyBroker(servers.valkey).settings))
    publisher.start()
    yield publisher
    publisher.stop()


@dataclass(frozen=True)
class Accepted:
    """A comment by Mem on an incident, to be accepted as a command of this type and payload version."""

    incident: int
    text: str
    type: str = PostComment.name
    version: int = 1


def accept(engine: Engine, acme: Acme, *accepted: Accepted) -> list[UUID]:
    """Insert commands into the ledger in one transaction; return their ids."""
    identity = acme.by("mem")
    with engine.begin() as connection:
        return [
            an_accepted_command(
                connection,
                subject=str(Subject.incident(identity["organization"], each.incident)),
                organization_id=identity["organization"],
                token_id=identity["token"],
                user_id=identity["user"],
                type=each.type,
                payload=json.dumps({"incident": str(each.incident), "comment": each.text}),
                payload_version=each.version,
            )
            for each in accepted
        ]


@dataclass
class Caller:
    """Posts comments that mention Ana, on each incident in turn, until it is told to stop.

    Each request is repeated with the same ``Idempotency-Key`` until it is accepted.
    """

    url: str
    texts: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The texts of the comments posted so far, by incident and in order."""
    count: int = 0
    enough: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Post comments until ``enough`` is set."""
        with httpx.Client(base_url=self.url, headers={"Authorization": "Bearer dev-mem"}, timeout=40) as client:
            while not self.enough.is_set():
                incident, text = INCIDENTS[self.count % len(INCIDENTS)], f"comment {self.count}"
                body = {"comment": text, "mentions": ["user:12"]}
                path = f"{ACME}/incidents/{incident}/comments/"
                response = post_until_accepted(client, path, body, key=f"comment-{self.count}")
                assert response.status_code in {201, 202}, response.text
                self.texts[incident].append(text)
                self.count += 1


@contextlib.contextmanager
def posting(url: str) -> Iterator[tuple[Caller, Callable[[], None]]]:
    """Post comments for the duration of the block. Yield the caller, and a function that waits for more comments."""
    caller = Caller(url)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(caller.run)

        def wait_for_more() -> None:
            # One more than each incident, so that each has at least one that was posted from now on.
            enough = caller.count + len(INCIDENTS) + 1
            eventually(lambda: caller.count >= enough or running.done(), within_seconds=60)
            if running.done():
                running.result()

        try:
            yield caller, wait_for_more
        finally:
            caller.enough.set()
        running.result()


# --- what the database says --------------------------------------------------------------------------------------


def states(engine: Engine, ids: list[UUID]) -> list[str]:
    return [state_and_counts(engine, id_)[0] for id_ in ids]


def state_and_counts(engine: Engine, id_: UUID) -> tuple[str, int, int]:
    """Return a command's state, and its numbers of failed attempts and timeouts."""
    with engine.connect() as connection:
        columns = (commands.c.state, commands.c.attempts, commands.c.timeouts)
        state, attempts, timeouts = connection.execute(select(*columns).where(commands.c.id == id_)).one()
    return state, attempts, timeouts


def waiting_types(engine: Engine) -> set[str]:
    """Return the types and payload versions of the commands that have no outcome yet."""
    with engine.connect() as connection:
        return {f"{row.type}/{row.payload_version}" for row in connection.exec_driver_sql(WAITING)}


def comments(engine: Engine) -> dict[int, list[str]]:
    """Return the texts of all comments, by incident and in the order in which they were applied."""
    found = defaultdict(list)
    with engine.connect() as connection:
        for row in connection.exec_driver_sql(
            "SELECT i.identifier, a.comment FROM incident_activities a JOIN incidents i ON i.id = a.incident_id"
            " WHERE a.comment IS NOT NULL ORDER BY a.id"
        ):
            found[row.identifier].append(row.comment)
    return found


def unprocessed_events(engine: Engine) -> int:
    return count(engine, "SELECT count(*) FROM events WHERE announced_at IS NULL OR planned_at IS NULL")


def mentions(engine: Engine) -> int:
    """Return the number of inbox items that Ana has for mentions."""
    return count(engine, "SELECT count(*) FROM notifications WHERE user_id = 12 AND reason = 'mention'")


def count(engine: Engine, query: str) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql(query).scalar_one())
