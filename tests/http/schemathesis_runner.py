"""Run schemathesis, which generates requests from the OpenAPI document and checks every response against it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final
from zlib import crc32

import schemathesis
from hypothesis import strategies
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import Failure
from schemathesis.engine import events, from_schema

from gateway.http.pagination import Cursor
from models.notifications import network_guard
from models.operations.holds import NOT_IN_THE_FUTURE
from tasks.commands.fields import IN_THE_FUTURE, IN_THE_PAST
from tasks.commands.incidents import ONLY_FOR_SERVICES, RULE_AND_KEY
from tasks.commands.preferences import EMPTY_QUIET_HOURS
from tests.http.fuzz_settings import SEED
from tests.http.gateway_server import Gateway

# Headers that the server adds to every response.
SERVER_HEADERS: Final = {"content-length", "content-type", "date", "server", "x-request-id"}

# Field errors that depend on who sends the request and when, not on its shape, or on a URL's parts.
CIRCUMSTANTIAL: Final = frozenset(
    {
        ONLY_FOR_SERVICES,
        IN_THE_FUTURE,
        IN_THE_PAST,
        NOT_IN_THE_FUTURE,
        EMPTY_QUIET_HOURS,
        # schemathesis does not always respect `not` in the items of a bulk request.
        RULE_AND_KEY,
        *network_guard.URL_ERRORS,
    }
)

PHASES: Final = ("examples", "coverage", "fuzzing", "stateful")

# Cursors are opaque. Those for the two ends are valid in every list.
schemathesis.openapi.format("cursor", strategies.sampled_from([Cursor().encode(), Cursor(backwards=True).encode()]))


@schemathesis.check
def described_headers(_: Any, response: Any, case: Any) -> None:
    """Check that every header of a response is documented for the response's status."""
    if response.request.method != case.operation.method.upper():
        return
    described = case.operation.definition.raw["responses"].get(str(response.status_code), {}).get("headers", {})
    extra = set(response.headers) - {name.lower() for name in described} - SERVER_HEADERS - {"allow"}
    assert not extra, f"{response.status_code} has undocumented headers: {sorted(extra)}"


@schemathesis.hook
def before_call(_: Any, case: Any, sent: dict[str, Any]) -> None:
    """Set a unique idempotency key on most requests, because a reused key hides everything else about a request."""
    # Otherwise requests reads proxies from the environment every time, which takes a seventh of the run time.
    sent["proxies"] = {"no_proxy": "127.0.0.1"}
    keep_rows(case)
    key = (case.headers or {}).get("Idempotency-Key")
    if getattr(case.meta.phase.data, "parameter_location", None) == "header":
        return
    digest = crc32(repr((case.method, case.formatted_path, case.query, case.body)).encode("utf-8", "replace"))
    if isinstance(key, str) and re.fullmatch("[!-~]{1,240}", key) and digest % 8:
        case.headers["Idempotency-Key"] = f"{key}-{digest}"


load_all_checks()


@dataclass
class Findings:
    """The result of a run: response statuses by operation, and violations of the OpenAPI document."""

    statuses: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    checks: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)

    @property
    def status_counts(self) -> Counter[int]:
        """The number of responses by status; status 0 means that there was no response."""
        return sum(self.statuses.values(), Counter())

    @property
    def succeeded(self) -> set[str]:
        """The operations that succeeded at least once."""
        return {name for name, counted in self.statuses.items() if counted.keys() & {200, 201, 202, 204}}

    def record(self, event: Any) -> None:
        """Record an event of schemathesis."""
        if isinstance(event, events.NonFatalError):
            self.violations.append(str(event.info))
        if isinstance(event, events.FatalError):
            self.violations.append(str(event.exception))
        if isinstance(event, events.ScenarioFinished):
            for id_, each in event.recorder.interactions.items():
                name = event.recorder.cases[id_].value.operation.definition.raw.get("operationId", "")
                self.statuses[name][each.response.status_code if each.response else 0] += 1
            for id_, nodes in event.recorder.checks.items():
                self.checks |= {node.name for node in nodes}
                for node in nodes:
                    if node.failure_info is not None:
                        response = event.recorder.interactions[id_].response
                        received = (
                            "nothing" if response is None else f"{response.status_code} {response.content[:500]!r}"
                        )
                        problem = f"{node.name}: {node.failure_info.failure}\nreceived {received}"
                        self.violations.append(f"{event.label}: {problem}\n{node.failure_info.code_sample}")

    def assert_valid(self, *, min_requests: int) -> None:
        """Assert that every check ran and none failed, no response is a 5xx, and enough requests were sent."""
        assert not self.violations, "\n\n".join(self.violations[:3])
        assert not [status for status in self.status_counts if status == 0 or status >= 500]
        assert self.checks == set(CHECKS.get_all_names())
        assert self.status_counts.total() >= min_requests


