"""The needs that a handler can declare. Each is a function that adds facts to the batch's request.

The protocols name the fields that a need reads, so that the type checker compares a handler's command with its needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from models.alert_rules.enums import TargetType
from models.types import MAX_ID
from tasks.commands.fields import dedup_reference, identifier
from tasks.commands.notifications import ReadNotifications
from tasks.commands.observations import ObserveMetric
from tasks.commands.preferences import ReplacePreferences
from tasks.commands.rule_fields import ActionSpec
from tasks.commands.webhooks import Redeliver
from workers.batch.fact_request import FactRequest, InboxRequest, ObservedProject, PendingCommand

C = TypeVar("C")

Need = Callable[[FactRequest, PendingCommand[C]], None]
"""A function that adds to the request what one command needs."""


# --- incidents -------------------------------------------------------------------------------------------------


class _OnIncident(Protocol):
    @property
    def incident(self) -> str: ...


class _OnComment(Protocol):
    @property
    def id(self) -> int: ...


class _WithDedupKey(Protocol):
    @property
    def dedup_key(self) -> str | None: ...


class _WithMentions(Protocol):
    @property
    def mentions(self) -> Sequence[str | None] | None: ...


def incident(request: FactRequest, pending: PendingCommand[_OnIncident]) -> None:
    """Request the incident and its projects."""
    request.add_incident(pending.organization_id, pending.command.incident)


def incident_details(request: FactRequest, pending: PendingCommand[_OnIncident]) -> None:
    """Request the incident's viewers, and which of the batch's people are subscribed to it."""
    if pending.command.incident:
        request.detailed_incidents.add((pending.organization_id, pending.command.incident))


def incident_of_key(request: FactRequest, pending: PendingCommand[_WithDedupKey]) -> None:
    """Request the open incident with the command's deduplication key, in detail."""
    if key := pending.command.dedup_key:
        request.dedup_keys.add((pending.organization_id, key))
        request.detailed_incidents.add((pending.organization_id, dedup_reference(key)))


def closed_incident_of_key(request: FactRequest, pending: PendingCommand[_WithDedupKey]) -> None:
    """Request the latest closed incident with the command's deduplication key."""
    if key := pending.command.dedup_key:
        request.closed_keys.add((pending.organization_id, key))


def new_incident(request: FactRequest, pending: PendingCommand[object]) -> None:
    """Request a number in the organization, and ids for the new incident and a second activity."""
    request.opening_organization_ids.add(pending.organization_id)
    request.new_incident_ids += 1
    request.new_activity_ids += 1


def comment(request: FactRequest, pending: PendingCommand[_OnComment]) -> None:
    """Request the comment."""
    request.comment_ids.add(pending.command.id)


def mentions(request: FactRequest, pending: PendingCommand[_WithMentions]) -> None:
    """Request the people and teams that the command mentions."""
    for mention in pending.command.mentions or ():
        if mention:
            request.add_mention(mention)


def inbox(request: FactRequest, pending: PendingCommand[ReadNotifications]) -> None:
    """Request those of the person's unread inbox items that the command selects."""
    command, user_id, organization_id = pending.command, pending.row.user_id, pending.organization_id
    if user_id is None:
        return
    if command.incident is not None:
        request.add_incident(organization_id, command.incident)
    up_to = MAX_ID if command.all else command.up_to or 0
    request.inboxes.append(InboxRequest(user_id, organization_id, command.ids or (), up_to, command.incident))


def preferences(request: FactRequest, pending: PendingCommand[object]) -> None:
    """Request the person's preferences and muted incidents."""
    if pending.row.user_id is not None:
        request.preference_user_ids.add(pending.row.user_id)


def muted_incidents(request: FactRequest, pending: PendingCommand[ReplacePreferences]) -> None:
    """Request the incidents that the command names, as far as they exist, with what decides who may read them."""
    if pending.row.user_id is not None:
        named = pending.command.muted_incidents or ()
        request.muted_incident_ids.update((pending.row.user_id, id_) for id_ in named)


# --- projects --------------------------------------------------------------------------------------------------


class _WithProject(Protocol):
    @property
    def project(self) -> str | None: ...


class _WithDefaultProject(Protocol):
    @property
    def default_project(self) -> str | None: ...


class _WithProjects(Protocol):
    @property
    def projects(self) -> Sequence[str]: ...


class _InProject(Protocol):
    @property
    def in_project(self) -> str | None: ...


class _WithExcludedProjects(Protocol):
    @property
    def excluded_projects(self) -> Sequence[str]: ...


def project(request: FactRequest, pending: PendingCommand[_WithProject]) -> None:
    """Request the project, if any, that the command names."""
    if pending.command.project is not None:
        request.project_slugs.add((pending.organization_id, pending.command.project))


def default_project(request: FactRequest, pending: PendingCommand[_WithDefaultProject]) -> None:
    """Request the project, if any, that is to be used if the command names none."""
    if pending.command.default_project is not None:
        request.project_slugs.add((pending.organization_id, pending.command.default_project))


