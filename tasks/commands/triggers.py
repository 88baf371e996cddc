"""Commands to create, update and delete an alert rule's triggers and their actions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, ValidationInfo, WithJsonSchema

from models.types import JSON
from tasks.commands.alert_rules import RuleCommand
from tasks.commands.fields import (
    Number,
    OptionalSlugs,
    RowId,
    bounded_text,
)
from tasks.commands.rule_fields import (
    ACTION_SCHEMA,
    Actions,
    ActionSpec,
    RulePart,
    parse_part,
)

_Label = Annotated[str, *bounded_text(64)]


class CreateTrigger(RuleCommand):
    """Add a trigger to a rule and close the rule's open incidents."""

    name: ClassVar[str] = "trigger.create"
    nested: ClassVar[tuple[str, type[RulePart]] | None] = ("actions", ActionSpec)

    alert_rule: RowId
    label: _Label
    alert_threshold: Number
    excluded_projects: OptionalSlugs = ()
    actions: Actions = ()

    @property
    def new_ids(self) -> int:
        """The number of ids to reserve for the trigger and its actions."""
        return 1 + len(self.actions)

    @property
    def action_specs(self) -> Iterable[ActionSpec]:
        """The trigger's actions."""
        return self.actions


class UpdateTrigger(CreateTrigger):
    """Change a rule's trigger and close the rule's open incidents. Omitted fields keep their values."""

    name: ClassVar[str] = "trigger.update"
    is_partial: ClassVar[bool] = True

    id: RowId
    label: _Label = ""
    alert_threshold: Number = 0.0


class DeleteTrigger(RuleCommand):
    """Delete a rule's trigger and close the rule's open incidents."""

    name: ClassVar[str] = "trigger.delete"

    alert_rule: RowId
    id: RowId


# --- actions ---------------------------------------------------------------------------------------------------


def _action(value: JSON, info: ValidationInfo) -> ActionSpec:
    return parse_part(ActionSpec, value, info.context)


class CreateAction(RuleCommand):
    """Add an action to a trigger."""

    name: ClassVar[str] = "trigger_action.create"

    alert_rule: RowId
    trigger: RowId
    action: Annotated[ActionSpec, BeforeValidator(_action), WithJsonSchema(ACTION_SCHEMA)]

    @property
    def new_ids(self) -> int:
        """The number of ids to reserve for the action."""
        return 1

    @property
    def action_specs(self) -> Iterable[ActionSpec]:
        """The command's only action."""
        return (self.action,)


class UpdateAction(CreateAction):
    """Replace one of a trigger's actions."""

    name: ClassVar[str] = "trigger_action.update"

    id: RowId


class DeleteAction(RuleCommand):
    """Delete an action from a trigger."""

    name: ClassVar[str] = "trigger_action.delete"

    alert_rule: RowId
    trigger: RowId
    id: RowId
