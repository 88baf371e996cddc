"""Alerts, dashboards and the scrape configuration name what the processes really export, and what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.metrics import Metrics
from models.messaging.canary import CanaryStatus
from models.operations.ledger_numbers import Backlog, LedgerNumbers
from models.operations.stalls import RUNBOOKS, StallKind
from tasks.broker.parked import ParkedMessages
from tasks.metrics.exposition import render
from tests.project.compose import own_services
from tests.project.tree import ROOT
from workers.apply.metrics import worker_registry
from workers.runtime.metrics import notifier_registry, relay_registry

DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = PROMETHEUS / "rules.yml"
PAGE = ROOT / "docs" / "operations.md"
PARTS = {"gateway", "worker", "relay", "notifier", "postgresql", "broker", "wake_ups"}

_METRIC = re.compile(r"\btocsin_\w+")
_SAMPLE = re.compile(r"^(tocsin_\w+)[{ ]", re.MULTILINE)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

NUMBERS = LedgerNumbers(
    {"bulk": Backlog()},
    {"email": Backlog()},
    0,
    Backlog(),
    Backlog(),
    [CanaryStatus("bulk", 1, 1, None, 0.1, "w")],
    {"worker": 1},
    [],
)

COUNT_AS_WORKER = """
import sys
from workers.apply.metrics import WorkerMetrics, share_values

share_values(sys.argv[1])
metrics = WorkerMetrics()
metrics.count_finished({("comment.post", "applied", ""): 1})
metrics.observe_batch({"commands": [0.1]}, 0.1)
metrics.count_attempt("email", "delivered", 0.1)
"""


class Loop:
    """A relay or a notifier that has done nothing."""

    processed = 0
    is_blocked = False


@cache
def yaml(file: Path) -> Any:
    return YAML(typ="safe", pure=True).load(file.read_text())


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in yaml(RULES)["groups"] for rule in group["rules"]}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The names of the samples that each kind of process exports."""
    gateway = Metrics()
    gateway.count_accepted(["comment.post"])
    gateway.count_response("/", "GET", 200, seconds=0.1)
    gateway.track_alarms(lambda: False)
    gateway.track_streams(lambda: 0)
    gateway.set_parked(ParkedMessages("tocsin.parked", 0))
    gateway.set_ledger(NUMBERS)
    directory = str(tmp_path_factory.mktemp("metrics"))
    subprocess.run([sys.executable, "-c", COUNT_AS_WORKER, directory], cwd=ROOT, check=True)
    texts = {
        "gateway": gateway.render()[0],
        "worker": render(worker_registry(directory))[0],
        "relay": render(relay_registry(Loop(), "postgresql+psycopg://"))[0],
        "notifier": render(notifier_registry(Loop()))[0],
    }
    return {kind: set(_SAMPLE.findall(text.decode())) for kind, text in texts.items()}


@pytest.mark.parametrize("file", [*DASHBOARDS, RULES], ids=lambda file: file.name)
def test_every_metric_of_the_dashboards_and_alerts_is_exported(file: Path, exported: dict[str, set[str]]) -> None:
    named = set(_METRIC.findall(file.read_text()))

    assert named
    assert named <= set.union(*exported.values())


def test_every_metric_is_documented_with_its_process(exported: dict[str, set[str]]) -> None:
    page = PAGE.read_text()
    families = {re.sub("_(bucket|sum|count)$", "", name) for names in exported.values() for name in names}

    assert [
        name for name in sorted(families) if f"`{name}`" not in page and not re.search(r"_(held|oldest_seconds)$", name)
    ] == []


def test_there_is_a_dashboard_for_queues_and_one_for_http() -> None:
    found = [json.loads(file.read_text()) for file in DASHBOARDS]

    assert [each["title"] for each in found] == ["tocsin HTTP", "tocsin queues"]
    for dashboard in found:
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(ids) == len(set(ids))


def test_there_are_alerts_for_every_part_of_the_system() -> None:
    assert {group["name"] for group in yaml(RULES)["groups"]} == PARTS
    assert {rule["labels"]["part"] for rule in alerts().values()} == PARTS
    assert {rule["labels"]["severity"] for rule in alerts().values()} == {"critical", "warning"}


@pytest.mark.parametrize("name", alerts())
def test_every_alert_links_a_paragraph_that_says_what_to_type(name: str) -> None:
    file, _, anchor = alerts()[name]["annotations"]["runbook_url"].partition("#")
    sections = re.split(r"^(?=#)", PAGE.read_text(), flags=re.MULTILINE)

    [section] = [each for each in sections if slug(each) == anchor]

    assert file == "docs/operations.md"
    assert f"`{name}`" in section
    assert re.search(r"`(tocsin|docker|curl|pg_isready|rabbitmqctl|valkey-cli) ", section)


@pytest.mark.parametrize("kind", StallKind)
def test_every_kind_of_stall_has_an_alert_and_a_paragraph(kind: StallKind) -> None:
    file, _, anchor = RUNBOOKS[kind].partition("#")

    assert (ROOT / file).exists()
    assert anchor in {slug(heading) for heading in _HEADING.findall(PAGE.read_text())}
    assert any(f'kind="{kind}"' in rule["expr"] for rule in alerts().values())


def slug(section: str) -> str:
    """Return the anchor of a section's heading, as GitHub makes it."""
    heading = section.splitlines()[0].lstrip("# ") if section else ""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_process_of_the_compose_file_is_scraped_at_its_own_port() -> None:
    jobs = {job["job_name"]: job for job in yaml(PROMETHEUS / "prometheus.yml")["scrape_configs"]}

    for name, service in own_services().items():
        if name == "migrate":
            continue
        [discovery] = jobs[name]["dns_sd_configs"]
        port = service["environment"].get("TOCSIN_METRICS", "").rpartition(":")[2] or service["command"][-1]
        assert (discovery["names"], str(discovery["port"])) == ([name], port)


def promtool(*words: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        if "CI" in os.environ:
            pytest.fail("promtool is not installed here: install Debian's package prometheus, as .ci/run does")
        pytest.skip("promtool is not installed here (Debian and Ubuntu: apt install prometheus)")
    return subprocess.run([program, *words], cwd=PROMETHEUS, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", "--lint-fatal", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
        ("check", "config", "prometheus.yml"),
    ],
    ids=" ".join,
)
def test_prometheus_accepts_the_rules_and_each_fires_when_it_should(words: tuple[str, ...]) -> None:
    done = promtool(*words)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    tested = {
        test["alertname"]
        for case in yaml(PROMETHEUS / "rules_test.yml")["tests"]
        for test in case["alert_rule_test"]
        if test["exp_alerts"]
    }

    assert tested == alerts().keys()


def test_the_exported_metrics_have_no_lint_errors() -> None:
    """In the text format: promtool cannot read OpenMetrics with exemplars."""
    program = shutil.which("promtool")
    if program is None:
        promtool()
    metrics = Metrics()
    metrics.set_ledger(NUMBERS)
    text = metrics.render()[0].decode()

    done = subprocess.run([str(program), "check", "metrics"], input=text, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
