"""Commands to create, update and delete alert rules.

A command checks only that its own fields are consistent. The worker checks everything that depends on stored data,
such as whether a person exists, how many rules there are, and whether an updated rule is still consistent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_snake
from pydantic_core import PydanticCustomError

from models.alert_rules.consistency import (
    RuleDraft,
    event_types_error,
    label_error,
    query_error,
    reach_error,
    threshold_error,
    trigger_count_error,
)
from models.alert_rules.enums import EVENT_TYPES, ActivationCondition, Dataset, EventType, MonitorType, QueryType
from models.refusals import FIELD_REQUIRED
from models.types import JSON
from tasks.commands import json_schema
from tasks.commands.base import Command
from tasks.commands.fields import (
    Boolean,
    OptionalNumber,
    OptionalSlugs,
    OptionalText,
    RowId,
    TextField,
    bounded_text,
    field_error,
    integer,
    number,
    object_error,
    optional,
    positive_integer,
    text_or_blank,
    up_to,
)
from tasks.commands.rule_fields import (
    QUERY_TYPE_SCHEMA,
    RULE_OBJECT_ERRORS_KEY,
    ActionSpec,
    DatasetField,
    EventTypes,
    NestedModel,
    OneProject,
    Owner,
    Query,
    QueryTypeField,
    RulePart,
    ThresholdTypeField,
    Triggers,
    TriggerSpec,
    in_camel_case,
)

_MAX_COMPARISON_MINUTES: Final = 128_160
"""How far back a comparison may look, in minutes: 89 days."""


class RuleCommand(NestedModel, Command):
    """Base class of commands on alert rules.

    ``in_project`` is a project's slug if the command was sent to that project's endpoint, otherwise ``None``.
    """

    model_config = ConfigDict(populate_by_name=False)

    object_errors_key: ClassVar[str] = RULE_OBJECT_ERRORS_KEY
    path_fields: ClassVar[frozenset[str]] = frozenset({"inProject", "in_project"})

    @classmethod
    def wire_fields(cls) -> frozenset[str]:
        """Return every name that a caller may use for a field, in camel case and in snake case."""
        names = {field.alias for field in cls.model_fields.values() if field.alias}
        return frozenset(names | {to_snake(name) for name in names}) - cls.path_fields

    def to_payload(self) -> str:
        """Return the command as JSON for the ledger, with only the fields that were sent, including null ones."""
        return self.model_dump_json(by_alias=True, exclude_unset=True)

    @property
    def new_ids(self) -> int:
        """The number of ids to reserve for the objects that the command may create."""
        return 0

    @property
    def action_specs(self) -> Iterable[ActionSpec]:
        """The actions that the command defines."""
        return ()


def _or_null(schema: Mapping[str, Any]) -> WithJsonSchema:
    return WithJsonSchema(json_schema.or_null(schema))


def _monitor_type(value: JSON) -> int:
    kind = integer(value)
    if kind < 0:
        raise field_error("Ensure this value is greater than or equal to 0.")
    if kind not in tuple(MonitorType):
        raise field_error(f"Invalid monitor type, valid values are {[int(each) for each in MonitorType]}")
    return kind


def _activation_condition(value: JSON) -> int:
    condition = integer(value)
    if condition not in tuple(ActivationCondition):
        raise field_error(
            f"Invalid activation condition, valid values are {[int(each) for each in ActivationCondition]}"
        )
    return condition


_QUERY_TYPE: Final = WithJsonSchema(
    json_schema.with_own_default(QUERY_TYPE_SCHEMA, "Follows the dataset, unless it is sent.")
)


class RuleFields(RuleCommand):
    """Base class of the commands that carry a rule's fields.

    ``model_fields_set`` holds the fields that were sent. An update leaves the other fields unchanged.
    """

    nested: ClassVar[tuple[str, type[RulePart]] | None] = ("triggers", TriggerSpec)

    rule_name: Annotated[str, *bounded_text(256)] = Field(default="", alias="name")
    aggregate: TextField
    query: Query
    time_window: Annotated[int, *positive_integer(1440)]
    threshold_type: ThresholdTypeField
    triggers: Triggers
    projects: OneProject = ()
    environment: Annotated[str | None, optional(up_to(64)), _or_null(json_schema.text_up_to(64))] = None
    dataset: DatasetField = Dataset.EVENTS
    query_type: Annotated[QueryTypeField, _QUERY_TYPE] = QueryType.ERROR
    event_types: EventTypes = ()
    threshold_period: Annotated[int, *positive_integer(20)] = 1
    comparison_delta: Annotated[int | None, *positive_integer(_MAX_COMPARISON_MINUTES, is_optional=True)] = None
    resolve_threshold: OptionalNumber = None
    owner: Owner = None
    monitor_type: Annotated[
        int, BeforeValidator(_monitor_type), WithJsonSchema(json_schema.choice_of(tuple(MonitorType)))
    ] = MonitorType.CONTINUOUS
    activation_condition: Annotated[
        int | None, optional(_activation_condition), _or_null(json_schema.choice_of(tuple(ActivationCondition)))
    ] = None
    description: Annotated[
        str | None, optional(up_to(1000, text_or_blank)), _or_null(json_schema.text_or_blank_up_to(1000))
    ] = None
    excluded_projects: OptionalSlugs = ()
    include_all_projects: Boolean = False
    in_project: OptionalText = None

    @property
    def new_ids(self) -> int:
        """The number of ids to reserve for the rule, its triggers and their actions."""
        return 1 + sum(1 + len(trigger.actions) for trigger in self.triggers)

    @property
    def action_specs(self) -> Iterable[ActionSpec]:
        """The actions of all triggers."""
        return (action for trigger in self.triggers for action in trigger.actions)

    def apply_to(self, current: RuleDraft) -> RuleDraft:
        """Apply the command to the draft ``current`` and return the resulting draft."""
        sent = self.model_fields_set
        dataset = self.dataset if "dataset" in sent else current.dataset
        kind = current.query_type
        if "query_type" in sent or "dataset" in sent:
            kind = self.query_type if "query_type" in sent else dataset.query_type
        return RuleDraft(
            query_type=kind,
            dataset=dataset,
            event_types=self._event_types_for(kind, current),
            aggregate=self.aggregate,
            time_window=self.time_window,
            threshold_type=self.threshold_type,
            resolve_threshold=self.resolve_threshold if "resolve_threshold" in sent else current.resolve_threshold,
            comparison_delta=self.comparison_delta if "comparison_delta" in sent else current.comparison_delta,
            thresholds=tuple((trigger.label, trigger.alert_threshold) for trigger in self.triggers),
        )

    def _event_types_for(self, kind: QueryType, current: RuleDraft) -> tuple[EventType, ...]:
        if kind is QueryType.CRASH_RATE:
            return ()
        if "event_types" in self.model_fields_set:
            return self.event_types or EVENT_TYPES[kind][:1]
        return current.event_types if kind is current.query_type else EVENT_TYPES[kind][:1]

    def _check_consistency(self, parts: Sequence[JSON]) -> Self:
        triggers = [in_camel_case(each) if isinstance(each, dict) else {} for each in parts]
        draft = replace(self._draft(), thresholds=_thresholds(triggers))
        is_comparable = self._knows_resolve_threshold and len(draft.thresholds) == len(triggers)
        for error in (
            query_error(draft),
            trigger_count_error(triggers),
            event_types_error(draft),
            label_error([each.get("label") for each in triggers]),
            threshold_error(draft) if is_comparable else None,
            reach_error(draft) if is_comparable else None,
        ):
            if error:
                raise field_error(error)
        return self

    def _draft(self) -> RuleDraft:
        """Return the draft that the command's own fields define, without those of the current rule."""
        return self.apply_to(RuleDraft())

    @property
    def _knows_resolve_threshold(self) -> bool:
        return True


