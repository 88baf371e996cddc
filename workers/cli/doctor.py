"""`tocsin doctor`: print the configuration, check that it works, and suggest fixes."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from dotenv import dotenv_values

from models.known_secrets import is_loopback, settings_with_known_secrets
from models.settings import (
    SECRET_SETTING_NAMES,
    SETTING_NAMES,
    DatabaseSettings,
    Settings,
    SettingsError,
    environment_name,
)
from tasks.settings import BrokerSettings, SecretSettings
from workers.cli.common import DataOption, JsonOption, print_json, print_line, resolve_data_dir
from workers.stack.discovery import find_running_stack, resolve_environment
from workers.stack.managed_process import StackError

if TYPE_CHECKING:
    from kombu.connection import Connection as BrokerConnection
    from sqlalchemy.engine import Connection

    from models.messaging.canary import CanaryStatus

T = TypeVar("T")

LOW_DISK_BYTES = 1 << 30
CLOCK_SECONDS = 1.0

SHOWN_IDS = 5
"""How many ids of rows with unreadable secrets are shown."""


class CheckFailed(Exception):
    """Raised when a check fails. The error's text states the problem and the fix."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one check. ``--json`` prints it with these field names.

    ``says`` states what was found if the check succeeded, otherwise the problem and its fix.
    """

    check: str
    good: bool
    says: str


def doctor(*, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Check configuration, database, broker, queues, progress, dead letters, planning, secrets, clocks, zones, disk."""
    directory = resolve_data_dir(data)
    results = [_run_check("configuration", lambda: _configuration(directory))]
    if results[0].good:
        results += [_run_check(name, check) for name, check in CHECKS.items()]
        results.append(_run_check("defaults", lambda: _defaults(directory)))
    results.append(_run_check("disk", lambda: _disk(directory)))
    settings = _effective_settings()
    if as_json:
        print_json({"settings": settings, "checks": [asdict(result) for result in results]})
    else:
        for name, value in settings.items():
            print_line(f"     {name:<22} {value}  ({SETTING_NAMES[name]})")
        for result in results:
            print_line(f"{'ok ' if result.good else 'BAD'}  {result.check:<14} {result.says}")
    if not all(result.good for result in results):
        raise typer.Exit(1)


def mask_secret(name: str, value: str) -> str:
    """Return a setting's value with its secret parts masked."""
    if name not in SECRET_SETTING_NAMES:
        return value
    if "://" not in value:
        return "(hidden)"
    value = re.sub(r"(://[^/@]*?):[^@]*@", r"\1:(hidden)@", value)
    return re.sub(r"(?i)([?&][^=&]*(?:password|passfile|key)=)[^&]*", r"\1(hidden)", value)


def _run_check(name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, good=True, says=check())
    except (CheckFailed, StackError, SettingsError) as error:
        return CheckResult(name, good=False, says=str(error))


def _settings_classes() -> list[type[Settings]]:
    """Return the settings classes of all packages.

    They are found through entry points, because the packages must not import each other.
    """
    return [entry.load() for entry in entry_points(group="tocsin.settings")]


def _effective_settings() -> dict[str, str]:
    """Return the effective settings by variable name, including defaults, with secrets masked."""
    defaults = {
        environment_name(settings, name): str(int(field.default) if isinstance(field.default, bool) else field.default)
        for settings in _settings_classes()
        for name, field in settings.model_fields.items()
        if not field.is_required() and field.default not in {None, ""}
    }
    values = defaults | _given_settings()
    return {name: mask_secret(name, values[name]) for name in SETTING_NAMES if name in values}


def _given_settings() -> dict[str, str]:
    """Return the variables in the environment and in ``.env``."""
    return {name: value for name, value in dotenv_values(".env").items() if value} | dict(os.environ)


def _configuration(directory: Path) -> str:
    os.environ.update(resolve_environment(directory))
    for settings in _settings_classes():
        settings.from_environment()
    return "every setting is known and valid"


