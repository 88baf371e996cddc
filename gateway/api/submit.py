"""Command submission: the steps from a request to a command in the ledger, and the wait for its outcome.

The response is built in :mod:`gateway.api.command_response`. Only the command's form and the caller's right to submit
it are checked here. The worker decides everything that depends on the state of incidents and rules.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from pydantic import ValidationError

from gateway.api.access import require_incident
from gateway.api.command_response import command_response, refusals_of_replays
from gateway.api.context import RequestContext
from gateway.http.json_digest import json_digest
from gateway.http.parsing import (
    expected_versions,
    parse_idempotency_key,
    parse_if_match,
    require_object,
)
from gateway.http.prefer import DEFAULT_WAIT_SECONDS
from gateway.http.responses import HttpResponse
from gateway.ledger.outcomes import Outcome, OutcomeWait
from gateway.ledger.submission import AcceptedCommand, IdempotencyKey, Submission
from models.base import new_id
from models.enums import Lane
from models.messaging.command_ledger import NewCommand
from models.policy import require_may_submit
from models.refusals import InvalidFields, Refusal, Unavailable
from models.types import JSON
from tasks.commands.base import EXPECTED_VERSIONS, Command
from tasks.commands.catalog import CATALOG, CatalogEntry, CommandSubmission
from tasks.commands.chat_destinations import ChatUrlCommand
from tasks.commands.fields import errors_by_field
from tasks.commands.rule_fields import STRICT_CONTEXT, ValidationContext, collecting_context
from tasks.commands.webhooks import SecretCommand

CompleteOutcome = Callable[[RequestContext, Outcome], Awaitable[Outcome]]
"""A function that adds to an outcome what only the endpoint's own response contains."""

AccessCheck = Callable[[RequestContext], Awaitable[object]]
"""A function that performs an endpoint's checks 10 and 11, and raises a refusal if one of them fails."""

NO_FIELDS: Final[Mapping[str, JSON]] = MappingProxyType({})


async def submit_command(
    context: RequestContext,
    command_class: type[Command],
    *,
    incident: int | None = None,
    path_fields: Mapping[str, JSON] = NO_FIELDS,
    replaced_fields: Collection[str] = (),
    has_body: bool = True,
    body_field: str | None = None,
    require: Callable[[Any], None] | None = None,
    check_access: AccessCheck | None = None,
    complete: CompleteOutcome | None = None,
) -> HttpResponse:
    """Submit the command that the request describes.

    Return the command's outcome, or 202 with the command if it is not finished within the caller's wait time.

    :param incident: the number of the incident in the path.
    :param path_fields: the command's other fields whose values come from the path.
    :param replaced_fields: the names of fields whose values in the body are not used, because the path replaces them.
    :param has_body: if false, the body is parsed but ignored, and the path determines every field.
    :param body_field: the name of the field whose value is the whole body. By default, the body is an object of fields.
    :param require: the endpoint's own check of the validated command, which raises a refusal if it fails.
    :param check_access: checks 10 and 11, if the path names something other than an incident.
    :param complete: adds to the outcome what neither the ledger nor the command's own endpoint may contain.
    :raises Refusal: if the command is not accepted.
    """
    entry = CATALOG[command_class.name]
    from_path = dict(path_fields) if incident is None else {**path_fields, "incident": incident}
    try:
        key = parse_idempotency_key(context.headers)
        condition = parse_if_match(context.headers)
        body = await context.json_body()
        from_body = _body_fields(body, command_class, body_field) if has_body else {}
        from_body = {name: value for name, value in from_body.items() if name not in replaced_fields}
        unknown = _unknown_fields(body, command_class, from_path, has_body=has_body, body_field=body_field)
        command = _validate_strictly_or_not(context, command_class, from_body | from_path, unknown)
        if require is not None:
            require(command)
        require_may_submit(context.actor, for_people=entry.for_people, for_services=entry.for_services)
        if errors := await find_forbidden_targets(context, [command]):
            raise InvalidFields(errors[0])
    except Refusal:
        # Only a caller with access may learn what is wrong with the request. For a valid request, the worker makes
        # these checks, so it costs no read here.
        if incident is not None:
            await require_incident(context, incident)
        if check_access is not None:
            await check_access(context)
        require_may_submit(context.actor, for_people=entry.for_people, for_services=entry.for_services)
        raise
    row = ledger_row(context, entry, command, lane=entry.lane)
    if entry.is_conditional:
        row = with_condition(row, expected_versions(condition))
    keys: tuple[IdempotencyKey, ...] = ()
    if key is not None:
        keys = (IdempotencyKey(key, request_digest(context, condition, await context.exact_json_body()), (0,)),)
    submission = Submission((row,), keys)
    accepted, outcomes = await accept_and_wait(context, submission, default_wait_seconds=DEFAULT_WAIT_SECONDS)
    outcome = None
    if outcomes is not None:
        for refusal in (await refusals_of_replays(context, accepted, outcomes)).values():
            raise refusal
        outcome = outcomes[accepted[0].id]
        if complete is not None:
            outcome = await complete(context, outcome)
    return command_response(context, accepted[0], outcome)


