"""The thresholds of alert rules, and whom they tell: changed one by one, beside the body of the rule.

Another threshold is another rule as far as incidents are concerned: what the rule holds open ends. Who is told of it
may change without that.
"""

from __future__ import annotations

from collections.abc import Iterable

from models.alert_rules.alert_rule import Action, AlertRule, Trigger
from models.alert_rules.serializers import action_json, trigger_json
from models.refusals import ListRefusal, NotFound
from tasks.commands.triggers import (
    CreateAction,
    CreateTrigger,
    DeleteAction,
    DeleteTrigger,
    UpdateAction,
    UpdateTrigger,
)
from tasks.events import AlertRuleUpdated
from workers.batch.context import CommandContext, CommandResult
from workers.domain.alert_rules import (
    amend,
    build_action,
    build_trigger,
    check_thresholds,
    draft_of,
    emit_rule_event,
    redefine,
    require_rule,
    require_trigger,
)


def create_trigger(command: CreateTrigger, context: CommandContext) -> CommandResult:
    """Add a threshold."""
    rule = require_rule(command.alert_rule, context)
    trigger = build_trigger(command, None, draft_of(rule.definition), context)
    _replace(rule, [*rule.definition.triggers, trigger], context)
    return CommandResult(201, trigger_json(rule.id, rule.definition, trigger, context.facts.rule_references))


def update_trigger(command: UpdateTrigger, context: CommandContext) -> CommandResult:
    """Move a threshold, call it otherwise, or let it tell others."""
    rule = require_rule(command.alert_rule, context)
    standing = require_trigger(rule, command.id)
    trigger = build_trigger(command, standing, draft_of(rule.definition), context)
    _replace(rule, [*_others(rule, standing), trigger], context)
    return CommandResult(200, trigger_json(rule.id, rule.definition, trigger, context.facts.rule_references))


def delete_trigger(command: DeleteTrigger, context: CommandContext) -> CommandResult:
    """Take a threshold away."""
    rule = require_rule(command.alert_rule, context)
    _replace(rule, _others(rule, require_trigger(rule, command.id)), context)
    return CommandResult(204)


def create_action(command: CreateAction, context: CommandContext) -> CommandResult:
    """Tell somebody else as well."""
    rule = require_rule(command.alert_rule, context)
    trigger = require_trigger(rule, command.trigger)
    action = build_action(command.action, None, context)
    _tell(rule, trigger, [*trigger.actions, action], context)
    return CommandResult(201, action_json(trigger.id, action, context.facts.rule_references))


def update_action(command: UpdateAction, context: CommandContext) -> CommandResult:
    """Tell somebody else instead."""
    rule = require_rule(command.alert_rule, context)
    trigger = require_trigger(rule, command.trigger)
    standing = _action_at(trigger, command.id)
    action = build_action(command.action, standing, context)
    _tell(rule, trigger, [*(each for each in trigger.actions if each.id != standing.id), action], context)
    return CommandResult(200, action_json(trigger.id, action, context.facts.rule_references))


def delete_action(command: DeleteAction, context: CommandContext) -> CommandResult:
    """Tell somebody no more."""
    rule = require_rule(command.alert_rule, context)
    trigger = require_trigger(rule, command.trigger)
    standing = _action_at(trigger, command.id)
    _tell(rule, trigger, (each for each in trigger.actions if each.id != standing.id), context)
    return CommandResult(204)


def _others(rule: AlertRule, trigger: Trigger) -> list[Trigger]:
    return [each for each in rule.definition.triggers if each.id != trigger.id]


def _replace(rule: AlertRule, triggers: list[Trigger], context: CommandContext) -> None:
    """Give the rule these triggers.

    :raises Refusal: two have the same label, or a value would both alert and resolve.
    """
    if len({trigger.label for trigger in triggers}) < len(triggers):
        raise ListRefusal("This label is already in use for this alert rule")
    definition = rule.definition.with_triggers(triggers)
    check_thresholds(definition)
    redefine(rule, definition, context)
    emit_rule_event(rule, context, AlertRuleUpdated)


def _tell(rule: AlertRule, trigger: Trigger, actions: Iterable[Action], context: CommandContext) -> None:
    changed = trigger.model_copy(update={"actions": tuple(actions)})
    amend(rule, rule.definition.with_triggers([*_others(rule, trigger), changed]), context)
    emit_rule_event(rule, context, AlertRuleUpdated)


def _action_at(trigger: Trigger, id_: int) -> Action:
    found = next((action for action in trigger.actions if action.id == id_), None)
    if found is None:
        raise NotFound
    return found
