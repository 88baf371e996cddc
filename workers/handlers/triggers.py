"""Handlers for an alert rule's individual triggers and actions.

A change to a trigger starts a new generation of the rule and closes the rule's open incidents. A change to an action
does not.
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
from workers.batch import needs
from workers.batch.context import CommandContext, CommandResult
from workers.batch.handler import handles
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


@handles(
    CreateTrigger,
    needs.rule,
    needs.incidents_of_rule,
    needs.new_rule_ids,
    needs.action_targets,
    needs.excluded_projects,
)
def create_trigger(command: CreateTrigger, context: CommandContext) -> CommandResult:
    """Add a trigger to a rule."""
    rule = require_rule(command.alert_rule, context)
    trigger = build_trigger(command, None, draft_of(rule.definition), context)
    _set_triggers(rule, [*rule.definition.triggers, trigger], context)
    return CommandResult(201, trigger_json(rule.id, rule.definition, trigger, context.facts.rule_references))


@handles(
    UpdateTrigger,
    needs.rule,
    needs.incidents_of_rule,
    needs.new_rule_ids,
    needs.action_targets,
    needs.excluded_projects,
)
def update_trigger(command: UpdateTrigger, context: CommandContext) -> CommandResult:
    """Change a trigger's threshold, label, excluded projects or actions."""
    rule = require_rule(command.alert_rule, context)
    known = require_trigger(rule, command.id)
    trigger = build_trigger(command, known, draft_of(rule.definition), context)
    _set_triggers(rule, [*_others(rule, known), trigger], context)
    return CommandResult(200, trigger_json(rule.id, rule.definition, trigger, context.facts.rule_references))


@handles(DeleteTrigger, needs.rule, needs.incidents_of_rule)
def delete_trigger(command: DeleteTrigger, context: CommandContext) -> CommandResult:
    """Delete a trigger."""
    rule = require_rule(command.alert_rule, context)
    _set_triggers(rule, _others(rule, require_trigger(rule, command.id)), context)
    return CommandResult(204)


@handles(CreateAction, needs.rule, needs.new_rule_ids, needs.action_targets)
def create_action(command: CreateAction, context: CommandContext) -> CommandResult:
    """Add an action to a trigger."""
    rule = require_rule(command.alert_rule, context)
    trigger = require_trigger(rule, command.trigger)
    action = build_action(command.action, None, context)
    _set_actions(rule, trigger, [*trigger.actions, action], context)
    return CommandResult(201, action_json(trigger.id, action, context.facts.rule_references))


@handles(UpdateAction, needs.rule, needs.new_rule_ids, needs.action_targets)
def update_action(command: UpdateAction, context: CommandContext) -> CommandResult:
    """Replace one of a trigger's actions."""
    rule = require_rule(command.alert_rule, context)
    trigger = require_trigger(rule, command.trigger)
    known = _require_action(trigger, command.id)
    action = build_action(command.action, known, context)
    _set_actions(rule, trigger, [action if each is known else each for each in trigger.actions], context)
    return CommandResult(200, action_json(trigger.id, action, context.facts.rule_references))


@handles(DeleteAction, needs.rule)
def delete_action(command: DeleteAction, context: CommandContext) -> CommandResult:
    """Delete an action from a trigger."""
    rule = require_rule(command.alert_rule, context)
    trigger = require_trigger(rule, command.trigger)
    known = _require_action(trigger, command.id)
    _set_actions(rule, trigger, (each for each in trigger.actions if each.id != known.id), context)
    return CommandResult(204)


def _others(rule: AlertRule, trigger: Trigger) -> list[Trigger]:
    return [each for each in rule.definition.triggers if each.id != trigger.id]


def _set_triggers(rule: AlertRule, triggers: list[Trigger], context: CommandContext) -> None:
    """Start a new generation of the rule with these triggers, unless it has them already.

    :raises Refusal: if two triggers have the same label, or if a value could both fire and resolve a trigger.
    """
    if len({trigger.label for trigger in triggers}) < len(triggers):
        raise ListRefusal("This label is already in use for this alert rule")
    definition = rule.definition.with_triggers(triggers)
    if definition == rule.definition:
        return
    check_thresholds(definition)
    redefine(rule, definition, context)
    emit_rule_event(rule, context, AlertRuleUpdated)


def _set_actions(rule: AlertRule, trigger: Trigger, actions: Iterable[Action], context: CommandContext) -> None:
    changed = trigger.model_copy(update={"actions": tuple(actions)})
    definition = rule.definition.with_triggers([*_others(rule, trigger), changed])
    if definition == rule.definition:
        return
    amend(rule, definition, context)
    emit_rule_event(rule, context, AlertRuleUpdated)


def _require_action(trigger: Trigger, id_: int) -> Action:
    found = next((action for action in trigger.actions if action.id == id_), None)
    if found is None:
        raise NotFound
    return found
