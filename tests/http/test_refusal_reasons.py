"""Why a command was refused, in application/problem+json: also if a worker refused it."""

from __future__ import annotations

from typing import Any, Final

import pytest
from jsonschema import Draft202012Validator
from sqlalchemy.engine import Engine

from gateway.main import ENDPOINTS
from gateway.openapi.components import build_schemas
from models.incidents.mentions import NOT_ATTACHED, ON_NO_TEAM
from tests.handlers.acme import Acme
from tests.http.alert_rule_requests import FORBIDDEN, RULES
from tests.http.gateway_server import A_COMMENT, ACME, COMMENTS, Gateway, Worker
from tests.rule_bodies import RULE

PROBLEM: Final = "application/problem+json"
PREVIEW: Final = f"{ACME}/incidents/1/comments/preview/"


def close_membership(ledger: Engine) -> None:
    """Leave access to managers and owners only."""
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET open_membership = false")
        connection.exec_driver_sql("UPDATE team_members SET is_active = false")


def test_a_refusal_by_the_worker_says_why(gateway: Gateway, ledger: Engine, busy_worker: Worker) -> None:
    close_membership(ledger)

    plain = gateway.post(COMMENTS, A_COMMENT)
    problem = gateway.post(COMMENTS, A_COMMENT, Accept=PROBLEM)

    assert (plain.status_code, plain.json(), "command-id" in plain.headers) == (403, FORBIDDEN, True)
    assert (problem.status_code, problem.json()["code"]) == (403, "no_project_access")
    assert problem.json()["detail"] == FORBIDDEN["detail"]


def test_a_replay_of_a_refusal_says_why(gateway: Gateway, ledger: Engine, busy_worker: Worker) -> None:
    close_membership(ledger)

    first, replay = (gateway.post(COMMENTS, A_COMMENT, Accept=PROBLEM, Idempotency_Key="k") for _ in range(2))

    assert replay.json() == first.json()
    assert replay.json()["code"] == "no_project_access"


def test_the_problem_schema_describes_the_scopes(gateway: Gateway) -> None:
    response = gateway.get(f"{ACME}/incidents/", by="dev-out", Accept=PROBLEM)

    schema = build_schemas(ENDPOINTS)["Problem"]
    Draft202012Validator(schema).validate(response.json())
    assert set(response.json()) <= schema["properties"].keys()
    assert "scopes" in response.json()


# --- mentions --------------------------------------------------------------------------------------------------

INVALID_MENTIONS: Final[list[Any]] = [
    "ana", None, "user:999", "team:999", "user:14", "team:23", "nobody", "out@x.test", "user:x", 1.5,
]  # fmt: skip
REASONS: Final = {
    "#/mentions/1": "null: it names nobody.",
    "#/mentions/2": '"user:999": no member has this id.',
    "#/mentions/3": '"team:999": no team has this id.',
    "#/mentions/4": '"user:14": no member has this id.',
    "#/mentions/5": '"team:23": no team has this id.',
    "#/mentions/6": '"nobody": no member has this username or e-mail address.',
    "#/mentions/7": '"out@x.test": no member has this username or e-mail address.',
    "#/mentions/8": '"user:x": it is not user:ID, team:ID, an id, a username or an e-mail address.',
    "#/mentions/9": "The value: it is not user:ID, team:ID, an id, a username or an e-mail address.",
}


def reasons_of(problem: Any) -> dict[str, str]:
    return {error["pointer"]: error["detail"] for error in problem["errors"]}


def test_a_mention_that_names_nobody_says_which_and_why(gateway: Gateway, busy_worker: Worker) -> None:
    response = gateway.post(COMMENTS, A_COMMENT | {"mentions": INVALID_MENTIONS}, Accept=PROBLEM)

    assert (response.status_code, reasons_of(response.json())) == (400, REASONS)


@pytest.mark.parametrize(
    ("mentions", "reason"),
    [
        (["ana", "user:15", "user:15"], f'"user:15": {ON_NO_TEAM}.'),
        (["team:21", "team:22"], f'"team:22": {NOT_ATTACHED}.'),
    ],
)
def test_a_mention_that_is_not_allowed_says_which_and_why(
    gateway: Gateway, busy_worker: Worker, mentions: list[str], reason: str
) -> None:
    posted = gateway.post(COMMENTS, A_COMMENT | {"mentions": mentions}, Accept=PROBLEM)
    previewed = gateway.get(PREVIEW + "?" + "&".join(f"mentions={each}" for each in mentions), Accept=PROBLEM)

    assert (posted.status_code, reasons_of(posted.json())) == (400, {"#/mentions/1": reason})
    assert (previewed.status_code, reasons_of(previewed.json())) == (400, {"#/mentions/1": reason})


def test_an_owner_that_names_nobody_says_why(gateway: Gateway, busy_worker: Worker) -> None:
    plain = gateway.post(RULES, RULE | {"owner": "user:14"})
    problem = gateway.post(RULES, RULE | {"owner": "user:14"}, Accept=PROBLEM)
    other = gateway.post(RULES, RULE | {"owner": "user:14", "excludedProjects": ["x"]}, Accept=PROBLEM)

    assert (plain.status_code, plain.json()) == (400, {"owner": ["User does not exist"]})
    assert reasons_of(problem.json()) == {"#/owner": '"user:14": no member has this id.'}
    assert reasons_of(other.json()).keys() == {"#/owner", "#/excludedProjects"}


@pytest.mark.parametrize("foreign", ["user:14", "team:23", "out", "out@x.test"])
def test_the_preview_treats_people_and_teams_of_other_organizations_as_unknown(
    gateway: Gateway, acme: Acme, foreign: str
) -> None:
    unknown = {"user": "user:999", "team": "team:999"}.get(foreign.partition(":")[0], "nobody")

    answers = [gateway.get(f"{PREVIEW}?mentions={each}") for each in (foreign, unknown)]

    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].json() == answers[1].json()