def projects(request: FactRequest, pending: PendingCommand[_WithProjects]) -> None:
    """Request the projects that the command names."""
    _add_projects(request, pending.organization_id, pending.command.projects)


def project_of_path(request: FactRequest, pending: PendingCommand[_InProject]) -> None:
    """Request the project in the endpoint's path, if the command was sent to a project's endpoint."""
    if pending.command.in_project is not None:
        request.project_slugs.add((pending.organization_id, pending.command.in_project))


def excluded_projects(request: FactRequest, pending: PendingCommand[_WithExcludedProjects]) -> None:
    """Request the projects that the command excludes."""
    _add_projects(request, pending.organization_id, pending.command.excluded_projects)


def _add_projects(request: FactRequest, organization_id: int, slugs: Iterable[str]) -> None:
    request.project_slugs.update((organization_id, slug) for slug in slugs)


# --- alert rules -----------------------------------------------------------------------------------------------


class _OnRule(Protocol):
    @property
    def alert_rule(self) -> int | None: ...


class _OnExistingRule(Protocol):
    @property
    def alert_rule(self) -> int: ...


class _WithOwner(Protocol):
    @property
    def owner(self) -> str | None: ...


class _DefinesActions(Protocol):
    @property
    def new_ids(self) -> int: ...
    @property
    def action_specs(self) -> Iterable[ActionSpec]: ...


def rule(request: FactRequest, pending: PendingCommand[_OnRule]) -> None:
    """Request the alert rule, if any, that the command names, with its projects and snoozes."""
    if pending.command.alert_rule is not None:
        request.add_rule(pending.command.alert_rule)


def rule_count(request: FactRequest, pending: PendingCommand[object]) -> None:
    """Request the number of the organization's live alert rules."""
    request.rule_count_organization_ids.add(pending.organization_id)


def rule_owner(request: FactRequest, pending: PendingCommand[_WithOwner]) -> None:
    """Request the person or team that is to own the rule."""
    if pending.command.owner is not None:
        request.add_mention(pending.command.owner)


def new_rule_ids(request: FactRequest, pending: PendingCommand[_DefinesActions]) -> None:
    """Request ids for the rules, triggers and actions that the command may create."""
    request.new_rule_ids += pending.command.new_ids


def action_targets(request: FactRequest, pending: PendingCommand[_DefinesActions]) -> None:
    """Request the people and teams that the command's actions are to notify."""
    for spec in pending.command.action_specs:
        if spec.target_type != TargetType.SPECIFIC and (target := identifier(spec.target_identifier)):
            (request.target_team_ids if spec.target_type == TargetType.TEAM else request.user_ids).add(target)


def incidents_of_rule(request: FactRequest, pending: PendingCommand[_OnExistingRule]) -> None:
    """Request the rule's open incidents, and the last generation in which it opened one."""
    request.ending_rule_ids.add(pending.command.alert_rule)


def action_recipients(request: FactRequest, pending: PendingCommand[object]) -> None:  # noqa: ARG001
    """Request the recipients of all actions of the batch's rules, and the trigger states in the rules' incidents."""
    request.action_recipients = True


def rule_progress(request: FactRequest, pending: PendingCommand[ObserveMetric]) -> None:
    """Request the observed rule's progress, and its open incidents on the project."""
    request.observed_projects.append(
        ObservedProject(pending.organization_id, pending.command.alert_rule, pending.command.project)
    )


# --- webhooks --------------------------------------------------------------------------------------------------


class _OnWebhook(Protocol):
    @property
    def id(self) -> int: ...


def webhook(request: FactRequest, pending: PendingCommand[_OnWebhook]) -> None:
    """Request the webhook that the command names."""
    if 0 < pending.command.id <= MAX_ID:
        request.webhook_ids.add(pending.command.id)


def new_webhook(request: FactRequest, pending: PendingCommand[object]) -> None:
    """Request the number of the organization's webhooks, and an id for a new one."""
    request.webhook_count_organization_ids.add(pending.organization_id)
    request.new_webhook_ids += 1


def webhook_delivery(request: FactRequest, pending: PendingCommand[Redeliver]) -> None:
    """Request the delivery that the command names."""
    request.webhook_delivery_ids.add(pending.command.delivery)


# --- chat destinations -----------------------------------------------------------------------------------------


class _WithUser(Protocol):
    @property
    def user(self) -> int | None: ...


def chat_destinations(request: FactRequest, pending: PendingCommand[object]) -> None:
    """Request the organization's chat destinations, whose names must differ."""
    request.chat_organization_ids.add(pending.organization_id)


def new_chat_destination(request: FactRequest, pending: PendingCommand[object]) -> None:
    """Request the organization's chat destinations, and an id for a new one."""
    chat_destinations(request, pending)
    request.new_chat_destination_ids += 1


def chat_person(request: FactRequest, pending: PendingCommand[_WithUser]) -> None:
    """Request the person whose own destination the command registers."""
    if (user := pending.command.user) is not None and 0 < user <= MAX_ID:
        request.user_ids.add(user)
