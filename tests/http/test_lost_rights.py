"""What a lost right takes away: every read, and every answer to an earlier request that has a body."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from uuid import UUID

import httpx
import pytest
from sqlalchemy import insert
from sqlalchemy.engine import Engine

from gateway.rate_limit import FailureLimit
from gateway.settings import GatewaySettings
from models.base import new_id
from models.tables import METADATA
from tests.http.access_matrix import (
    CALLERS,
    MANAGED_SECRET,
    READS,
    SECRET,
    USERS,
    WRITES,
    Caller,
    Request,
    World,
    build_world,
    command_of,
    send_all,
)
from tests.http.gateway_server import Gateway, Worker, running_gateway

CALLER: Final = {caller.name: caller for caller in CALLERS}
MEMBER: Final = CALLER["mem@vault"]
OWNER: Final = CALLER["own@vault"]
ACTING: Final = CALLER["vault-bot@vault for mem"]

OF_VAULT: Final = "(SELECT id FROM organizations WHERE slug = 'vault')"
OF_MEMBERS: Final = f"(SELECT id FROM members WHERE user_id = {{user}} AND organization_id = {OF_VAULT})"
P_OF_VAULT: Final = "(SELECT id FROM projects WHERE slug = 'vault-p')"

# A token with any scope that members have keeps the inbox: that is the contract, so the narrowed one has another.
LOSSES: Final = {
    "the membership ended": f"DELETE FROM team_members WHERE member_id = {OF_MEMBERS};"
    f" DELETE FROM members WHERE id = {OF_MEMBERS}",
    "the person was deactivated": "UPDATE users SET is_active = false WHERE id = {user}",
    "the token was revoked": "UPDATE tokens SET revoked_at = now()",
    "the token expired": "UPDATE tokens SET expires_at = now()",
    "the token was narrowed": "UPDATE tokens SET scopes = ARRAY['org:integrations']",
    "the role was lowered": f"UPDATE members SET role = 'member' WHERE id = {OF_MEMBERS}",
    "the team was left": f"UPDATE team_members SET is_active = false WHERE member_id = {OF_MEMBERS}",
    "the team was removed": f"DELETE FROM team_members WHERE member_id = {OF_MEMBERS}",
    "the team was closed": "UPDATE teams SET status = 'inactive'",
    "the project was moved": f"DELETE FROM project_teams WHERE project_id = {P_OF_VAULT}",
    "the project was deleted": f"UPDATE projects SET status = 'inactive' WHERE id = {P_OF_VAULT}",
    "the feature was closed": f"UPDATE organizations SET features = '{{{{}}}}' WHERE id = {OF_VAULT}",
    "acting for people was withdrawn": "UPDATE tokens SET act_as = false",
}  # fmt: skip
"""Ways to lose the rights to incident 1 and to the rules of project p, as SQL."""

OF_THE_TEAM: Final = ("the team was left", "the team was removed", "the team was closed", "the project was moved")

CASES: Final = [
    *((MEMBER, loss) for loss in LOSSES if loss not in ("the role was lowered", "acting for people was withdrawn")),
    *((OWNER, loss) for loss in LOSSES if loss not in (*OF_THE_TEAM, "acting for people was withdrawn")),
    *((ACTING, loss) for loss in LOSSES if loss != "the role was lowered"),
]

KEEPS_WEBHOOKS: Final = {"the project was deleted", "the feature was closed"}
"""The losses after which an owner still manages webhooks and chat destinations."""

KEPT: Final = {("the feature was closed", "GET /api/0/organizations/{organization}/notifications/")}
"""What stays readable by contract: the inbox needs no feature."""

SHOWN: Final = (
    "incidents/{identifier}/", "incidents/{identifier}/activity/", "incidents/?project=-1", "alert-rules/",
    "alert-rules/{rule}/", "organizations/{organization}/commands/", "again POST", "again PUT", "command of ",
)  # fmt: skip
"""Some of the answers that show a secret as long as the right lasts, so that the test would notice a leak."""


@pytest.fixture
def gateway(settings: Callable[..., GatewaySettings]) -> Iterator[Gateway]:
    """A running gateway without limits on a database without an organization."""
    with running_gateway(settings(rate=1_000_000)) as gateway:
        gateway.app.state.container.wrong_tokens = FailureLimit(1_000_000)
        yield gateway


@pytest.fixture
def world(ledger: Engine) -> World:
    """The world, with an unread inbox item about incident 1 for the member and for the owner."""
    world = build_world(ledger)
    with ledger.begin() as connection:
        for user in (USERS["mem"], USERS["own"]):
            connection.exec_driver_sql(
                "INSERT INTO notifications (event_id, organization_id, user_id, incident_id, activity_id, event_type,"
                " reason)"
                " SELECT %s, i.organization_id, %s, i.id, max(a.id), 'incident.comment_posted', 'mention'"
                " FROM incidents i"
                " JOIN incident_activities a ON a.incident_id = i.id"
                f" WHERE i.identifier = 1 AND i.organization_id = {OF_VAULT} GROUP BY i.id",
                (new_id(), user),
            )
    return world


def secrets_in(text: str, *, keeps_webhooks: bool = False) -> list[str]:
    hidden = (SECRET,) if keeps_webhooks else (SECRET, MANAGED_SECRET)
    return [secret for secret in hidden if secret in text]


def ask(gateway: Gateway, caller: Caller, world: World, commands: dict[UUID, Request]) -> dict[str, httpx.Response]:
    """Send every read and every earlier request again, and read the commands; return the answers by request."""
    reads = [request for request in READS if request.special != "stream"]
    own = [Request("GET", f"/api/0/commands/{id_}/") for id_ in commands]
    parts = [(reads[0::2], None), (reads[1::2], None), (WRITES, "before"), (own[0::2], None), (own[1::2], None)]
    with ThreadPoolExecutor(len(parts)) as senders:
        sent = [
            senders.submit(send_all, gateway, caller, requests, world, key=key, prefer="wait=20")
            for requests, key in parts
        ]
    labels = {id(each): f"command of {commands[id_].label}" for each, id_ in zip(own, commands, strict=True)}
    return {
        labels.get(id(request), f"{'again ' if key else ''}{request.label}"): answer
        for (requests, key), answers in zip(parts, sent, strict=True)
        for request, answer in zip(requests, answers.result(), strict=True)
    }


def submit_everything(
    gateway: Gateway, worker: Worker, ledger: Engine, caller: Caller, world: World
) -> dict[UUID, Request]:
    """Send every write, and have it applied; return the commands."""
    responses = send_all(gateway, caller, WRITES, world, key="before")
    accepted = {id_: request for request, each in zip(WRITES, responses, strict=True) if (id_ := command_of(each))}
    with ledger.connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        while connection.exec_driver_sql("SELECT FROM commands WHERE state = 'accepted' LIMIT 1").rowcount:
            worker.apply()
    return accepted


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("caller", [MEMBER, OWNER, ACTING], ids=lambda caller: str(caller.name))
def test_nothing_is_shown_after_the_right_is_lost(
    gateway: Gateway, worker: Worker, ledger: Engine, world: World, caller: Caller
) -> None:
    commands = submit_everything(gateway, worker, ledger, caller, world)
    before = ask(gateway, caller, world, commands)
    leaks, asked = [], 0
    for loss in [loss for each, loss in CASES if each is caller]:
        with _lost(ledger, loss, user=USERS[str(caller.person)]):
            keeps_webhooks = caller is OWNER and loss in KEEPS_WEBHOOKS
            for name, answer in ask(gateway, caller, world, commands).items():
                if (loss, name) in KEPT:
                    continue
                asked += 1
                leaks += [(loss, name, each) for each in secrets_in(answer.text, keeps_webhooks=keeps_webhooks)]
                if name.endswith("/count/") and answer.status_code == 200 and answer.json() != {"unread": 0}:
                    leaks.append((loss, name, answer.text))

    shown = {name for name, answer in before.items() if secrets_in(answer.text)}
    missing = [path for path in SHOWN if not any(path in name for name in shown)]
    assert missing == [], "these are tested in vain"
    assert leaks == [], f"{len(leaks)} leaks in {asked} answers"


SAVED: Final = ("organizations", "users", "projects", "teams", "members", "team_members", "project_teams", "tokens")


@contextlib.contextmanager
def _lost(ledger: Engine, loss: str, *, user: int) -> Iterator[None]:
    """Take the right away, and give it back afterwards."""
    with ledger.begin() as connection:
        saved = {table: connection.exec_driver_sql(f"SELECT * FROM {table}").mappings().all() for table in SAVED}
        # Commands keep their references, and nothing else than the directory changes.
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.exec_driver_sql(LOSSES[loss].format(user=user))
    try:
        yield
    finally:
        with ledger.begin() as connection:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            for table, rows in saved.items():
                connection.exec_driver_sql(f"DELETE FROM {table}")
                connection.execute(insert(METADATA.tables[table]), [dict(row) for row in rows])
