"""Commands to snooze and unsnooze an alert rule."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator

from models.enums import CallerKind
from models.refusals import InvalidFields
from models.types import JSON
from tasks.commands.alert_rules import RuleCommand
from tasks.commands.fields import IN_THE_PAST, OptionalText, OptionalTimestamp, RowId, field_error, optional, text


def _target(value: JSON) -> str:
    target = text(value)
    if target not in ("me", "everyone"):
        raise field_error(f'"{target[:100]}" is not a valid choice.')
    return target


_Target = Literal["me", "everyone"]


class SnoozeRule(RuleCommand):
    """Snooze a rule for the author or for everyone, until a given time or until it is unsnoozed."""

    name: ClassVar[str] = "alert_rule.snooze"

    alert_rule: RowId
    target: Annotated[_Target, BeforeValidator(_target)]
    until: OptionalTimestamp = None
    in_project: OptionalText = None

    def require_submittable(self, *, by: CallerKind, at: datetime) -> None:  # noqa: ARG002
        """Check that the snooze ends in the future.

        :raises InvalidFields: if it would be over already.
        """
        if self.until is not None and self.until <= at:
            raise InvalidFields({"until": [IN_THE_PAST]})


class UnsnoozeRule(RuleCommand):
    """End the author's snooze of a rule or the one for everyone or, if no target is given, both."""

    name: ClassVar[str] = "alert_rule.unsnooze"

    alert_rule: RowId
    target: Annotated[_Target | None, optional(_target)] = None
    in_project: OptionalText = None
