"""Measure how long it takes until a mentioned team has its inbox items, in three ways on the same servers.

*tocsin*: the notifier of this checkout plans the mention. *Bare*: one ``INSERT … SELECT`` each for the inbox items, the
e-mails that are to be sent, and the decisions about both, which is the least that PostgreSQL has to do for the same
rows. *Celery*: one task per member, as most applications do it. A task checks the member's access and inserts the same
four rows in a transaction of its own.

What the ways write is compared: a figure counts only if they write the same numbers of rows.

With ``--large``, a team of 100,000 is mentioned, while other people are mentioned one at a time in another
organization: the delay of their items is compared with the delay without the large team, and the notifier's memory is
compared with its memory before.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

import psutil
from celery import Celery
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from bench.output import progress
from models.database.migrate import migrate
from tasks.broker.pubsub import EVENTS_CHANNEL, WakeupPublisher
from tests.builders import a_comment, a_member, a_project, a_team, an_incident, an_organization
from workers.stack.managed_process import ManagedProcess
from workers.stack.own_processes import TocsinProcess, tocsin
from workers.stack.servers import EmbeddedServers, embedded_servers

TEAM: Final = 10_000
LARGE_TEAM: Final = 100_000
CELERY_PROCESSES: Final = 2

GOAL_BARE: Final = 3.0
GOAL_CELERY: Final = 100.0
GOAL_LATE: Final = 2.0
GOAL_MEMORY_MB: Final = 30.0


class Scene:
    """An organization with a team, and the incident on which the team is mentioned."""

    def __init__(self, engine: Engine, members: int, wakeups: WakeupPublisher | None = None) -> None:
        """Insert the organization and ``members`` team members. ``wakeups`` reach the notifier, as from a worker."""
        self.engine = engine
        self._wakeups = wakeups
        with engine.begin() as connection:
            self.organization = an_organization(connection)
            project = a_project(connection, self.organization)
            self.incident = an_incident(connection, self.organization, projects=[project])
            self.author = a_member(connection, self.organization)
            self.team = a_team(connection, self.organization, projects=[project])
            connection.execute(_ADD_MEMBERS, {"organization": self.organization, "team": self.team, "count": members})
            # As the command would do that mentions the team.
            connection.execute(_SUBSCRIBE, {"incident": self.incident, "team": self.team})
        with engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM ANALYZE")

    def mention(self) -> int:
        """Insert a comment that mentions the team, and return its activity's id."""
        with self.engine.begin() as connection:
            activity = a_comment(connection, self.incident, by=self.author, mentioning_teams=[self.team])
        if self._wakeups is not None:
            self._wakeups.publish(EVENTS_CHANNEL)
        return activity

    def count(self, activity: int) -> int:
        """Return how many inbox items the activity has."""
        query = text("SELECT count(*) FROM notifications WHERE activity_id = :activity")
        with self.engine.connect() as connection:
            return int(connection.execute(query, {"activity": activity}).scalar_one())

    def wait(self, activity: int, items: int, *, within_seconds: float = 300) -> float:
        """Wait until the activity has so many inbox items, and return for how many seconds."""
        started = time.perf_counter()
        while self.count(activity) < items:
            if time.perf_counter() - started > within_seconds:
                raise SystemExit(f"{self.count(activity)} of {items} items after {within_seconds} s")
            time.sleep(0.01)
        return time.perf_counter() - started

    def rows(self, activity: int) -> tuple[int, ...]:
        """Return how many inbox items, decisions and deliveries the activity has."""
        with self.engine.connect() as connection:
            return tuple(connection.execute(_ROWS, {"activity": activity}).one())


