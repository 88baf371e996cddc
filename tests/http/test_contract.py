"""The OpenAPI file is true: what it allows is taken, what it forbids is refused, and what comes back is described.

schemathesis reads the file from a gateway that listens, makes requests of it (its borders, random ones, sequences
along its links) and holds every answer against it, with all of its checks and one of ours.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from zlib import crc32

import pytest
import schemathesis
from hypothesis import strategies
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import Failure
from schemathesis.engine import events, from_schema

from gateway.paging import Cursor
from tests.http.chance import IS_USUAL, SEED, TIMES
from tests.http.doorway import Gateway, Worker
from tests.http.hostility import STREAM

STORIES: Final = 40
STEPS: Final = 10
STORY_REQUESTS: Final = 200


class Caller(NamedTuple):
    """Who asks, by which token, and at least how often.

    ``borders`` are what schemas just allow and just forbid, of everything; ``examples`` random requests of each
    operation.
    """

    token: str
    requests: int
    borders: bool = True
    examples: int = 0
    acts_for: bool = False
    may_follow: bool = True


CALLERS: Final = {
    "a member": Caller("dev-mem", 1_700, examples=8),
    "a program": Caller("dev-bot", 2_000, examples=5, acts_for=True),
    "an operator": Caller("dev-ops", 1_500, may_follow=False),
    "an owner": Caller("dev-own", 200, borders=False, examples=8),
    "a key": Caller("dev-key", 80, borders=False, examples=4),
}

PEOPLE: Final = ["ana", "user:12", "ben@x.test", "team:21", "13"]

# With made-up names nearly all requests would be 403 or 404.
HOME: Final[dict[str, dict[str, Any]]] = {
    "organization": {"enum": ["acme"]},
    "identifier": {"examples": ["1"]},
    "Act-As": {"enum": ["user:11"]},
    # A pattern with quotation marks in it is more than schemathesis can follow when it tries borders.
    "If-Match": {"enum": ["*", '"1"', '"1-0a"']},
    "mentions": {"items": {"enum": PEOPLE}},
    "projectSlug": {"items": {"enum": ["p1", "p2", "$all"]}},
}
KNOWN: Final[dict[str, list[str | int]]] = {
    "people": list(PEOPLE),
    "projects": ["p1", "p2"],
    "incidents": ["1", 1],
    "numbers": ["1"],
}
NAMED: Final = {
    "body.projects[*]": "projects",
    "body.mentions[*]": "people",
    "body.commands[*].projects[*]": "projects",
    "body.commands[*].mentions[*]": "people",
    "body.commands[*].incident": "incidents",
    "path.identifier": "numbers",
}

LIFE: Final = {
    "open_incident", "read_incident", "mark_seen", "close_incident", "list_activity", "list_subscribers", "subscribe",
    "unsubscribe", "post_comment", "edit_comment", "delete_comment", "read_command",
}  # fmt: skip
BEGINNINGS: Final = {"open_incident", "post_comment", "subscribe"}
LIVELY: Final = {
    "OpenIncident": {
        "projects": {"type": "array", "items": {"enum": ["p1", "p2"]}, "minItems": 1},
        "alertRule": {"type": "null"},
    },
    "PostComment": {"mentions": {"type": "array", "items": {"enum": PEOPLE}}},
    "EditComment": {"mentions": {"type": "array", "items": {"enum": PEOPLE}}},
}

# What the server says of every answer, whatever it is about.
PLAIN_HEADERS: Final = {"content-length", "content-type", "date", "server"}

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


@schemathesis.hook
def before_call(_: Any, case: Any, __: Any) -> None:
    """Give most requests a key of their own: one that is taken lets nothing else of a request be looked at."""
    key = (case.headers or {}).get("Idempotency-Key")
    if getattr(case.meta.phase.data, "parameter_location", None) == "header":
        return
    asked = crc32(repr((case.method, case.formatted_path, case.query, case.body)).encode("utf-8", "replace"))
    if isinstance(key, str) and re.fullmatch("[!-~]{1,240}", key) and asked % 8:
        case.headers["Idempotency-Key"] = f"{key}-{asked}"


@dataclass
class Findings:
    """What a run came to: the statuses of its requests, by operation, and what contradicts the file."""

    statuses: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    checks: set[str] = field(default_factory=set)
    contradictions: list[str] = field(default_factory=list)

    @property
    def answers(self) -> Counter[int]:
        """How often each status came; 0 is no answer."""
        return sum(self.statuses.values(), Counter())

    @property
    def done(self) -> set[str]:
        """The operations that came to a good end at least once."""
        return {name for name, counted in self.statuses.items() if counted.keys() & {200, 201, 204}}

    def add(self, event: Any) -> None:
        if isinstance(event, events.NonFatalError | events.FatalError):
            self.contradictions.append(str(getattr(event, "info", None) or event.exception))
        if isinstance(event, events.ScenarioFinished):
            for id_, each in event.recorder.interactions.items():
                name = event.recorder.cases[id_].value.operation.definition.raw.get("operationId", "")
                self.statuses[name][each.response.status_code if each.response else 0] += 1
            for node in (node for nodes in event.recorder.checks.values() for node in nodes):
                self.checks.add(node.name)
                if node.failure_info is not None:
                    about = f"{node.name}: {node.failure_info.failure}"
                    self.contradictions.append(f"{event.label}: {about}\n{node.failure_info.code_sample}")


def configured(token: str, phases: dict[str, dict[str, Any]]) -> SchemathesisConfig:
    off = {name: {"enabled": False} for name in ("examples", "coverage", "fuzzing", "stateful")}
    # Refusals that follow from what is stored, not from the request's shape: a version that is not the current one,
    # and a key that another request took.
    taken = ["2xx", "304", "401", "403", "404", "409", "412", "422", "429"]
    return SchemathesisConfig.from_dict(
        {
            "seed": SEED,
            "headers": {"Authorization": f"Bearer {token}"},
            "continue-on-failure": True,
            # What it remembers of earlier runs would make each run another.
            "cache": {"enabled": False},
            "request-timeout": 60,
            "output": {"sanitization": {"enabled": False}},
            "checks": {"positive_data_acceptance": {"expected-statuses": taken}},
            "dictionaries": {name: {"values": values} for name, values in KNOWN.items()},
            "parameters": {place: {"dictionary": name, "probability": 0.9} for place, name in NAMED.items()},
            "generation": {"deterministic": IS_USUAL, "database": "none", "no-shrink": True},
            "phases": off | phases,
        }
    )


def explore(gateway: Gateway, document: Any, config: SchemathesisConfig) -> Findings:
    schema = schemathesis.openapi.from_dict(document, config=config)
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


def come_home(document: Any, caller: Caller) -> None:
    """Requests are about what exists, by somebody who is known."""
    unused = set() if caller.acts_for else {"Act-As"}
    for path in document["paths"].values():
        operations = {method: each for method, each in path.items() if method != "parameters"}
        for method, operation in operations.items():
            operation["parameters"] = [each for each in operation.get("parameters", []) if each["name"] not in unused]
            if caller.may_follow and STREAM in operation["responses"].get("200", {}).get("content", {}):
                # It never ends.
                del path[method]
        for parameter in [
            *path.get("parameters", []),
            *(each for one in operations.values() for each in one["parameters"]),
        ]:
            parameter["schema"] |= HOME.get(parameter["name"], {})


def stay_with_incidents(document: Any) -> None:
    """Nothing but the life of an incident, told of projects and people that exist."""
    for path in document["paths"].values():
        for method, operation in [item for item in path.items() if item[0] != "parameters"]:
            if operation.get("operationId") not in LIFE:
                del path[method]
            elif operation["operationId"] not in BEGINNINGS:
                # With links of its own it would begin stories as well, about things that do not exist.
                operation["responses"] = {
                    status: {**each, "links": {}} for status, each in operation["responses"].items()
                }
    for name, fields in LIVELY.items():
        document["components"]["schemas"][name]["properties"] |= fields


def hold(findings: Findings, *, least: int) -> None:
    """The file was true in every answer, by every check there is, and no answer was a fault."""
    assert not findings.contradictions, "\n\n".join(findings.contradictions[:3])
    assert not [status for status in findings.answers if status == 0 or status >= 500]
    assert findings.checks == set(CHECKS.get_all_names())
    assert findings.answers.total() >= least


@pytest.mark.timeout(600 * TIMES)
@pytest.mark.parametrize("name", CALLERS)
def test_every_answer_is_as_the_file_describes_it(patient_gateway: Gateway, busy_worker: Worker, name: str) -> None:
    load_all_checks()
    caller = CALLERS[name]
    document = patient_gateway.get("/openapi.json", by=None).json()
    come_home(document, caller)
    phases = {
        "examples": {"enabled": True},
        "coverage": {"enabled": caller.borders},
        "fuzzing": {"generation": {"max-examples": caller.examples * TIMES}} if caller.examples else {"enabled": False},
    }

    findings = explore(patient_gateway, document, configured(caller.token, phases))

    hold(findings, least=caller.requests)


@pytest.mark.timeout(600 * TIMES)
def test_an_incident_is_opened_talked_about_and_closed_as_the_file_links_it(
    patient_gateway: Gateway, busy_worker: Worker
) -> None:
    load_all_checks()
    document = patient_gateway.get("/openapi.json", by=None).json()
    come_home(document, CALLERS["an owner"])
    stay_with_incidents(document)
    generation = {"mode": "positive", "max-examples": STORIES * TIMES}
    stories = {"max-steps": STEPS, "inference": {"algorithms": []}, "link-calibration": False, "generation": generation}

    findings = explore(patient_gateway, document, configured("dev-own", {"stateful": stories}))

    hold(findings, least=STORY_REQUESTS)
    assert findings.done == LIFE


def test_there_are_five_thousand_cases_at_least() -> None:
    assert sum(caller.requests for caller in CALLERS.values()) + STORY_REQUESTS >= 5_000
