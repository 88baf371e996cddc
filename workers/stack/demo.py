"""The demo data for `tocsin up --demo`: people, projects, incidents and an alert rule."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import httpx2
from sqlalchemy import select
from tocsin_client import Action, CreateAlertRule, ObserveMetric, OpenIncident, Tocsin, TocsinError, Trigger

from models.database.engine import make_engine
from models.directory.importer import import_directory, read_document
from models.directory.tables import hash_token, tokens
from models.operations.login_tickets import LoginTickets
from models.secrets import parse_secrets
from models.settings import sqlalchemy_url
from workers.stack.demo_tokens import DIRECTORY, begin_demo_tokens
from workers.stack.up import Stack

INCIDENTS: Final = (
    OpenIncident("Checkout answers slowly", ["p1"], status=10, dedup_key="demo-checkout"),
    OpenIncident("Card payments fail", ["p2"], status=20, dedup_key="demo-payments"),
    OpenIncident("Search index is a day old", ["p1"], status=1, dedup_key="demo-search"),
)
"""The incidents that the demo's bot opens over HTTP. Their deduplication keys prevent duplicates at the next start."""

ALERTS: Final = Path(__file__).with_name("demo_alerts.json")
"""A recorded Alertmanager notification about a slow database (docs/alertmanager.md), posted as if it were new."""

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
"""The demo's alert rule. Its first observed value lies between the two thresholds."""

PATIENCE_SECONDS: Final = 15.0


def prepare(stack: Stack) -> None:
    """Import the demo's organizations, people and projects."""
    engine = make_engine(sqlalchemy_url(stack.environment["DATABASE_URL"]), application="tocsin-demo", pool_size=1)
    with engine.begin() as connection:
        import_directory(connection, read_document(DIRECTORY.read_text()))
        begin_demo_tokens(connection)
    engine.dispose()


def ready_message(stack: Stack) -> list[str]:
    """Open incidents from every source, and return the lines to print: any failures, then commands to try.

    With these commands, the demo user Mem mentions the demo user Ana, who then reads her inbox and why she was told.
    """
    notes = _open_incidents(stack) or _post_alerts(stack) or _create_rule(stack)
    acme = f"{stack.url}/api/0/organizations/acme"
    body = '{"comment": "Ana, can you look?", "mentions": ["user:12"]}'
    post = f"curl -X POST {acme}/incidents/1/comments/ -H 'Authorization: Bearer dev-mem'"
    return [
        *notes,
        f"operations {stack.url}/ops/login/?ticket={_login_ticket(stack)} (works once, for 10 minutes)",
        "try it: Mem mentions Ana, who gets a mail in the catcher; then Ana reads her inbox, and why she was told",
        f"  {post} -H 'Content-Type: application/json' -d '{body}'",
        f"  curl {acme}/notifications/ -H 'Authorization: Bearer dev-ana'",
        f"  curl {acme}/incidents/1/explain/ -H 'Authorization: Bearer dev-ana'",
    ]


def _login_ticket(stack: Stack) -> str:
    """Return a ticket that logs an operator in, with the rights of the demo's operations token."""
    engine = make_engine(sqlalchemy_url(stack.environment["DATABASE_URL"]), application="tocsin-demo", pool_size=1)
    operator = select(tokens.c.id).where(tokens.c.hash == hash_token("dev-ops"))
    with engine.connect() as connection:
        token_id: int = connection.execute(operator).scalar_one()
    engine.dispose()
    return LoginTickets(parse_secrets(stack.environment["TOCSIN_SECRET"])).issue(token_id)


def _open_incidents(stack: Stack) -> list[str]:
    with Tocsin(stack.url, "dev-bot", organization="acme", patience_seconds=PATIENCE_SECONDS) as bot:
        try:
            bot.bulk(INCIDENTS, wait=PATIENCE_SECONDS)
        except TocsinError as error:
            return [f"the demo's incidents have not been opened: {error}"]
    return []


def _post_alerts(stack: Stack) -> list[str]:
    group = json.loads(ALERTS.read_text())
    for alert in group["alerts"]:
        alert["startsAt"] = datetime.now(UTC).isoformat()
    url = f"{stack.url}/api/0/organizations/acme/integrations/alertmanager/"
    headers = {"Authorization": "Bearer dev-alertmanager", "Prefer": f"wait={PATIENCE_SECONDS:.0f}"}
    try:
        httpx2.post(url, json=group, headers=headers, timeout=2 * PATIENCE_SECONDS).raise_for_status()
    except httpx2.HTTPError as error:
        return [f"the demo's alerts have not been posted: {error}"]
    return []


def _create_rule(stack: Stack) -> list[str]:
    """Create the alert rule and post its first value, which opens an incident. If the rule exists, do nothing."""
    bot = partial(Tocsin, stack.url, "dev-bot", organization="acme", patience_seconds=PATIENCE_SECONDS)
    try:
        with bot() as service, bot(act_as=14) as owner:
            if RULE.name in [rule["name"] for rule in owner.read("alert-rules/", project="-1")]:
                return []
            created = owner.post(RULE)
            service.post(ObserveMetric(created.body["id"], "p1", 64, datetime.now(UTC)))
    except TocsinError as error:
        return [f"the demo's alert rule has not been created: {error}"]
    return []