def main() -> int:
    """Measure, print the figures, and return 0 if the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true", help="measure a team of 100,000, and other people meanwhile")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, embedded_servers(Path(folder)) as servers:
        engine = _engine(servers.database_url)
        migrate(engine)
        return _measure_large(servers, engine) if options.large else _measure_team(servers, engine, options.rounds)


def _measure_team(servers: EmbeddedServers, engine: Engine, rounds: int) -> int:
    scene = Scene(engine, TEAM, WakeupPublisher(servers.redis_url))
    seconds: dict[str, list[float]] = {"bare": [], "tocsin": [], "celery": []}
    with _notifier(servers), _celery_worker(servers) as celery:
        for number in range(1, rounds + 1):
            activities = [_unplanned_mention(scene)]
            seconds["bare"].append(_bare(scene, activities[0]))
            activities.append(scene.mention())
            seconds["tocsin"].append(scene.wait(activities[1], TEAM))
            activities.append(_unplanned_mention(scene))
            started = time.perf_counter()
            _publish_tasks(celery, scene, activities[2])
            scene.wait(activities[2], TEAM)
            seconds["celery"].append(time.perf_counter() - started)
            if len(written := set(map(scene.rows, activities))) > 1:
                raise SystemExit(f"the ways wrote different rows: {written}")
            progress(f"round {number}: " + ", ".join(f"{name} {each[-1]:.2f} s" for name, each in seconds.items()))
    of_bare = median(t / b for t, b in zip(seconds["tocsin"], seconds["bare"], strict=True))
    of_celery = median(c / t for t, c in zip(seconds["tocsin"], seconds["celery"], strict=True))
    print(f"team of {TEAM:,}, until the last inbox item: medians of {rounds} rounds")
    for name, each in seconds.items():
        print(f"  {name:8} {median(each):7.2f} s")
    print(f"  tocsin / bare   {of_bare:6.2f} (goal ≤ {GOAL_BARE:g})")
    print(f"  celery / tocsin {of_celery:6.1f} (goal ≥ {GOAL_CELERY:g})")
    return 0 if of_bare <= GOAL_BARE and of_celery >= GOAL_CELERY else 1


def _measure_large(servers: EmbeddedServers, engine: Engine) -> int:
    wakeups = WakeupPublisher(servers.redis_url)
    large, small = Scene(engine, LARGE_TEAM, wakeups), Scene(engine, 1, wakeups)
    with _notifier(servers) as notifier:
        process = psutil.Process(notifier.pid)
        alone = [small.wait(small.mention(), 1) for _ in range(30)]
        before = process.memory_full_info().uss
        activity, peak, beside = large.mention(), 0, []
        started = time.perf_counter()
        while (items := large.count(activity)) < LARGE_TEAM:
            if items or time.perf_counter() - started > 1:
                beside.append(small.wait(small.mention(), 1))
            peak = max(peak, process.memory_full_info().uss)
        seconds = time.perf_counter() - started
    memory = (peak - before) / 2**20
    late = median(beside) / median(alone)
    print(f"team of {LARGE_TEAM:,}: {seconds:.1f} s until the last inbox item")
    print(f"  notifier's memory      + {memory:.0f} MB (goal ≤ {GOAL_MEMORY_MB:g})")
    print(f"  other people, alone    {median(alone) * 1000:.0f} ms, at most {max(alone) * 1000:.0f} ms")
    print(f"  other people, beside   {median(beside) * 1000:.0f} ms, at most {max(beside) * 1000:.0f} ms")
    print(f"  beside / alone         {late:.2f} (median; goal ≤ {GOAL_LATE:g})")
    return 0 if memory <= GOAL_MEMORY_MB and late <= GOAL_LATE else 1


# --- the ways --------------------------------------------------------------------------------------------------------


def _bare(scene: Scene, activity: int) -> float:
    parameters = {
        "activity": activity,
        "team": scene.team,
        "incident": scene.incident,
        "organization": scene.organization,
    }
    started = time.perf_counter()
    with scene.engine.begin() as connection:
        for statement in _INSERT_ALL:
            connection.execute(statement, parameters)
    return time.perf_counter() - started


def _unplanned_mention(scene: Scene) -> int:
    """Insert a comment of which the notifier hears nothing."""
    with scene.engine.begin() as connection:
        activity = a_comment(connection, scene.incident, by=scene.author)
        connection.execute(text("UPDATE events SET planned_at = now() WHERE planned_at IS NULL"))
    return activity


def _publish_tasks(celery: Celery, scene: Scene, activity: int) -> None:
    with scene.engine.connect() as connection:
        query = text(
            "SELECT m.user_id FROM team_members tm JOIN members m ON m.id = tm.member_id WHERE tm.team_id = :team"
        )
        people = list(connection.execute(query, {"team": scene.team}).scalars())
    for person in people:
        celery.send_task("bench.notify", (scene.organization, person, scene.incident, activity))


def make_celery(broker_url: str, database_url: str) -> Celery:
    """Return the application with one task, which notifies one member. ``celery worker`` imports it from here."""
    app = Celery("bench", broker=broker_url)
    app.conf.update(worker_prefetch_multiplier=64, task_ignore_result=True, worker_hijack_root_logger=False)
    engines: list[Engine] = []

    @app.task(name="bench.notify")  # type: ignore[untyped-decorator]
    def notify(organization: int, person: int, incident: int, activity: int) -> None:
        if not engines:
            engines.append(create_engine(_with_driver(database_url)))
        parameters = {
            "organization": organization,
            "person": person,
            "incident": incident,
            "activity": activity,
        }
        with engines[0].begin() as connection:
            if connection.execute(_MAY_READ, parameters).first() is not None:
                for statement in _INSERT_ONE:
                    connection.execute(statement, parameters)

    return app


# --- processes -------------------------------------------------------------------------------------------------------


@contextmanager
def _notifier(servers: EmbeddedServers) -> Iterator[ManagedProcess]:
    environment = os.environ | servers.environment | {"TOCSIN_LOG_LEVEL": "warning"}
    notifier = TocsinProcess(
        "notifier", tocsin("notifier"), log=servers.data_dir.logs / "notifier.log", environment=environment
    )
    notifier.start()
    try:
        notifier.wait_ready()
        yield notifier
    finally:
        notifier.stop()


@contextmanager
def _celery_worker(servers: EmbeddedServers) -> Iterator[Celery]:
    broker, database = servers.environment["BROKER_URL"], servers.database_url
    arguments = ["worker", f"--concurrency={CELERY_PROCESSES}", "--loglevel=ERROR", "--without-gossip"]
    program = f"from bench.fan_out import make_celery; make_celery({broker!r}, {database!r}).worker_main({arguments})"
    worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    try:
        app = make_celery(broker, database)
        while not app.control.ping(timeout=0.5):
            if worker.poll() is not None:
                raise SystemExit("the Celery worker has ended")
        yield app
    finally:
        worker.terminate()
        worker.wait(15)


def _engine(database_url: str) -> Engine:
    return create_engine(_with_driver(database_url), poolclass=NullPool)


def _with_driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


# --- statements ------------------------------------------------------------------------------------------------------

_ADD_MEMBERS: Final = text("""
WITH u AS (
    INSERT INTO users (username, name, email)
    SELECT name, 'Fan', name || '@example.org' FROM (
        SELECT format('fan-%s-%s', CAST(:team AS bigint), n) AS name FROM generate_series(1, :count) AS n
    ) AS names RETURNING id
), m AS (
    INSERT INTO members (organization_id, user_id, role) SELECT :organization, id, 'member' FROM u RETURNING id
)
INSERT INTO team_members (team_id, member_id, is_active) SELECT :team, id, true FROM m
""")

_SUBSCRIBE: Final = text("""
INSERT INTO incident_subscriptions (incident_id, user_id, reason, date_added)
SELECT :incident, m.user_id, 'team_mention', now() FROM team_members tm JOIN members m ON m.id = tm.member_id
WHERE tm.team_id = :team
""")

_MEMBERS: Final = """
FROM team_members tm JOIN members m ON m.id = tm.member_id JOIN users u ON u.id = m.user_id
WHERE tm.team_id = :team AND tm.is_active AND u.is_active
"""

_ITEM: Final = """
INSERT INTO notifications (organization_id, user_id, incident_id, activity_id, event_id, event_type, reason)
SELECT :organization, m.user_id, :incident, :activity, gen_random_uuid(), 'incident.mentioned', 'team_mention'
"""

_DELIVERY: Final = """
INSERT INTO deliveries (id, organization_id, incident_id, activity_id, event_id, event_type, channel, user_id, reason,
    due_at, target_key)
