"""`tocsin status`, `tocsin queues`, `tocsin workers` and `tocsin audit`: what an operator looks at first."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from models.operations.audit import list_audit
from models.operations.keyset import Window
from models.operations.overview import read_overview, read_queues
from models.operations.processes import list_processes
from models.serializers.operations import BrokerState, BrokerStatusJson, OverviewJson, QueueJson
from tasks.broker_status import BrokerStatus, read_broker_status
from tasks.settings import BrokerSettings
from workers.cli.common import DataOption, JsonOption, print_json, print_line, use_stack_environment
from workers.cli.operations import (
    LimitOption,
    clean,
    operations,
    print_table,
    rich_table,
    short_time,
    table_lines,
)

WATCH_SECONDS: Final = 2.0
ATTENTION_LINES: Final = 8
_QUEUE_COLUMNS: Final = (
    "QUEUE",
    "STATE",
    "WAITING",
    "OLDEST",
    "HELD",
    "IN/MIN",
    "OUT/MIN",
    "DRAINS IN",
    "CONSUMERS",
    "HOLD",
)


def queues(
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing them until Ctrl-C.")] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every queue: what waits, since when, how fast it drains, and whether it is held."""
    if watch:
        _watch(data, as_json=as_json)
        return
    found = _read_queues(data)
    if as_json:
        print_json(found)
    else:
        print_table(_QUEUE_COLUMNS, _queue_rows(found), empty="there is no queue")


def _read_queues(data: Path | None) -> list[QueueJson]:
    broker = _ask_broker(data)
    with operations(data) as connection:
        return read_queues(connection, consumers=broker.consumers)


def _watch(data: Path | None, *, as_json: bool) -> None:
    """Show the queues again and again: in place on a terminal, otherwise one block of lines after another."""
    if as_json or not sys.stdout.isatty():
        while True:
            found = _read_queues(data)
            if as_json:
                print_json(found)
            else:
                for line in table_lines(_QUEUE_COLUMNS, [[clean(cell) for cell in row] for row in _queue_rows(found)]):
                    print_line(line)
                print_line()
            time.sleep(WATCH_SECONDS)
    from rich.live import Live

    with Live(auto_refresh=False, screen=False) as live:
        while True:
            rows = [[clean(cell) for cell in row] for row in _queue_rows(_read_queues(data))]
            live.update(rich_table(_QUEUE_COLUMNS, rows), refresh=True)
            time.sleep(WATCH_SECONDS)


def _queue_rows(found: Sequence[QueueJson]) -> Iterator[tuple[object, ...]]:
    for queue in found:
        hold = queue["hold"]
        yield (
            queue["name"],
            queue["state"],
            queue["waiting"],
            None if queue["oldestSeconds"] is None else f"{queue['oldestSeconds']:.0f} s",
            queue["held"],
            queue["inPerMinute"],
            queue["outPerMinute"],
            None if queue["drainSeconds"] is None else f"{queue['drainSeconds']:.0f} s",
            queue["consumers"],
            hold and f"{hold['by']}: {hold['reason']}",
        )


def workers(*, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Show every process on every host: what it does, and whether it is still there."""
    with operations(data) as connection:
        found = list_processes(connection)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["kind"],
            each["host"],
            each["pid"],
            each["state"],
            ",".join(each["lanes"]),
            len(each["inHand"]),
            each["finishedPerMinute"],
            None if each["rssBytes"] is None else f"{each['rssBytes'] / 1_000_000:.0f} MB",
            each["version"],
            short_time(each["startedAt"]),
            short_time(each["lastSeenAt"]),
        )
        for each in found
    ]
    columns = ("KIND", "HOST", "PID", "STATE", "LANES", "IN HAND", "DONE/MIN", "MEMORY", "VERSION", "STARTED", "SEEN")
    print_table(columns, rows, empty="no process has reported itself within the last hour")


def audit(*, limit: LimitOption = 50, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Show who changed what, and why, newest first."""
    with operations(data) as connection:
        found = list_audit(connection, Window(limit=limit)).entities
    if as_json:
        print_json(found)
        return
    rows = [
        (short_time(entry["at"]), entry["by"], entry["action"], entry["target"], entry["reason"]) for entry in found
    ]
    print_table(("AT", "BY", "ACTION", "TARGET", "REASON"), rows, empty="nobody has changed anything yet")


def status(*, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Show whether anything is wrong, since when, and what to look at."""
    broker = _ask_broker(data)
    state = BrokerState.OK if broker.is_reachable else BrokerState.UNREACHABLE
    described: BrokerStatusJson = {"status": state, "kind": broker.kind, "detail": broker.detail}
    with operations(data) as connection:
        overview = read_overview(connection, broker=described)
    if as_json:
        print_json(overview)
        return
    for line in _status_lines(overview):
        print_line(line)


def _status_lines(overview: OverviewJson) -> Iterator[str]:
    attention = overview["attention"]
    yield f"{short_time(overview['at'])}  " + ("nothing needs attention" if not attention else "NEEDS ATTENTION")
    for entry in attention[:ATTENTION_LINES]:
        yield f"  {entry['severity']}: {clean(entry['text'])}"
    if len(attention) > ATTENTION_LINES:
        yield f"  and {len(attention) - ATTENTION_LINES} more"
    yield f"broker    {clean(overview['broker']['detail'])}"
    oldest = "" if overview["oldestSeconds"] is None else f", the oldest for {overview['oldestSeconds']:.0f} s"
    yield f"waiting   {overview['waiting']} commands{oldest}; {overview['held']} held, {overview['dead']} dead"
    yield f"events    {overview['unannounced']} unannounced, {overview['unplanned']} unplanned"
    yield f"messages  {overview['deliveriesDue']} deliveries due"
    yield (
        f"a minute  {overview['acceptedPerMinute']} accepted, {overview['finishedPerMinute']} finished,"
        f" {overview['rejectedPerMinute']} of them rejected"
    )
    if overview["waitP50Ms"] is not None:
        yield f"wait      p50 {overview['waitP50Ms']:.0f} ms, p95 {overview['waitP95Ms']:.0f} ms"


def _ask_broker(data: Path | None) -> BrokerStatus:
    use_stack_environment(data)
    return read_broker_status(BrokerSettings.from_environment())