def _database() -> str:
    return f"PostgreSQL {_query('SHOW server_version')} answers"


def _migrations() -> str:
    from sqlalchemy import create_engine

    from models.database.migrate import current_revision, head_revision

    engine = create_engine(DatabaseSettings.from_environment().database_url, connect_args={"connect_timeout": 3})
    try:
        at = _or_fail(lambda: current_revision(engine), "the database cannot be queried", "see the line above")
    finally:
        engine.dispose()
    if at != head_revision():
        raise CheckFailed(
            f"the schema is at {at or 'nothing'} and this release expects {head_revision()}: run `tocsin migrate`"
        )
    return f"the schema is at {at}, the newest"


def _broker() -> str:
    from kombu.connection import Connection

    url = BrokerSettings.from_environment().broker_url

    def connect() -> None:
        connection: Any = Connection(url, connect_timeout=3, transport_options={"socket_timeout": 3})  # type: ignore[no-untyped-call]
        with connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
            connection.default_channel.close()

    from tasks.broker.write_refusal import find_write_refusal

    _or_fail(connect, "the broker does not answer", "start it, or correct BROKER_URL")
    if refusal := _inspect_broker(find_write_refusal, "the broker takes no message"):
        raise CheckFailed(f"{refusal.reason}, so no hint and no event is published: {refusal.fix}")
    return f"{mask_secret('BROKER_URL', url)} answers and takes messages"


def _topology() -> str:
    from tasks.broker.topology import topology_errors

    settings = BrokerSettings.from_environment()
    inspect = partial(topology_errors, services=settings.parsed_service_queues)
    if found := _inspect_broker(inspect, "the queues cannot be inspected"):
        raise CheckFailed("; ".join(found))
    if settings.on_redis:
        return "every binding on Valkey is as it should be"
    return "every exchange and queue is as this release declares it"


def _parked() -> str:
    from tasks.broker.parked import find_parked_messages

    queue, count, newest = _inspect_broker(find_parked_messages, "the parked messages cannot be counted")
    if not count:
        return "no message was rejected"
    messages = "1 message" if count == 1 else f"{count} messages"
    raise CheckFailed(
        f"{messages} that workers rejected in {queue}{f' (newest: {newest})' if newest else ''}: "
        f"find out who published them, then empty {queue}; no work depends on it"
    )


def _inspect_broker(inspect: Callable[[BrokerConnection], T], problem: str) -> T:
    """Return what ``inspect`` finds on a connection to the broker."""
    from tasks.app import make_app

    def connect() -> T:
        with make_app(BrokerSettings.from_environment()).connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
            return inspect(connection)

    return _or_fail(connect, problem, "see the line above")


def _wake_ups() -> str:
    import redis

    url = BrokerSettings.from_environment().wake_url
    if url is None:
        return "no Valkey is configured: waiting requests poll the database ten times a second (REDIS_URL)"
    client = redis.Redis.from_url(
        url.replace("redis+socket://", "unix://"), socket_timeout=3, socket_connect_timeout=3, retry=None
    )
    _or_fail(client.ping, "Valkey does not answer", "start it, or correct REDIS_URL")
    return f"{mask_secret('REDIS_URL', url)} answers"


def _queues() -> str:
    from models.messaging.canary import NOTIFIER, canary_status
    from models.operations.stalls import SILENT_SECONDS, is_consumed

    found = _read(canary_status, "the canaries cannot be read")
    if not found:
        return "no canary has been sent yet: a relay sends one on every queue, twice a minute"
    silent = min(status.sent_seconds for status in found)
    if silent > SILENT_SECONDS:
        raise CheckFailed(f"no canary has been sent for {silent:.0f} s: start `tocsin relay`")
    stale = [status for status in found if not is_consumed(status)]
    if stale:
        silent_queues = ", ".join(f"{status.queue} for {status.age_seconds:.0f} s" for status in stale)
        lanes = ",".join(status.queue for status in stale if status.queue != NOTIFIER)
        start = [f"`tocsin worker --lanes {lanes}`"] if lanes else []
        start += ["`tocsin notifier`"] if any(status.queue == NOTIFIER for status in stale) else []
        raise CheckFailed(
            f"no process has consumed a canary from {silent_queues}: start {' and '.join(start)}, or see its log"
        )
    return "the last canary was consumed from " + ", ".join(_seen(status) for status in found)