SELECT uuidv7(), :organization, :incident, :activity, gen_random_uuid(), 'incident.mentioned', 'email', m.user_id,
    'team_mention', now() + interval '1 hour', 'email:' || CAST(:organization AS bigint)
"""

_DECISIONS: Final = tuple(
    f"""
INSERT INTO notification_decisions (activity_id, user_id, channel, incident_id, event_id, outcome, rule)
SELECT :activity, m.user_id, '{channel}', :incident, gen_random_uuid(), '{outcome}', '{rule}'
"""
    for channel, outcome, rule in (("inbox", "delivered", "team_mention"), ("email", "pending", "instant"))
)

_ROW_KINDS: Final = (_ITEM, _DELIVERY, *_DECISIONS)

_INSERT_ALL: Final = tuple(text(f"{insert} {_MEMBERS}") for insert in _ROW_KINDS)

_INSERT_ONE: Final = tuple(
    text(f"{insert} FROM (SELECT CAST(:person AS bigint)) AS m(user_id) ON CONFLICT DO NOTHING")
    for insert in _ROW_KINDS
)

_ROWS: Final = text("""
SELECT (SELECT count(*) FROM notifications WHERE activity_id = :activity),
    (SELECT count(*) FROM notification_decisions WHERE activity_id = :activity),
    (SELECT count(*) FROM deliveries WHERE activity_id = :activity)
""")

_MAY_READ: Final = text("""
SELECT 1 FROM members m JOIN users u ON u.id = m.user_id AND u.is_active
JOIN organizations o ON o.id = m.organization_id
WHERE m.organization_id = :organization AND m.user_id = :person AND (o.open_membership OR EXISTS (
    SELECT 1 FROM team_members tm JOIN project_teams pt ON pt.team_id = tm.team_id
    JOIN incident_projects ip ON ip.project_id = pt.project_id
    WHERE tm.member_id = m.id AND tm.is_active AND ip.incident_id = :incident
))
""")


if __name__ == "__main__":
    sys.exit(main())