def make_config(
    token: str,
    phases: dict[str, dict[str, Any]],
    known: dict[str, list[Any]],
    operations: list[dict[str, Any]],
    *,
    seed: int = SEED,
) -> SchemathesisConfig:
    """Build a configuration.

    ``known`` holds values that exist, by their location in a request. ``operations`` holds settings for single
    operations, whose ``parameters`` are known values as well.
    """
    off = {name: {"enabled": False} for name in PHASES}
    # Data from responses and error texts would make every run different.
    alone = {"extra-data-sources": {"responses": False}}
    used = {name: alone | ({"error-feedback": {"enabled": False}} if name == "fuzzing" else {}) for name in PHASES}
    used["stateful"] = {}
    # Refusals that depend on stored state and not on the request's shape: a stale version, a used idempotency
    # key, an existing snooze.
    taken = ["2xx", "304", "401", "403", "404", "409", "410", "412", "422", "429"]
    dictionaries: dict[str, Any] = {}

    def bound(values: dict[str, list[Any]], owner: str = "") -> dict[str, Any]:
        names = {part: f"{owner} {part}" for part in values}
        dictionaries.update({names[part]: {"values": each} for part, each in values.items()})
        return {part: {"dictionary": name, "probability": 0.9} for part, name in names.items()}

    return SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "headers": {"Authorization": f"Bearer {token}"},
            "continue-on-failure": True,
            # Examples remembered from earlier runs would, too.
            "cache": {"enabled": False},
            "warnings": False,
            "request-timeout": 60,
            "output": {"sanitization": {"enabled": False}},
            "checks": {"positive_data_acceptance": {"expected-statuses": taken}},
            "dictionaries": dictionaries,
            "parameters": bound(known),
            "operations": [
                each | {"parameters": bound(each.get("parameters", {}), str(index))}
                for index, each in enumerate(operations)
            ],
            "generation": {"database": "none", "no-shrink": True},
            "phases": off | {name: used[name] | each for name, each in phases.items()},
        }
    )


def run_schemathesis(gateway: Gateway, document: Any, config: SchemathesisConfig, findings: Findings) -> None:
    """Run all configured phases sequentially and record their events."""
    schema = schemathesis.openapi.from_dict(document, config=config)
    schema.config.update(base_url=gateway.url)
    schema.hook(filter_failure)
    for event in from_schema(schema).execute():
        findings.record(event)


def keep_rows(case: Any) -> None:
    """Keep a generated directory from renaming the rows on which later requests rely: none has such a great id."""
    if case.operation.label != "PUT /api/0/directory/" or not isinstance(case.body, dict):
        return
    for objects in case.body.values():
        for each in objects if isinstance(objects, list) else ():
            if isinstance(each, dict) and type(each.get("id")) is int and 0 < each["id"] < 10**9:
                each["id"] += 10**9


def filter_failure(_: Any, failure: Failure, case: Any, response: Any) -> bool:
    """Return whether a failure counts. Violations of constraints that JSON Schema cannot express do not count."""
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    # A request that became a command was valid, whatever its outcome.
    if "command-id" in response.headers:
        return False
    # Objects in a directory document refer to each other.
    if case.operation.label == "PUT /api/0/directory/":
        return False
    # A rule's fields must be consistent: the order of the thresholds, the dataset for the query type.
    return not _is_beyond_schema(response.json())


def _is_beyond_schema(body: Any) -> bool:
    if not isinstance(body, dict):
        return False
    # In a list of commands each item must be refused for such a reason.
    if body.keys() == {"commands"} and isinstance(body["commands"], dict):
        return all(_is_beyond_schema(each) for each in body["commands"].values())
    return body.keys() in ({"nonFieldErrors"}, {"non_field_errors"}) or all(
        isinstance(texts, list) and all(each in CIRCUMSTANTIAL for each in texts) for texts in body.values()
    )
