"""From a request to a command, and from its end to an answer.

A wrong shape is told only to callers who may see the incident that it is about; that costs one read, on that path
only. Everything that depends on data is for the worker to decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import ValidationError

from gateway.api.context import RequestContext
from gateway.http.parsing import (
    DEFAULT_WAIT_SECONDS,
    digest_of,
    expected_version,
    idempotency_key,
    if_match,
    object_of,
)
from gateway.http.responses import HttpResponse, encode_json, error_answer, json_response, raw_json, wants_problem
from gateway.ledger.acceptance import Accepted, Key, Submission
from gateway.ledger.outcomes import Outcome
from models.alert_rules.alert_rule import AlertRule
from models.base import new_id
from models.enums import JSON, CallerKind, CommandState, Lane
from models.messaging.command_ledger import NewCommand
from models.policy import ProjectFacts, require_person, require_project_access, require_service
from models.refusals import InvalidFields, NotFound, Refusal
from models.serializers import command_json
from tasks.commands.base import Command
from tasks.commands.catalog import CATALOG, CatalogEntry
from tasks.commands.fields import errors_by_field

Reach = Callable[[RequestContext], Awaitable[object]]
"""Steps 10 and 11 of an address: it raises what they answer."""

NOT_WAITING: Final = 0
NOTHING: Final[Mapping[str, JSON]] = MappingProxyType({})


def anything(_command: Command) -> None:
    """An address that asks nothing more of a command."""


async def anywhere() -> None:
    """An address beneath which nothing has to be."""


async def ask(
    visit: RequestContext,
    message: type[Command],
    *,
    incident: int | None = None,
    in_address: Mapping[str, JSON] = NOTHING,
    has_body: bool = True,
    body_as: str | None = None,
    require: Callable[[Any], None] = anything,
    reach: Reach | None = None,
) -> HttpResponse:
    """Ask for what the body says; the answer is the command's outcome, or 202 if that takes longer than they wait.

    ``in_address`` are fields that the address gives beside the ``incident``; without ``has_body`` they are all there
    is, whatever was sent. ``body_as`` is the field that the whole body is, where it is one. ``require`` is what this
    address asks of a command whose shape is right, ``reach`` whether the caller reaches what the address names.

    :raises Refusal: it is refused before it is accepted.
    """
    entry = CATALOG[message.name]
    given = dict(in_address) if incident is None else {**in_address, "incident": incident}
    try:
        key = idempotency_key(visit.headers)
        condition = if_match(visit.headers)
        body = await visit.json()
        command = checked(message, _fields_of(body, message, body_as) | given if has_body else given)
        require(command)
        require_right_to_author(visit, entry)
    except Refusal:
        if incident is not None:
            await require_incident(visit, incident)
        if reach is not None:
            await reach(visit)
        # Whoever may not ask at all is told that, and not what is wrong with what they ask.
        require_right_to_author(visit, entry)
        raise
    row = new_row(visit, entry, command, lane=Lane.COMMANDS)
    if entry.is_conditional:
        row = row._replace(expected_version=expected_version(condition))
    keys = () if key is None else (Key(key, request_digest(visit, condition, body), (0,)),)
    accepted, ended = await accept(visit, Submission((row,), keys), patience=DEFAULT_WAIT_SECONDS)
    return _answer(visit, accepted[0], None if ended is None else ended[accepted[0].id])


async def accept(
    visit: RequestContext, application: Submission, *, patience: int
) -> tuple[tuple[Accepted, ...], dict[UUID, Outcome] | None]:
    """Accept commands and wait for their ends, ``patience`` seconds unless the caller says otherwise.

    :raises Refusal: none of them is accepted.
    """
    services = visit.services
    services.rate_limiter.acquire(visit.caller.caller_key, len(application.rows))
    seconds = visit.preference.seconds(default=patience)
    if seconds <= NOT_WAITING:
        accepted = await services.acceptance.accept(application, deadline=visit.deadline)
        _count(visit, accepted)
        return accepted, None
    # Expected before they are accepted: a worker may be faster than we are.
    with services.outcomes.expect(row.id for row in application.rows) as wait:
        accepted = await services.acceptance.accept(application, deadline=visit.deadline)
        _count(visit, accepted)
        if wait.ids.issuperset(each.id for each in accepted):
            return accepted, await wait.outcomes(seconds=seconds)
    with services.outcomes.expect(each.id for each in accepted) as wait:
        services.outcomes.look(wait.ids)
        return accepted, await wait.outcomes(seconds=seconds)


# --- before acceptance -----------------------------------------------------------------------------------------


def _fields_of(body: JSON, message: type[Command], body_as: str | None) -> dict[str, JSON]:
    sent = object_of(body, whole=message.object_errors_key)
    if body_as is not None:
        return {body_as: sent}
    return {name: value for name, value in sent.items() if name not in message.path_fields}


def checked(message: type[Command], fields: Mapping[str, JSON], context: Mapping[str, bool] | None = None) -> Command:
    """The command, if its fields have the right shape; ``context`` says how strictly its parts are read.

    :raises InvalidFields: they have not; each is named.
    """
    try:
        return message.model_validate(fields, context=dict(context or {}))
    except ValidationError as error:
        raise InvalidFields(errors_by_field(error, object_errors_key=message.object_errors_key)) from None


def require_right_to_author(visit: RequestContext, entry: CatalogEntry) -> None:
    """Writes are for people, and for programs where the command is marked for them, for them alone or for both.

    :raises Forbidden: the caller is a key, or a program that acts for nobody; or only such a program may ask.
    """
    if not entry.for_people:
        require_service(visit.actor)
    elif not (entry.for_services and visit.actor.kind is CallerKind.SERVICE):
        require_person(visit.actor)


async def require_incident(visit: RequestContext, number: int) -> None:
    """Steps 10 and 11.

    :raises NotFound: the organization has no incident of this number.
    :raises Forbidden: the caller reaches none of its projects.
    """
    projects = await visit.services.queries.incident_projects(visit.organization.id, number)
    require_project_access(visit.actor, visit.organization, projects)


async def require_rule(visit: RequestContext) -> AlertRule:
    """Steps 10 and 11 of a rule's address: the rule, in the organization or among a project's.

    :raises NotFound: there is none of this id, or no such project.
    :raises Forbidden: the caller reaches none of its projects, or not the project named.
    """
    organization, rules = visit.organization, visit.services.rules
    project = await rules.project(organization.id, visit.project_slug()) if "project" in visit.parameters else None
    rule, projects = await rules.rule(organization.id, visit.row_id("rule"))
    if project is not None and project.id not in rule.projects:
        raise NotFound
    require_project_access(visit.actor, organization, projects if project is None else [project])
    return rule


async def require_project(visit: RequestContext) -> ProjectFacts:
    """Steps 10 and 11 of a project's address.

    :raises NotFound: there is no such project in use.
    :raises Forbidden: the caller does not reach it.
    """
    project = await visit.services.rules.project(visit.organization.id, visit.project_slug())
    require_project_access(visit.actor, visit.organization, [project])
    return project


def new_row(visit: RequestContext, entry: CatalogEntry, command: Command, *, lane: Lane) -> NewCommand:
    """The command as a row of the ledger."""
    organization = visit.organization.id
    user = visit.actor.user_id
    return NewCommand(
        id=new_id(),
        type=command.name,
        subject=str(entry.subject_of(command, organization, user)),
        lane=lane,
        organization_id=organization,
        token_id=visit.caller.token_id,
        user_id=user,
        caller=visit.caller.caller_key,
        payload=command.to_payload(),
        request_id=visit.record.trace.request_id,
        traceparent=visit.record.trace.traceparent,
    )


def request_digest(visit: RequestContext, condition: str | None, body: JSON) -> str:
    """What makes two requests the same: method, path, Act-As, If-Match and JSON value."""
    return digest_of(visit.method, visit.path, visit.act_as, condition, body)


# --- after acceptance ------------------------------------------------------------------------------------------


def command_headers(visit: RequestContext, accepted: Iterable[Accepted]) -> dict[str, str]:
    """What every answer of accepted commands says; a single command is named."""
    commands = list(accepted)
    headers = {}
    if len(commands) == 1:
        headers["Command-Id"] = str(commands[0].id)
    if all(command.is_replay for command in commands):
        headers["Idempotent-Replayed"] = "true"
    if applied := visit.preference.applied:
        headers["Preference-Applied"] = applied
    return headers


def waiting_headers(accepted: Iterable[Accepted]) -> dict[str, str]:
    """What a 202 says beside that: where the outcome will be, and when to look."""
    commands = list(accepted)
    headers = {"Retry-After": "1"}
    if len(commands) == 1:
        headers["Location"] = f"/api/0/commands/{commands[0].id}/"
    return headers


def accepted_resource(visit: RequestContext, accepted: Accepted) -> dict[str, JSON]:
    """The command resource as of acceptance."""
    row = {
        "id": accepted.id,
        "type": accepted.type,
        "state": CommandState.ACCEPTED,
        "accepted_at": accepted.accepted_at,
        "finished_at": None,
        "attempts": 0,
        "outcome_status": None,
        "outcome_body": None,
        "error": None,
    }
    return command_json(row, organization=visit.organization.slug)


def ended_resource(visit: RequestContext, outcome: Outcome) -> dict[str, JSON]:
    """The command resource of a command that has ended."""
    row = outcome._asdict() | {"outcome_status": outcome.status, "outcome_body": raw_json(outcome.body)}
    return command_json(row, organization=visit.organization.slug)


def _answer(visit: RequestContext, accepted: Accepted, outcome: Outcome | None) -> HttpResponse:
    headers = command_headers(visit, [accepted])
    if outcome is None:
        return json_response(202, accepted_resource(visit, accepted), headers | waiting_headers([accepted]))
    problem = wants_problem(visit.headers.joined(b"accept"))
    if outcome.status is None:
        # Dead: a fault outlived its retries. The command's id leads ops to it.
        return error_answer(500, {"detail": "Internal Error", "errorId": str(outcome.id)}, headers, problem=problem)
    if outcome.body is None:
        return HttpResponse(outcome.status, headers=headers)
    if outcome.status >= 400:
        return error_answer(outcome.status, orjson.loads(outcome.body), headers, problem=problem)
    return HttpResponse(outcome.status, encode_json(raw_json(outcome.body)), headers)


def _count(visit: RequestContext, accepted: Sequence[Accepted]) -> None:
    visit.record.command_ids += [each.id for each in accepted]
    visit.services.metrics.count_accepted(Counter(each.type for each in accepted if not each.is_replay))