def _body_fields(body: JSON, command_class: type[Command], body_field: str | None) -> dict[str, JSON]:
    fields = require_object(body, errors_key=command_class.object_errors_key)
    if body_field is not None:
        return {body_field: fields}
    return {name: value for name, value in fields.items() if name not in command_class.path_fields}


def _unknown_fields(
    body: JSON, command_class: type[Command], from_path: Mapping[str, JSON], *, has_body: bool, body_field: str | None
) -> list[str]:
    """Return the names in the body that are ignored, because they are no fields or because the path sets their values.

    If the whole body is the value of one field, its names are examined with that value.
    """
    if not isinstance(body, dict) or body_field is not None:
        return []
    known = command_class.body_fields(frozenset(from_path)) if has_body else frozenset[str]()
    return [name for name in body if name not in known]


def _validate_strictly_or_not(
    context: RequestContext, command_class: type[Command], fields: Mapping[str, JSON], unknown: list[str]
) -> Command:
    """Return the command with these fields. ``unknown`` holds the names of other fields in the body.

    :raises InvalidFields: if a field is invalid or, if the caller prefers strict handling, if a field or a query
        parameter is unknown.
    """
    if not context.preference.is_strict:
        command = validate_command(context, command_class, fields, collecting_context(unknown))
        context.ignore_unknown(unknown)
        return command
    errors = context.errors_of_unknown(unknown)
    try:
        command = validate_command(context, command_class, fields, STRICT_CONTEXT)
    except InvalidFields as invalid:
        raise InvalidFields(invalid.body | errors) from None
    if errors:
        raise InvalidFields(errors)
    return command


def validate_command(
    context: RequestContext,
    command_class: type[Command],
    fields: Mapping[str, JSON],
    validation_context: ValidationContext | None = None,
) -> Command:
    """Return the command with these fields. ``validation_context`` says what unknown fields in nested objects are.

    :raises InvalidFields: if a field is invalid. The exception's body lists the errors by field.
    """
    try:
        command = command_class.model_validate(fields, context=dict(validation_context or {}))
    except ValidationError as error:
        raise InvalidFields(errors_by_field(error, object_errors_key=command_class.object_errors_key)) from None
    command.require_consistency()
    command.require_submittable(by=context.actor.kind, at=datetime.now(UTC))
    return command


async def find_forbidden_targets(
    context: RequestContext, commands: Sequence[Command]
) -> dict[int, dict[str, list[str]]]:
    """Return the field errors of the commands whose URLs tocsin may not connect to, by index.

    The time that this takes is added to the request's deadline.
    """
    urls = {index: url for index, each in enumerate(commands) if (url := each.target_url) is not None}
    if not urls:
        return {}
    started = time.monotonic()
    forbidden = await context.container.target_checker.find_forbidden(urls.values())
    context.deadline += time.monotonic() - started
    return {index: {"url": [forbidden[url]]} for index, url in urls.items() if url in forbidden}


def ledger_row(context: RequestContext, entry: CatalogEntry, command: Command, *, lane: Lane) -> NewCommand:
    """Return the command as a row for the ledger."""
    if isinstance(command, SecretCommand):
        command = command.with_secret(context.container.secret_keeper.seal_new())
    if isinstance(command, ChatUrlCommand) and command.url is not None:
        command = command.with_sealed_url(context.container.url_keeper.seal(command.url))
    organization_id = _organization_of(context, entry)
    submission = CommandSubmission(organization_id or 0, context.actor.user_id, new_id())
    subject = entry.subject(command, submission)
    return NewCommand(
        id=submission.command_id,
        type=command.name,
        subject=str(subject),
        lane=lane,
        organization_id=organization_id,
        token_id=context.caller.token_id,
        user_id=submission.user_id,
        caller=context.caller.caller_key,
        payload=command.to_payload(),
        request_id=context.record.trace.request_id,
        traceparent=context.record.trace.traceparent,
        incident=subject.number,
        payload_version=command.payload_version,
    )


