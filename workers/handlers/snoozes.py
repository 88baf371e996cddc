"""Keeping an alert rule silent, and letting it speak again."""

from __future__ import annotations

from models.alert_rules.alert_rule import AlertRule, Snooze
from models.alert_rules.serializers import snooze_json
from models.refusals import Gone, ListRefusal, NotFound
from tasks.commands.snoozes import SnoozeRule, UnsnoozeRule
from workers.batch.context import CommandContext, CommandResult
from workers.domain.alert_rules import check_project_access, check_rule_access, require_project


def snooze_rule(command: SnoozeRule, context: CommandContext) -> CommandResult:
    """Keep the rule silent; once for each person, and once for everyone."""
    rule, author = _rule(command, context), context.author
    user = author.id if command.target == "me" else None
    if any(
        each.user_id == user and each.is_active(context.accepted_at)
        for each in context.facts.rules.snoozes.get(rule.id, ())
    ):
        raise Gone("RuleSnooze already exists for this rule and scope.")

    _forget(rule, user, context)
    snooze = Snooze(rule.id, user, author.id, command.until, context.accepted_at)
    context.facts.rules.snooze(snooze)
    context.changes.rules.snoozes[rule.id, user] = snooze
    return CommandResult(201, snooze_json(snooze))


def unsnooze_rule(command: UnsnoozeRule, context: CommandContext) -> CommandResult:
    """Let the rule speak again: to the person, to everyone, or both."""
    rule, author = _rule(command, context), context.author
    scopes: dict[str | None, set[int | None]] = {"me": {author.id}, "everyone": {None}, None: {author.id, None}}
    standing = context.facts.rules.snoozes.get(rule.id, ())
    ended = {
        each.user_id
        for each in standing
        if each.user_id in scopes[command.target] and each.is_active(context.accepted_at)
    }
    if not ended:
        raise NotFound

    for user in ended:
        _forget(rule, user, context)
    return CommandResult(204)


def _rule(command: SnoozeRule | UnsnoozeRule, context: CommandContext) -> AlertRule:
    rule = context.facts.rules.find_rule(context.organization.id, command.alert_rule)
    if command.in_project is not None:
        project = require_project(command.in_project, context)
        check_project_access(project, context)
        rule = rule if rule is not None and project.facts.id in rule.projects else None
    if rule is None:
        raise ListRefusal("Rule does not exist")
    check_rule_access(rule, context)
    return rule


def _forget(rule: AlertRule, user: int | None, context: CommandContext) -> None:
    """Take away whatever snooze there is, in force or over."""
    context.facts.rules.unsnooze(rule.id, user)
    context.changes.rules.snoozes.pop((rule.id, user), None)
    context.changes.rules.ended_snoozes.add((rule.id, user))
