"""Handlers that snooze an alert rule, for one person or for everyone, and that end snoozes."""

from __future__ import annotations

from models.alert_rules.alert_rule import AlertRule, Snooze
from models.alert_rules.serializers import snooze_json
from models.refusals import Gone, ListRefusal, NotFound
from tasks.commands.snoozes import SnoozeRule, UnsnoozeRule
from workers.batch import needs
from workers.batch.context import CommandContext, CommandResult
from workers.batch.handler import handles
from workers.domain.alert_rules import check_project_access, check_rule_access, require_project


@handles(SnoozeRule, needs.rule, needs.project_of_path)
def snooze_rule(command: SnoozeRule, context: CommandContext) -> CommandResult:
    """Snooze a rule for the author or for everyone.

    :raises Gone: if the author's snooze or the one for everyone, whichever is requested, is already in force.
    """
    rule, author = _require_rule(command, context), context.author
    user = author.id if command.target == "me" else None
    if any(
        each.user_id == user and each.is_active(context.accepted_at)
        for each in context.facts.rules.snoozes.get(rule.id, ())
    ):
        raise Gone("RuleSnooze already exists for this rule and scope.")

    _remove_snooze(rule, user, context)
    snooze = Snooze(rule.id, user, author.id, command.until, context.accepted_at)
    context.facts.rules.snooze(snooze)
    context.changes.rules.snoozes[rule.id, user] = snooze
    return CommandResult(201, snooze_json(snooze))


@handles(UnsnoozeRule, needs.rule, needs.project_of_path)
def unsnooze_rule(command: UnsnoozeRule, context: CommandContext) -> CommandResult:
    """End a rule's snoozes: the author's, the one for everyone, or both.

    :raises NotFound: if none of them is in force.
    """
    rule, author = _require_rule(command, context), context.author
    scopes: dict[str | None, set[int | None]] = {"me": {author.id}, "everyone": {None}, None: {author.id, None}}
    snoozes = context.facts.rules.snoozes.get(rule.id, ())
    ended = {
        each.user_id
        for each in snoozes
        if each.user_id in scopes[command.target] and each.is_active(context.accepted_at)
    }
    if not ended:
        raise NotFound

    for user in ended:
        _remove_snooze(rule, user, context)
    return CommandResult(204)


def _require_rule(command: SnoozeRule | UnsnoozeRule, context: CommandContext) -> AlertRule:
    rule = context.facts.rules.find_rule(context.organization.id, command.alert_rule)
    if command.in_project is not None:
        project = require_project(command.in_project, context)
        check_project_access(project, context)
        rule = rule if rule is not None and project.facts.id in rule.projects else None
    if rule is None:
        raise ListRefusal("Rule does not exist")
    check_rule_access(rule, context)
    return rule


def _remove_snooze(rule: AlertRule, user: int | None, context: CommandContext) -> None:
    """Remove a user's snooze or, if ``user`` is ``None``, the one for everyone, whether or not it is still in force."""
    context.facts.rules.unsnooze(rule.id, user)
    context.changes.rules.snoozes.pop((rule.id, user), None)
    context.changes.rules.ended_snoozes.add((rule.id, user))