def _organization_of(context: RequestContext, entry: CatalogEntry) -> int | None:
    """Return the id of the organization in whose name the command is recorded, or ``None`` for a person's own.

    A personal command that a service submits is recorded for the service's organization, in which it acts.
    """
    if entry.is_personal and context.caller.organization is None:
        return context.actor.organization_id
    return context.organization.id


def with_condition(row: NewCommand, versions: Sequence[int] | None) -> NewCommand:
    """Return the row of a command that is applied only if its resource has one of the versions (``None``: any)."""
    if versions is None:
        return row
    if len(versions) == 1:
        return row._replace(expected_version=versions[0])
    payload = json.loads(row.payload) | {EXPECTED_VERSIONS: list(versions)}
    return row._replace(expected_version=max(versions), payload=json.dumps(payload))


def request_digest(context: RequestContext, condition: str | None, exact_body: JSON) -> str:
    """Return a digest of the method, path, ``Act-As``, ``If-Match`` and JSON body. Equal requests share a digest.

    ``exact_body`` comes from :meth:`RequestContext.exact_json_body`.
    """
    return json_digest(context.method, context.path, context.act_as, condition, exact_body)


async def accept_and_wait(
    context: RequestContext, submission: Submission, *, default_wait_seconds: int
) -> tuple[tuple[AcceptedCommand, ...], dict[UUID, Outcome] | None]:
    """Accept commands, then wait for their outcomes as long as the caller prefers, or for the default time.

    Return the accepted commands and their outcomes by command id, or ``None`` instead of the outcomes if any command
    is not finished in time, or is held: then the wait ends at once.

    :raises Refusal: if none of the commands is accepted.
    """
    container = context.container
    context.pay_for(len(submission.rows))
    seconds = context.preference.effective_wait_seconds(default=default_wait_seconds)
    if seconds <= 0:
        return await _with_holds(context, await _accept(context, submission)), None
    context.expect_wait(seconds)
    # The wait begins before acceptance, because a worker may finish a command before this coroutine continues.
    with container.outcomes.expect(row.id for row in submission.rows) as wait:
        accepted = await _accept(context, submission)
        if wait.ids.issuperset(each.id for each in accepted):
            return await _wait_for(context, wait, accepted, seconds)
    # Some commands are replays: an earlier request with the same key submitted them, with other ids.
    with container.outcomes.expect(each.id for each in accepted) as wait:
        container.outcomes.refresh(wait.ids)
        return await _wait_for(context, wait, accepted, seconds)


async def _wait_for(
    context: RequestContext, wait: OutcomeWait, accepted: tuple[AcceptedCommand, ...], seconds: float
) -> tuple[tuple[AcceptedCommand, ...], dict[UUID, Outcome] | None]:
    if context.container.outcomes.holds_exist:
        context.container.outcomes.refresh(wait.ids)
    outcomes = await wait.outcomes(seconds=seconds)
    if outcomes is None and wait.held:
        accepted = tuple(each._replace(held=wait.held.get(each.id)) for each in accepted)
    return accepted, outcomes


async def _with_holds(context: RequestContext, accepted: tuple[AcceptedCommand, ...]) -> tuple[AcceptedCommand, ...]:
    """Return the commands with the holds that keep them from being applied. Only while there are holds is it a query.

    Without the database, the commands are returned as they are: they have been accepted.
    """
    if not context.container.outcomes.holds_exist:
        return accepted
    try:
        held = await context.container.outcomes.find_held(each.id for each in accepted)
    except Unavailable:
        return accepted
    return tuple(each._replace(held=held.get(each.id)) for each in accepted)


async def _accept(context: RequestContext, submission: Submission) -> tuple[AcceptedCommand, ...]:
    accepted = await context.container.acceptor.accept(submission, deadline=context.deadline)
    _record(context, accepted)
    return accepted


def _record(context: RequestContext, accepted: Sequence[AcceptedCommand]) -> None:
    context.record.command_ids += [each.id for each in accepted]
    context.container.metrics.count_accepted(each.type for each in accepted if not each.is_replay)
