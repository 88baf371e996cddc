"""The order of checks: each request fails two neighbouring checks, and the earlier one decides the response."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from gateway.settings import GatewaySettings
from tests.handlers.acme import Acme
from tests.http.gateway_server import A_COMMENT, ACME, COMMANDS, COMMENTS, Gateway, running_gateway

READING_SCOPES = ["org:admin", "org:read", "org:write", "project:admin", "project:read", "project:write"]

FORBIDDEN = {"detail": "You do not have permission to perform this action."}
NOT_FOUND = {"detail": "The requested resource does not exist"}
NO_CREDENTIAL = {"detail": "Authentication credentials were not provided."}
BLANK = {"comment": ["This field may not be blank."]}
NOWHERE = "/api/0/organizations/nowhere/incidents/1/comments/"
PLAIN = "/api/0/organizations/plain"
CLOSED = "/api/0/organizations/closed"


def case(method: str, path: str, status: int, body: Any, name: str, **request: Any) -> Any:
    return pytest.param(method, path, status, body, request, id=name)


CASES = [
    case(
        "POST", COMMENTS, 400, "Invalid origin: https://evil.test", "a foreign origin comes before a missing token",
        by=None, headers={"Origin": "https://evil.test"},
    ),
    case("POST", COMMENTS, 401, NO_CREDENTIAL, "no token", by=None, json=A_COMMENT),
    case("POST", COMMENTS, 401, {"detail": "Invalid token"}, "an unknown token", by="dev-nobody"),
    case("POST", COMMENTS, 401, {"detail": "User inactive or deleted"}, "an inactive person", by="dev-gone"),
    case(
        "POST", COMMENTS, 401, {"detail": "Invalid token"}, "a bad token comes before a large body",
        by="dev-nobody", content=b"x" * 70_000,
    ),
    case(
        "POST", COMMENTS, 403, FORBIDDEN, "a person's token may not act for others",
        headers={"Act-As": "user:12"}, json=A_COMMENT,
    ),
    case(
        "POST", COMMENTS, 403, FORBIDDEN, "a service without act-as may not act for others",
        by="dev-plain-bot", headers={"Act-As": "user:12"}, json=A_COMMENT,
    ),
    case(
        "POST", COMMENTS, 403, FORBIDDEN, "a service may not act for non-members",
        by="dev-bot", headers={"Act-As": "user:14"}, json=A_COMMENT,
    ),
    case(
        "POST", COMMENTS, 403, FORBIDDEN, "a service may not act for inactive people",
        by="dev-bot", headers={"Act-As": "user:16"}, json=A_COMMENT,
    ),
    case(
        "POST", COMMENTS, 403, FORBIDDEN, "a service may only act for people",
        by="dev-bot", headers={"Act-As": "team:21"}, json=A_COMMENT,
    ),
    case(
        "POST", COMMENTS, 413, {"detail": "The request body may not exceed 65536 bytes."},
        "a large body comes before the token's scopes", by="dev-mem-read", content=b"x" * 70_000,
    ),
    case(
        "POST", COMMENTS, 415, {"detail": 'Unsupported media type "text/plain" in request.'},
        "another media type comes before the token's scopes",
        by="dev-mem-read", content=b"x", headers={"Content-Type": "text/plain"},
    ),
    case(
        "POST", NOWHERE, 403, FORBIDDEN, "the token's scopes come before the organization", by="dev-mem-read", json={}
    ),
    case("PATCH", COMMENTS, 403, FORBIDDEN, "a method without scopes is forbidden to tokens", by="dev-bot"),
    case(
        "PATCH", NOWHERE, 405, {"detail": 'Method "PATCH" not allowed.'}, "the method comes before the organization"
    ),
    case("POST", NOWHERE, 404, NOT_FOUND, "an unknown organization", json=A_COMMENT),
    case("POST", f"{PLAIN}/incidents/1/comments/", 403, FORBIDDEN, "membership comes before the feature", by="dev-out"),
    case("POST", f"{PLAIN}/incidents/77/comments/", 404, NOT_FOUND, "no incidents feature", json={"comment": ""}),
    case("POST", f"{ACME}/incidents/x1/comments/", 404, NOT_FOUND, "not a number", json={"comment": ""}),
    case("POST", f"{ACME}/incidents/%C2%B2/comments/", 404, NOT_FOUND, "not an ASCII digit", json={"comment": ""}),
    case("POST", f"{ACME}/incidents/{2**80}/comments/", 404, NOT_FOUND, "a number out of range", json=A_COMMENT),
    case(
        "POST", f"{ACME}/incidents/77/comments/", 404, NOT_FOUND,
        "an unknown incident comes before the body", json={"comment": ""}
    ),
    case(
        "POST", f"{CLOSED}/incidents/1/comments/", 403, FORBIDDEN,
        "no project access comes before the body", json={"comment": ""}
    ),
    case(
        "POST", f"{CLOSED}/incidents/1/comments/", 403, FORBIDDEN, "no project access comes before invalid JSON",
        content=b"{", headers={"Content-Type": "application/json"},
    ),
    case(
        "POST", f"{CLOSED}/incidents/1/comments/", 403, FORBIDDEN, "no project access comes before an invalid key",
        json=A_COMMENT, headers={"Idempotency-Key": "has a space"},
    ),
    case("POST", COMMENTS, 400, BLANK, "an invalid body", json={"comment": ""}),
    case(
        "POST", f"{ACME}/incidents/0001/comments/", 400, BLANK,
        "leading zeros change nothing", json={"comment": ""}
    ),
    case(
        "POST", f"{ACME}/incidents/77/comments/", 404, NOT_FOUND,
        "an unknown incident comes before the API key rule", by="dev-key", json=A_COMMENT
    ),
    case("POST", COMMENTS, 403, FORBIDDEN, "API keys cannot write", by="dev-key", json=A_COMMENT),
    case("POST", COMMENTS, 403, FORBIDDEN, "API keys get no validation errors", by="dev-key", json={"comment": ""}),
    case(
        "POST", COMMENTS, 403, FORBIDDEN,
        "a service that acts for nobody cannot comment", by="dev-bot", json=A_COMMENT
    ),
    case(
        "POST", f"{ACME}/notifications/read/", 403, FORBIDDEN,
        "a service has no inbox to read", by="dev-bot", json={"upTo": 1}
    ),
    case("GET", f"{ACME}/notifications/", 403, FORBIDDEN, "a service has no inbox", by="dev-bot"),
    case("GET", f"{ACME}/notifications/1/explain/", 403, FORBIDDEN, "nothing explains", by="dev-bot"),
    case("GET", f"{ACME}/notifications/count/", 403, FORBIDDEN, "a key has no inbox to count", by="dev-key"),
    case(
        "POST", f"{ACME}/incidents/", 403, FORBIDDEN,
        "members cannot open incidents", json={"title": "t", "projects": ["p1"]}
    ),
    case("GET", COMMENTS, 405, {"detail": 'Method "GET" not allowed.'}, "comments are posted, not listed"),
    case("GET", f"{ACME}/incidents/1/", 403, FORBIDDEN, "alert scopes cannot read incidents", by="dev-mem-alerts"),
    case("GET", f"{CLOSED}/incidents/1/", 403, FORBIDDEN, "an incident without access is forbidden"),
    case("GET", f"{CLOSED}/incidents/2/", 404, NOT_FOUND, "an unknown incident is 404"),
    case("GET", f"{PLAIN}/incidents/1/", 404, NOT_FOUND, "reads require the feature too"),
    case("GET", f"{ACME}/", 403, FORBIDDEN, "operators cannot read organizations", by="dev-ops"),
    case("GET", "/api/0/directory/", 403, FORBIDDEN, "members cannot read the directory"),
    case("GET", "/api/0/directory/", 403, FORBIDDEN, "viewers cannot read the directory", by="dev-viewer"),
    case("GET", "/api/0/commands/no-uuid/", 404, NOT_FOUND, "not a command id"),
    case("GET", "/api/0/commands/0199a208-2e85-74ba-8881-7722b23ab51e/", 404, NOT_FOUND, "an unknown command"),
    case("GET", "/api/0/nothing/", 404, NOT_FOUND, "an unknown path"),
    case(
        "POST", COMMANDS, 403, FORBIDDEN, "the scopes of each item come before its body",
        by="dev-mem-read", json={"commands": [{"type": "comment.post"}]},
    ),
    case(
        "POST", f"{PLAIN}/commands/", 404, NOT_FOUND, "bulk items require the feature too",
        json={"commands": [{"type": "comment.post", "incident": 1, "comment": "x"}]},
    ),
    case(
        "POST", COMMANDS, 403, FORBIDDEN, "a service that acts for nobody cannot comment in bulk",
        by="dev-bot", json={"commands": [{"type": "comment.post", "incident": 1, "comment": "x"}]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "status", "body", "request_"), CASES)
def test_the_earliest_failing_check_decides_the_response(
    gateway: Gateway, method: str, path: str, status: int, body: Any, request_: dict[str, Any]
) -> None:
    options = dict(request_)
    with gateway.client(options.pop("by", "dev-mem")) as client:
        response = client.request(method, path, **options)

    assert (response.status_code, response.json()) == (status, body)
    assert "command-id" not in response.headers
    assert (status == 401) == ("www-authenticate" in response.headers)


def test_an_expired_token_is_reported_as_expired(gateway: Gateway, ledger: Any) -> None:
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET expires_at = now() - interval '1 day' WHERE user_id = 11")

    response = gateway.get(f"{ACME}/")

    assert (response.status_code, response.json()) == (401, {"detail": "Token expired"})


def test_a_revoked_token_is_treated_as_unknown(gateway: Gateway, ledger: Any) -> None:
    before = gateway.get(f"{ACME}/")

    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET revoked_at = now() WHERE user_id = 11")
    after = gateway.get(f"{ACME}/")

    assert (before.status_code, after.status_code, after.json()) == (200, 401, {"detail": "Invalid token"})


def test_an_organization_can_also_be_identified_by_its_id(gateway: Gateway, acme: Any) -> None:
    number = acme.organizations["acme"]

    assert gateway.get(f"/api/0/organizations/{number}/").json()["slug"] == "acme"
    assert gateway.get(f"/api/0/organizations/00{number}/").json()["slug"] == "acme"


def test_a_path_with_invalid_characters_is_404(gateway: Gateway) -> None:
    assert gateway.get("/api/0/organizations/ac%00me/").status_code == 404
    assert gateway.get("/api/0/organizations/%ff/").status_code == 404


def test_options_requests_need_no_token(gateway: Gateway) -> None:
    with gateway.client(None) as client:
        response = client.options(COMMENTS)

    assert (response.status_code, response.content) == (200, b"")
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "Idempotency-Key" in response.headers["access-control-allow-headers"]


def test_requests_from_the_gateways_own_origin_are_allowed(gateway: Gateway) -> None:
    response = gateway.get(f"{ACME}/", Origin=gateway.url)

    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == gateway.url
    assert "Command-Id" in response.headers["access-control-expose-headers"]


def test_with_a_public_url_only_its_origin_is_the_gateways_own(
    settings: Callable[..., GatewaySettings], acme: Acme
) -> None:
    with running_gateway(settings(public_url="https://x.test/base")) as gateway:
        public, host = (gateway.get(f"{ACME}/", Origin=origin) for origin in ("https://x.test", gateway.url))

    assert (public.status_code, host.status_code) == (200, 400)


def test_a_path_without_a_trailing_slash_is_redirected_with_method_and_query(gateway: Gateway) -> None:
    response = gateway.get(f"{ACME}/members?query=an")

    assert response.status_code == 307
    assert response.headers["location"] == f"{gateway.url}{ACME}/members/?query=an"


@pytest.mark.parametrize(
    ("path", "headers", "members"),
    [
        ("", {"by": "dev-bot", "Act_As": "user:x"}, {"code": "act_as_malformed"}),
        ("", {"by": "dev-bot", "Act_As": "user:14"}, {"code": "act_as_not_member"}),
        ("notifications/", {"by": "dev-bot"}, {"code": "act_as_required"}),
        ("notifications/", {"by": "dev-key"}, {"code": "key_not_allowed"}),
        ("", {"by": "dev-mem", "Act_As": "user:11"}, {"code": "forbidden"}),
        (
            "incidents/",
            {"by": "dev-out"},
            {
                "code": "scope_missing",
                "scopes": READING_SCOPES,
            },
        ),
        ("incidents/404/", {"by": "dev-mem"}, {"code": "not_found"}),
    ],
)
def test_a_problem_document_says_why_the_caller_is_refused(
    gateway: Gateway, path: str, headers: dict[str, str], members: dict[str, Any]
) -> None:
    plain = gateway.get(f"{ACME}/{path}", **headers)
    problem = gateway.get(f"{ACME}/{path}", **headers, Accept="application/problem+json")

    assert {name: problem.json().get(name) for name in ("code", "scopes")} == {"scopes": None} | members
    assert plain.json() == {"detail": problem.json()["detail"]}


def test_a_problem_document_names_a_lack_of_project_access(gateway: Gateway, ledger: Engine) -> None:
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET open_membership = false")
        connection.exec_driver_sql("UPDATE team_members SET is_active = false")

    response = gateway.get(f"{ACME}/incidents/1/", Accept="application/problem+json")

    assert (response.status_code, response.json()["code"]) == (403, "no_project_access")
