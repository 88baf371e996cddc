"""The OpenAPI file is true: what it allows is taken, what it forbids is refused, and what comes back is described.

schemathesis reads the file from a gateway that listens, makes requests of it (its borders, random ones, sequences
along its links) and holds every answer against it, with all of its checks and one of ours. The requests are the same
each time; `TOCSIN_CONTRACT_SEED=7` asks for others, `TOCSIN_CONTRACT_EXAMPLES=200` for more of each operation.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import schemathesis
from hypothesis import strategies

from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import CustomFailure, Failure
from schemathesis.engine import Status, events, from_schema

from gateway.paging import Cursor
from tests.http.doorway import Gateway, Worker
from tests.http.hostility import STREAM

EXAMPLES = int(os.environ.get("TOCSIN_CONTRACT_EXAMPLES", "8"))
SEED = os.environ.get("TOCSIN_CONTRACT_SEED")

# The first three try the borders of everything as well, which takes a minute each: at least 5,000 requests in all.
CALLERS = {
    "a member": ({"Authorization": "Bearer dev-mem"}, 1_700),
    "a program": ({"Authorization": "Bearer dev-bot"}, 1_700),
    "an operator": ({"Authorization": "Bearer dev-ops"}, 1_700),
    "an owner": ({"Authorization": "Bearer dev-own"}, 100),
    "a program for a member": ({"Authorization": "Bearer dev-bot", "Act-As": "user:11"}, 100),
    "a key": ({"Authorization": "Bearer dev-key"}, 100),
}
BORDERS = 1_000

HOME: dict[str, dict[str, Any]] = {
    "organization": {"enum": ["acme"]},
    "identifier": {"enum": ["1"]},
    # A pattern with quotation marks in it is more than schemathesis can follow when it tries borders.
    "If-Match": {"enum": ["*", '"1"', '"1-0a"']},
}

# What the server says of every answer, whatever it is about.
PLAIN_HEADERS = {"content-length", "content-type", "date", "server"}

# Cursors are opaque; the two ends are places in every list.
schemathesis.openapi.format("cursor", strategies.sampled_from([Cursor().text(), Cursor(backwards=True).text()]))


@schemathesis.check
def described_headers(_: Any, response: Any, case: Any) -> None:
    """Every header of an answer is described for its status."""
    if response.request.method != case.operation.method.upper():
        return
    described = case.operation.definition.raw["responses"].get(str(response.status_code), {}).get("headers", {})
    extra = set(response.headers) - {name.lower() for name in described} - PLAIN_HEADERS - {"allow"}
    assert not extra, f"{response.status_code} has headers that are not described: {sorted(extra)}"


@dataclass
class Findings:
    """What a run came to: its requests by status, and each answer that contradicts the file."""

    statuses: Counter[int] = field(default_factory=Counter)
    checks: set[str] = field(default_factory=set)
    contradictions: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.statuses.total()

    def add(self, event: Any) -> None:
        if isinstance(event, events.NonFatalError | events.FatalError):
            self.contradictions.append(str(getattr(event, "info", None) or event.exception))
        if not isinstance(event, events.ScenarioFinished):
            return
        answered = {id_: each.response for id_, each in event.recorder.interactions.items()}
        self.statuses.update(0 if answer is None else answer.status_code for answer in answered.values())
        for nodes in event.recorder.checks.values():
            for node in nodes:
                self.checks.add(node.name)
                if node.status is Status.FAILURE:
                    self.contradictions.append(f"{event.label}: {node.name}: {node.failure_info.failure}\n{node.failure_info.code_sample}")


def configured(headers: dict[str, str], *, tries_borders: bool) -> SchemathesisConfig:
    # Refusals that follow from what is stored, not from the request's shape: a version that is not the current one,
    # and a key that another request took.
    taken = ["2xx", "304", "401", "403", "404", "409", "412", "422", "429"]
    return SchemathesisConfig.from_dict(
        {
            "seed": int(SEED or 1),
            "headers": headers,
            "continue-on-failure": True,
            "request-timeout": 60,
            "checks": {"positive_data_acceptance": {"expected-statuses": taken}},
            "generation": {"max-examples": EXAMPLES, "deterministic": SEED is None, "database": "none", "no-shrink": True},
            "phases": {"coverage": {"enabled": tries_borders}, "stateful": {"max-steps": 6}},
        }
    )


def explore(gateway: Gateway, headers: dict[str, str], *, tries_borders: bool) -> Findings:
    document = gateway.get("/openapi.json", by=None).json()
    come_home(document)
    schema = schemathesis.openapi.from_dict(document, config=configured(headers, tries_borders=tries_borders))
    schema.config.update(base_url=gateway.url)
    schema.hook(filter_failure)
    findings = Findings()
    for event in from_schema(schema).execute():
        findings.add(event)
    return findings


def filter_failure(_: Any, failure: Failure, case: Any, response: Any) -> bool:
    """Whether it is one: a request that became a command was well-formed, whatever the worker said of it then."""
    is_refusal_of_good = type(failure).__name__ == "RejectedPositiveData"
    if is_refusal_of_good and "command-id" in response.headers:
        return False
    # Rows of the directory lean on each other, which no JSON Schema can say.
    return not (is_refusal_of_good and case.operation.label == "PUT /api/0/directory/")


def come_home(document: Any) -> None:
    """Requests are about what exists, by somebody who is known: with made-up names, nearly all would be 403 or 404."""
    for path in document["paths"].values():
        operations = {method: each for method, each in path.items() if method != "parameters"}
        for method, operation in operations.items():
            kept = [each for each in operation.get("parameters", []) if each["name"] != "Act-As"]
            operation["parameters"] = kept
            if STREAM in operation["responses"].get("200", {}).get("content", {}):
                # It never ends.
                del path[method]
        for parameter in [*path.get("parameters", []), *(each for one in operations.values() for each in one["parameters"])]:
            parameter["schema"] |= HOME.get(parameter["name"], {})


@pytest.mark.timeout(600)
@pytest.mark.parametrize("caller", CALLERS)
def test_every_answer_is_as_the_file_describes_it(gateway: Gateway, busy_worker: Worker, caller: str) -> None:
    load_all_checks()
    headers, least = CALLERS[caller]

    findings = explore(gateway, headers, tries_borders=least > BORDERS)

    print(f"{findings.cases} requests by {caller}: {dict(sorted(findings.statuses.items()))}")
    if findings.contradictions:
        open(f"/tmp/contract_{caller.replace(' ','_')}.txt","w").write("\n=====\n".join(findings.contradictions))
    assert not findings.contradictions, "\n\n".join(findings.contradictions[:3])
    assert findings.cases >= least
    assert not any(status == 0 or status >= 500 for status in findings.statuses)
    open("/tmp/contract_checks.txt","a").write(f"{caller} {findings.cases} {dict(sorted(findings.statuses.items()))} {findings.checks ^ set(CHECKS.get_all_names())}\n")
