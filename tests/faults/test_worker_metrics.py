"""A worker counts what it finishes, and its main process serves what all of its child processes have counted."""

from __future__ import annotations

import multiprocessing
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import update

from models.messaging.command_ledger import commands
from tasks.commands.comments import PostComment
from tasks.metrics.exposition import render, serve_metrics
from tasks.metrics.weighted_histogram import WeightedHistogram
from tasks.settings import MetricsAddress, parse_metrics_address
from tasks.startup import StartupError
from tests.conftest import Database
from tests.faults.ledger import a_comment_command, apply_in_killed_process
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.journeys.subprocesses import run_tocsin
from tests.ops.ledger import apply_until_dead, poison
from tests.rabbitmq import free_ports
from workers.apply.metrics import WorkerMetrics, share_values, worker_registry
from workers.apply.tally import count_batch
from workers.stack.servers import EmbeddedServers


def text_of(registry: CollectorRegistry) -> str:
    return render(registry)[0].decode()


def count_in_child(directory: str, waits: list[float]) -> None:
    share_values(directory)
    metrics = WorkerMetrics()
    metrics.count_finished({("comment.post", "applied", ""): len(waits)})
    metrics.observe_batch({"commands": waits}, 0.02)
    metrics.count_attempt("email", "passing", 0.3)


def test_what_a_child_has_counted_survives_it(tmp_path: Path) -> None:
    for waits in ([0.02, 0.3], [0.02]):
        child = multiprocessing.get_context("spawn").Process(target=count_in_child, args=(str(tmp_path), waits))
        child.start()
        child.join(60)
        assert child.exitcode == 0

    shown = text_of(worker_registry(str(tmp_path)))

    assert 'tocsin_commands_finished_total{outcome="applied",reason="",type="comment.post"} 3.0' in shown
    assert "tocsin_batches_total 2.0" in shown
    assert 'tocsin_command_wait_seconds_bucket{lane="commands",le="0.025"} 2.0' in shown
    assert 'tocsin_command_wait_seconds_count{lane="commands"} 3.0' in shown
    assert 'tocsin_command_apply_seconds_sum{lane="commands"} 0.06' in shown
    assert 'tocsin_delivery_attempts_total{channel="email",result="passing"} 2.0' in shown
    assert "_created" not in shown
    # However often the child is replaced.
    assert len(list(tmp_path.iterdir())) == 3


def test_many_values_at_once_count_as_each_of_them_alone() -> None:
    alone, together = CollectorRegistry(), CollectorRegistry()
    values = [0, 0.1, 0.1, 0.2, 5, 90]
    one = WeightedHistogram("t", "Times", buckets=(0.1, 1, 10), registry=alone)
    for value in values:
        one.observe(value)

    many = WeightedHistogram("t", "Times", buckets=(0.1, 1, 10), registry=together)
    many.observe_all(values[:3])
    many.observe_all([0.2])
    many.observe_all([5, 90], times=1)
    many.observe_all([])

    assert text_of(together) == text_of(alone)


class Counted(WorkerMetrics):
    """Worker metrics that only record what they are told."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str, str], int] = {}
        self.waits: list[float] = []

    def count_finished(self, outcomes: object) -> None:
        for labels, number in dict(outcomes).items():  # type: ignore[call-overload]
            self.outcomes[labels] = self.outcomes.get(labels, 0) + number

    def observe_batch(self, waits: object, seconds: float) -> None:
        assert seconds > 0
        self.waits += [wait for each in dict(waits).values() for wait in each]  # type: ignore[call-overload]


def counted(harness: Harness) -> Counted:
    metrics = Counted()
    for result in harness.results:
        count_batch(metrics, result)
    return metrics


def test_outcomes_are_counted_by_type_and_reason(harness: Harness, acme: Acme) -> None:
    ids = [harness.accept(a_comment_command(text), **acme.by("mem")) for text in ("1", "2", "3")]
    harness.accept(PostComment.model_validate({"incident": "404", "comment": "x"}), **acme.by("mem"))
    poison(harness, ids[:1])
    with harness.engine.begin() as connection:
        earlier = commands.c.accepted_at - timedelta(minutes=1)
        connection.execute(update(commands).values(accepted_at=earlier))

    apply_until_dead(harness)

    metrics = counted(harness)
    assert metrics.outcomes == {
        ("comment.post", "applied", ""): 2,
        ("comment.post", "rejected", "not_found"): 1,
        ("comment.post", "dead", "fault"): 1,
    }
    assert len(metrics.waits) == 3
    assert min(metrics.waits) >= 60


def test_a_command_that_kills_its_workers_is_counted_as_such(harness: Harness, acme: Acme) -> None:
    harness.accept(a_comment_command("kill"), **acme.by("mem"))
    with harness.engine.begin() as connection:
        connection.execute(update(commands).values(attempts=4))
    apply_in_killed_process(harness, "comment.post", lambda command: command.comment == "kill")

    harness.apply()

    assert counted(harness).outcomes == {("comment.post", "dead", "worker_died"): 1}


def test_each_process_on_a_host_takes_the_next_free_port() -> None:
    first, *_ = free_ports(1)
    address = MetricsAddress("127.0.0.1", first, first + 5)

    ports = [serve_metrics(CollectorRegistry(), address) for _ in range(2)]

    assert ports[0] < ports[1] <= first + 5


@pytest.mark.parametrize("name", ["worker", "relay", "notifier"])
def test_a_process_without_a_free_port_for_its_metrics_ends_with_one_sentence(
    name: str, database: Database, servers: EmbeddedServers
) -> None:
    [port] = free_ports(1)
    serve_metrics(CollectorRegistry(), MetricsAddress("127.0.0.1", port, port))

    done = run_tocsin(
        name,
        **servers.environment | {"DATABASE_URL": database.url, "TOCSIN_METRICS": f"127.0.0.1:{port}"},
    )

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"metrics cannot be served on 127.0.0.1:{port} (address already in use):"
        " free a port there, or change TOCSIN_METRICS"
    )


def test_a_range_without_a_free_port_is_an_error() -> None:
    [port] = free_ports(1)
    address = MetricsAddress("127.0.0.1", port, port)
    serve_metrics(CollectorRegistry(), address)

    with pytest.raises(StartupError, match="free a port there"):
        serve_metrics(CollectorRegistry(), address)


@pytest.mark.parametrize("text", ["9464", ":9464", "127.0.0.1", "127.0.0.1:0", "h:2-1", "h:1-65536", "::1:9464", "h:٣"])
def test_addresses_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"it must look like|its ports must be"):
        parse_metrics_address(text)