def _progress() -> str:
    from models.operations.stalls import StallKind, find_stalls

    # Two other checks, of the queues and of the planning, say more about these.
    others = {StallKind.NO_CONSUMER, StallKind.NOTIFIER}
    found = [stall for stall in _read(find_stalls, "the ledger cannot be read") if stall.kind not in others]
    if found:
        sentences = " ".join(stall.text for stall in found)
        raise CheckFailed(f"{sentences} What to type: {', '.join(dict.fromkeys(stall.runbook for stall in found))}")
    return "nothing has waited for too long, and no process is gone"


def _dead() -> str:
    from models.operations.ledger_numbers import count_dead

    number = _read(count_dead, "the dead letters cannot be counted")
    if not number:
        return "no command is dead"
    raise CheckFailed(
        f"{number} {'command is' if number == 1 else 'commands are'} dead: "
        "`tocsin dead list` shows why; requeue or discard them"
    )


def _seen(status: CanaryStatus) -> str:
    if status.way_seconds is None:
        return f"{status.queue} not yet"
    return f"{status.queue} {status.age_seconds:.0f} s ago ({status.way_seconds * 1000:.0f} ms after it was sent)"


def _planning() -> str:
    from models.messaging.outbox import PLANNING, find_overdue_events
    from models.operations.stalls import UNPLANNED_SECONDS

    overdue = _read(
        partial(find_overdue_events, stage=PLANNING, older_than=UNPLANNED_SECONDS), "the events cannot be read"
    )
    if overdue is None:
        return f"no event has waited for the notifier for more than {UNPLANNED_SECONDS:.0f} s"
    raise CheckFailed(
        f"unplanned events older than {UNPLANNED_SECONDS:.0f} s: {overdue.number}; "
        f"the oldest, {overdue.oldest_id}, has waited {overdue.oldest_seconds:.0f} s: start `tocsin notifier`, "
        "or look for this id in its log, where `notifier.event_deferred` has the error"
    )


def _secrets() -> str:
    from models.operations.stored_secrets import check_secrets
    from models.secrets import MIN_SECRET_CHARACTERS

    # The configuration, which has been checked, has no secret that is too short.
    secrets = SecretSettings.from_environment().secrets
    counts = _read(partial(check_secrets, secrets=secrets), "the stored secrets cannot be read")
    unreadable = [
        f"{each.name} of {', '.join(map(str, each.unreadable[:SHOWN_IDS]))}"
        + (f" and {len(each.unreadable) - SHOWN_IDS} more" if len(each.unreadable) > SHOWN_IDS else "")
        for each in counts
        if each.unreadable
    ]
    if unreadable:
        raise CheckFailed(
            f"stored secrets cannot be decrypted ({'; '.join(unreadable)}), so nothing is sent there: "
            "add the old secret to TOCSIN_SECRET after the new one, separated by a comma, and restart"
        )
    if not secrets:
        return "TOCSIN_SECRET is not set: no page opens, and no message is sent"
    stored = sum(each.readable for each in counts)
    return (
        f"TOCSIN_SECRET has {len(secrets)} of at least {MIN_SECRET_CHARACTERS} characters, "
        f"and all {stored} stored secrets can be decrypted"
    )


