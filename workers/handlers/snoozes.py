"""Keeping an alert rule silent, and letting it speak again."""

from __future__ import annotations

from models.alert_rules.alert_rule import AlertRule, Snooze
from models.alert_rules.serializers import snooze_json
from models.refusals import Gone, ListRefusal, NotFound
from tasks.commands.snoozes import SnoozeRule, UnsnoozeRule
from workers.batch.context import Answer, Work
from workers.domain.alert_rules import project_at, require_access, require_project


def snooze_rule(ask: SnoozeRule, work: Work) -> Answer:
    """Keep the rule silent; once for each person, and once for everyone."""
    rule, author = _rule(ask, work), work.author
    user = author.id if ask.target == "me" else None
    if any(each.user_id == user and each.is_active(work.at) for each in work.world.rulebook.snoozes.get(rule.id, ())):
        raise Gone("RuleSnooze already exists for this rule and scope.")

    _forget(rule, user, work)
    snooze = Snooze(rule.id, user, author.id, ask.until, work.at)
    work.world.rulebook.hush(snooze)
    work.changes.rules.snoozed[rule.id, user] = snooze
    return Answer(201, snooze_json(snooze))


def unsnooze_rule(ask: UnsnoozeRule, work: Work) -> Answer:
    """Let the rule speak again: to the person, to everyone, or both."""
    rule, author = _rule(ask, work), work.author
    scopes: dict[str | None, set[int | None]] = {"me": {author.id}, "everyone": {None}, None: {author.id, None}}
    standing = work.world.rulebook.snoozes.get(rule.id, ())
    ended = {each.user_id for each in standing if each.user_id in scopes[ask.target] and each.is_active(work.at)}
    if not ended:
        raise NotFound

    for user in ended:
        _forget(rule, user, work)
    return Answer(204)


def _rule(ask: SnoozeRule | UnsnoozeRule, work: Work) -> AlertRule:
    rule = work.world.rulebook.rule(work.organization.id, ask.alert_rule)
    if ask.in_project is not None:
        project = project_at(ask.in_project, work)
        require_project(project, work)
        rule = rule if rule is not None and project.facts.id in rule.projects else None
    if rule is None:
        raise ListRefusal("Rule does not exist")
    require_access(rule, work)
    return rule


def _forget(rule: AlertRule, user: int | None, work: Work) -> None:
    """Take away whatever snooze there is, in force or over."""
    work.world.rulebook.wake(rule.id, user)
    work.changes.rules.snoozed.pop((rule.id, user), None)
    work.changes.rules.woken.add((rule.id, user))
