"""schemathesis at work: it makes requests of the OpenAPI file and holds every answer against it."""

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
from tests.http.fuzz_settings import SEED
from tests.http.gateway_server import Gateway

# What the server says of every answer, whatever it is about.
SERVER_HEADERS: Final = {"content-length", "content-type", "date", "server"}

PHASES: Final = ("examples", "coverage", "fuzzing", "stateful")

# Cursors are opaque; the two ends are places in every list.
schemathesis.openapi.format("cursor", strategies.sampled_from([Cursor().text(), Cursor(backwards=True).text()]))


@schemathesis.check
def described_headers(_: Any, response: Any, case: Any) -> None:
    """Every header of an answer is described for its status."""
    if response.request.method != case.operation.method.upper():
        return
    described = case.operation.definition.raw["responses"].get(str(response.status_code), {}).get("headers", {})
    extra = set(response.headers) - {name.lower() for name in described} - SERVER_HEADERS - {"allow"}
    assert not extra, f"{response.status_code} has headers that are not described: {sorted(extra)}"


@schemathesis.hook
def before_call(_: Any, case: Any, sent: dict[str, Any]) -> None:
    """Give most requests a key of their own: one that is taken lets nothing else of a request be looked at."""
    # Else requests looks for proxies in the environment, each time: a seventh of all the work.
    sent["proxies"] = {"no_proxy": "127.0.0.1"}
    key = (case.headers or {}).get("Idempotency-Key")
    if getattr(case.meta.phase.data, "parameter_location", None) == "header":
        return
    asked = crc32(repr((case.method, case.formatted_path, case.query, case.body)).encode("utf-8", "replace"))
    if isinstance(key, str) and re.fullmatch("[!-~]{1,240}", key) and asked % 8:
        case.headers["Idempotency-Key"] = f"{key}-{asked}"


load_all_checks()


@dataclass
class Findings:
    """What a run came to: the statuses of its requests, by operation, and what contradicts the file."""

    statuses: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    checks: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)

    @property
    def status_counts(self) -> Counter[int]:
        """How often each status came; 0 is no answer."""
        return sum(self.statuses.values(), Counter())

    @property
    def succeeded(self) -> set[str]:
        """The operations that came to a good end at least once."""
        return {name for name, counted in self.statuses.items() if counted.keys() & {200, 201, 202, 204}}

    def record(self, event: Any) -> None:
        """Take in what schemathesis tells."""
        if isinstance(event, events.NonFatalError | events.FatalError):
            self.violations.append(str(getattr(event, "info", None) or event.exception))
        if isinstance(event, events.ScenarioFinished):
            for id_, each in event.recorder.interactions.items():
                name = event.recorder.cases[id_].value.operation.definition.raw.get("operationId", "")
                self.statuses[name][each.response.status_code if each.response else 0] += 1
            for id_, nodes in event.recorder.checks.items():
                self.checks |= {node.name for node in nodes}
                for node in nodes:
                    if node.failure_info is not None:
                        answer = event.recorder.interactions[id_].response
                        said = "nothing" if answer is None else f"{answer.status_code} {answer.content[:500]!r}"
                        about = f"{node.name}: {node.failure_info.failure}\nwas answered {said}"
                        self.violations.append(f"{event.label}: {about}\n{node.failure_info.code_sample}")

    def assert_valid(self, *, least: int) -> None:
        """The file was true in every answer, by every check there is, and no answer was a fault."""
        assert not self.violations, "\n\n".join(self.violations[:3])
        assert not [status for status in self.status_counts if status == 0 or status >= 500]
        assert self.checks == set(CHECKS.get_all_names())
        assert self.status_counts.total() >= least


def make_config(
    token: str,
    phases: dict[str, dict[str, Any]],
    known: dict[str, list[Any]],
    operations: list[dict[str, Any]],
    *,
    seed: int = SEED,
) -> SchemathesisConfig:
    """``known`` are values that exist, by the part of a request that names them; ``operations`` is what holds for some.

    Their ``parameters`` are known values, too.
    """
    off = {name: {"enabled": False} for name in PHASES}
    # What answers brought, and how errors were worded, would make each run another.
    alone = {"extra-data-sources": {"responses": False}}
    used = {name: alone | ({"error-feedback": {"enabled": False}} if name == "fuzzing" else {}) for name in PHASES}
    used["stateful"] = {}
    # Refusals that follow from what is stored, not from the request's shape: a version that is not the current one,
    # a key that another request took, silence that holds already.
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
            # So would what it remembers of earlier ones.
            "cache": {"enabled": False},
            "warnings": False,
            "request-timeout": 60,
            "output": {"sanitization": {"enabled": False}},
            "checks": {"positive_data_acceptance": {"expected-statuses": taken}},
            "dictionaries": dictionaries,
            "parameters": bound(known),
            "operations": [
                each | {"parameters": bound(each.get("parameters", {}), str(place))}
                for place, each in enumerate(operations)
            ],
            "generation": {"database": "none", "no-shrink": True},
            "phases": off | {name: used[name] | each for name, each in phases.items()},
        }
    )


def run_schemathesis(gateway: Gateway, document: Any, config: SchemathesisConfig, findings: Findings) -> None:
    """Everything that the phases have, one request after the other."""
    schema = schemathesis.openapi.from_dict(document, config=config)
    schema.config.update(base_url=gateway.url)
    schema.hook(filter_failure)
    for event in from_schema(schema).execute():
        findings.record(event)


def filter_failure(_: Any, failure: Failure, case: Any, response: Any) -> bool:
    """Whether it is one: what no JSON Schema can say is no contradiction of it."""
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    # A request that became a command was well-formed, whatever the worker said of it then.
    if "command-id" in response.headers:
        return False
    # Rows of the directory lean on each other.
    if case.operation.label == "PUT /api/0/directory/":
        return False
    # What a rule's fields say has to fit together: thresholds in their order, data to the kind of query.
    return not _is_object_error(response.json())


def _is_object_error(body: Any) -> bool:
    # In a list of commands the first of those that fit is named as well; each must be refused as a whole.
    if isinstance(body, dict) and body.keys() == {"commands"} and isinstance(body["commands"], dict):
        return all(_is_object_error(each) for each in body["commands"].values())
    return isinstance(body, dict) and body.keys() == {"nonFieldErrors"}
