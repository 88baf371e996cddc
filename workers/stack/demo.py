"""What `tocsin up --demo` adds to a stack: people, projects, and incidents that someone can talk about."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import httpx2
from tocsin_client import Action, CreateAlertRule, ObserveMetric, OpenIncident, Tocsin, TocsinError, Trigger

from models.database.engine import make_engine
from models.directory.importer import import_directory, read_document
from models.settings import sqlalchemy_url
from workers.stack.up import Stack

DIRECTORY: Final = Path(__file__).with_name("demo.json")
"""Who exists in the demo; its tokens are for play."""

INCIDENTS: Final = (
    OpenIncident("Checkout answers slowly", ["p1"], status=10, dedup_key="demo-checkout"),
    OpenIncident("Card payments fail", ["p2"], status=20, dedup_key="demo-payments"),
    OpenIncident("Search index is a day old", ["p1"], status=1, dedup_key="demo-search"),
)
"""What is wrong in the demo: opened by its bot over HTTP, as any service would, and once, since each has a key."""

ALERTS: Final = Path(__file__).with_name("demo_alerts.json")
"""What Alertmanager once posted of a slow database (docs/alertmanager.md); in the demo it has just begun."""

RULE: Final = CreateAlertRule(
    "Errors on checkout",
    ["p1"],
    "count()",
    time_window=5,
    threshold_type=0,
    triggers=[Trigger("critical", 100, [Action("email", "user", 12)]), Trigger("warning", 50)],
    query="level:error",
    resolve_threshold=40,
)
"""What the demo watches, for Own: a value between the thresholds is its first."""

PATIENCE_SECONDS: Final = 15.0


def prepare(stack: Stack) -> None:
    """Import who exists."""
    engine = make_engine(sqlalchemy_url(stack.environment["DATABASE_URL"]), application="tocsin-demo", pool_size=1)
    with engine.begin() as connection:
        import_directory(connection, read_document(DIRECTORY.read_text()))
    engine.dispose()


def ready_message(stack: Stack) -> list[str]:
    """Let incidents come from everywhere; then two lines to paste: Mem tells Ana, who looks it up."""
    notes = _open_incidents(stack) or _post_alerts(stack) or _watch(stack)
    acme = f"{stack.url}/api/0/organizations/acme"
    body = '{"comment": "Ana, can you look?", "mentions": ["user:12"]}'
    post = f"curl -X POST {acme}/incidents/1/comments/ -H 'Authorization: Bearer dev-mem'"
    return [
        *notes,
        "try it: Mem mentions Ana, then Ana looks into her inbox",
        f"  {post} -H 'Content-Type: application/json' -d '{body}'",
        f"  curl {acme}/notifications/ -H 'Authorization: Bearer dev-ana'",
    ]


def _open_incidents(stack: Stack) -> list[str]:
    with Tocsin(stack.url, "dev-bot", organization="acme", patience_seconds=PATIENCE_SECONDS) as bot:
        try:
            bot.bulk(INCIDENTS, wait=PATIENCE_SECONDS)
        except TocsinError as error:
            return [f"the incidents of the demo are not open yet: {error}"]
    return []


def _post_alerts(stack: Stack) -> list[str]:
    group = json.loads(ALERTS.read_text())
    for alert in group["alerts"]:
        alert["startsAt"] = datetime.now(UTC).isoformat()
    address = f"{stack.url}/api/0/organizations/acme/integrations/alertmanager/"
    headers = {"Authorization": "Bearer dev-alertmanager", "Prefer": f"wait={PATIENCE_SECONDS:.0f}"}
    try:
        httpx2.post(address, json=group, headers=headers, timeout=2 * PATIENCE_SECONDS).raise_for_status()
    except httpx2.HTTPError as error:
        return [f"the alerts of the demo are not there yet: {error}"]
    return []


def _watch(stack: Stack) -> list[str]:
    """Make the rule, once, and send its first value: too many errors, and an incident."""
    bot = partial(Tocsin, stack.url, "dev-bot", organization="acme", patience_seconds=PATIENCE_SECONDS)
    try:
        with bot() as program, bot(act_as=14) as own:
            if RULE.name in [rule["name"] for rule in own.read("alert-rules/", project="-1")]:
                return []
            made = own.post(RULE)
            program.post(ObserveMetric(made.body["id"], "p1", 64, datetime.now(UTC)))
    except TocsinError as error:
        return [f"the alert rule of the demo is not there yet: {error}"]
    return []