def _defaults(directory: Path) -> str:
    from workers.stack.demo_tokens import count_demo_tokens

    running = find_running_stack(directory)
    if running is not None and is_loopback(running.host):
        return "only this host can reach the gateway, so it does not matter which secrets are known"
    names = settings_with_known_secrets(_given_settings())
    if names:
        raise CheckFailed(f"everyone knows the secret in {', '.join(names)}, a published default: choose another")
    if count := _read(count_demo_tokens, "the tokens cannot be read"):
        raise CheckFailed(
            f"{count} of the demo's tokens, which everyone knows, are valid: revoke them (`tocsin token list`)"
        )
    return "no setting has a secret that everyone knows, and no token of the demo is valid"


def _clocks() -> str:
    before = time.time()
    database_time = float(_query("SELECT extract(epoch FROM clock_timestamp())"))
    apart = database_time - (before + time.time()) / 2
    if abs(apart) > CLOCK_SECONDS:
        raise CheckFailed(
            f"the database's clock is {apart:+.1f} s from this one: synchronize both with a time server (NTP)"
        )
    return f"the database's clock is {apart * 1000:+.0f} ms from this one"


def _time_zones() -> str:
    from datetime import UTC, datetime

    from sqlalchemy import text

    from models.local_time import load_zone, tzdata_version, zone_names

    def read(connection: Connection) -> dict[str, float]:
        rows = connection.execute(text("SELECT name, extract(epoch FROM utc_offset)::float FROM pg_timezone_names"))
        return {name: offset for name, offset in rows if name in zone_names()}

    offsets = _read(read, "PostgreSQL's time zones cannot be read")
    now = datetime.now(UTC)
    differing = [
        name
        for name, seconds in offsets.items()
        if (offset := now.astimezone(load_zone(name)).utcoffset()) is None or offset.total_seconds() != seconds
    ]
    comparison = f"differ now in {len(differing)}" if differing else "agree now in all"
    return (
        f"local times follow tzdata {tzdata_version()}; PostgreSQL's rules, which are not used, {comparison}"
        f" of {len(offsets)} zones"
    )


def _disk(directory: Path) -> str:
    existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < LOW_DISK_BYTES:
        raise CheckFailed(f"{existing} has {free / 2**20:.0f} MiB left: free some space there")
    return f"{existing} has {free / 2**30:.1f} GiB left"


CHECKS: dict[str, Callable[[], str]] = {
    "database": _database,
    "migrations": _migrations,
    "broker": _broker,
    "topology": _topology,
    "parked": _parked,
    "wake-ups": _wake_ups,
    "queues": _queues,
    "progress": _progress,
    "dead letters": _dead,
    "planning": _planning,
    "secrets": _secrets,
    "clocks": _clocks,
    "time zones": _time_zones,
}
"""The checks that need a valid configuration, in the order in which they run."""


def _read(read: Callable[[Connection], T], problem: str) -> T:
    from models.database.engine import make_engine

    engine = make_engine(DatabaseSettings.from_environment().database_url, application="tocsin doctor", pool_size=1)

    def connect_and_read() -> T:
        with engine.connect() as connection:
            return read(connection)

    try:
        return _or_fail(connect_and_read, problem, "see the lines above")
    finally:
        engine.dispose()


def _query(statement: str) -> str:
    import psycopg

    url = DatabaseSettings.from_environment().database_url.replace("postgresql+psycopg://", "postgresql://")

    def query() -> str:
        with psycopg.connect(url, connect_timeout=3) as connection:
            row = connection.execute(statement.encode()).fetchone()
        return "" if row is None else str(next(iter(row)))

    return _or_fail(query, "the database does not answer", "start it, or correct DATABASE_URL")


def _or_fail(attempt: Callable[[], T], problem: str, fix: str) -> T:
    try:
        return attempt()
    except Exception as error:  # whatever a driver raises is printed for the operator
        # SQLAlchemy adds the statement and a link to the driver's message, which it keeps as `orig`.
        message = str(getattr(error, "orig", None) or error)
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        raise CheckFailed(f"{problem} ({lines[-1] if lines else type(error).__name__}): {fix}") from error