def _thresholds(parts: Iterable[Mapping[str, JSON]]) -> tuple[tuple[str, float], ...]:
    """Return the label and threshold of each trigger whose threshold is valid. The others fail a check of their own."""
    found = []
    for each in parts:
        try:
            found.append((str(each.get("label")), number(each.get("alertThreshold"))))
        except PydanticCustomError:
            continue
    return tuple(found)


def _require_a_project(schema: dict[str, Any]) -> None:
    schema["properties"]["projects"] |= {"minItems": 1}
    schema["required"] += ["projects"]


class CreateRule(RuleFields):
    """Create an alert rule for one project, with one query and one or two triggers."""

    name: ClassVar[str] = "alert_rule.create"
    model_config = ConfigDict(json_schema_extra=_require_a_project)

    rule_name: Annotated[str, *bounded_text(256)] = Field(alias="name")

    def _check_consistency(self, parts: Sequence[JSON]) -> Self:
        super()._check_consistency(parts)
        if self.in_project is None and not self.projects:
            raise object_error({"projects": [FIELD_REQUIRED]})
        return self


class UpdateRule(RuleFields):
    """Update an alert rule and close its open incidents. Omitted fields keep their values."""

    name: ClassVar[str] = "alert_rule.update"
    is_partial: ClassVar[bool] = True

    alert_rule: RowId

    def _draft(self) -> RuleDraft:
        if "dataset" in self.model_fields_set:
            return self.apply_to(RuleDraft())
        return replace(self.apply_to(RuleDraft()), query_type=QueryType.ERROR, event_types=())

    @property
    def _knows_resolve_threshold(self) -> bool:
        return {"comparison_delta", "resolve_threshold"} <= self.model_fields_set


class DeleteRule(RuleCommand):
    """Delete an alert rule and close its open incidents. All of its incidents keep a snapshot of the rule."""

    name: ClassVar[str] = "alert_rule.delete"

    alert_rule: RowId
    in_project: OptionalText = None
