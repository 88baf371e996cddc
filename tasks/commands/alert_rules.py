"""Commands about alert rules: the rules themselves, their triggers and actions, and their silence.

A rule is named by its id. Each message knows what of its words has to fit together; what depends on data (who exists,
how many rules there are, what a change leaves of a rule) is for the worker to decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_snake
from pydantic_core import PydanticCustomError

from models.alert_rules.enums import EVENT_TYPES, ActivationCondition, Dataset, EventType, MonitorType, QueryType
from models.alert_rules.validation import (
    RuleDraft,
    event_types_error,
    label_error,
    query_error,
    threshold_error,
    trigger_count_error,
)
from models.enums import JSON
from models.refusals import FIELD_REQUIRED
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

_LONGEST_DELTA: Final = 128_160
"""Minutes that a comparison may look back: 89 days."""


class RuleCommand(NestedModel, Command):
    """A command about rules. ``in_project`` is a project's slug where the address is that project's."""

    model_config = ConfigDict(populate_by_name=False)

    object_errors_key: ClassVar[str] = RULE_OBJECT_ERRORS_KEY
    path_fields: ClassVar[frozenset[str]] = frozenset({"inProject", "in_project"})

    @classmethod
    def wire_fields(cls) -> frozenset[str]:
        """Every field in camel case and in snake case."""
        names = {field.alias for field in cls.model_fields.values() if field.alias}
        return frozenset(names | {to_snake(name) for name in names}) - cls.path_fields

    def to_payload(self) -> str:
        """As the ledger keeps it: what was left out stays out, and null is a word."""
        return self.model_dump_json(by_alias=True, exclude_unset=True)

    @property
    def new_ids(self) -> int:
        """How many things may be born of it."""
        return 0

    @property
    def action_specs(self) -> Iterable[ActionSpec]:
        """Everyone whom it wants to be told."""
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


class RuleFields(RuleCommand):
    """What a rule can say. What was said is in ``model_fields_set``; a change leaves the rest as it stands."""

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
    query_type: QueryTypeField = QueryType.ERROR
    event_types: EventTypes = ()
    threshold_period: Annotated[int, *positive_integer(20)] = 1
    comparison_delta: Annotated[int | None, *positive_integer(_LONGEST_DELTA, is_optional=True)] = None
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
        """The rule, its triggers and their actions."""
        return 1 + sum(1 + len(trigger.actions) for trigger in self.triggers)

    @property
    def action_specs(self) -> Iterable[ActionSpec]:
        """Those of all triggers."""
        return (action for trigger in self.triggers for action in trigger.actions)

    def apply_to(self, standing: RuleDraft) -> RuleDraft:
        """What the rule says from now on, where it said ``standing`` before."""
        said = self.model_fields_set
        dataset = self.dataset if "dataset" in said else standing.dataset
        kind = standing.query_type
        if "query_type" in said or "dataset" in said:
            kind = self.query_type if "query_type" in said else dataset.query_type
        return RuleDraft(
            query_type=kind,
            dataset=dataset,
            event_types=self._counted(kind, standing),
            aggregate=self.aggregate,
            time_window=self.time_window,
            threshold_type=self.threshold_type,
            resolve_threshold=self.resolve_threshold if "resolve_threshold" in said else standing.resolve_threshold,
            comparison_delta=self.comparison_delta if "comparison_delta" in said else standing.comparison_delta,
            thresholds=tuple((trigger.label, trigger.alert_threshold) for trigger in self.triggers),
        )

    def _counted(self, kind: QueryType, standing: RuleDraft) -> tuple[EventType, ...]:
        if kind is QueryType.CRASH_RATE:
            return ()
        if "event_types" in self.model_fields_set:
            return self.event_types or EVENT_TYPES[kind][:1]
        return standing.event_types if kind is standing.query_type else EVENT_TYPES[kind][:1]

    def _check_consistency(self, parts: Sequence[JSON]) -> Self:
        triggers = [in_camel_case(each) if isinstance(each, dict) else {} for each in parts]
        draft = replace(self._decided(), thresholds=_thresholds(triggers))
        is_comparable = self._decides_thresholds and len(draft.thresholds) == len(triggers)
        for sentence in (
            query_error(draft),
            trigger_count_error(triggers),
            event_types_error(draft),
            label_error([each.get("label") for each in triggers]),
            threshold_error(draft) if is_comparable else None,
        ):
            if sentence:
                raise field_error(sentence)
        return self

    def _decided(self) -> RuleDraft:
        """What can be said of the rule without knowing what it said before."""
        return self.apply_to(RuleDraft())

    @property
    def _decides_thresholds(self) -> bool:
        return True


def _thresholds(parts: Iterable[Mapping[str, JSON]]) -> tuple[tuple[str, float], ...]:
    """Labels with thresholds, of the triggers that have a number there: of others their own check tells."""
    found = []
    for each in parts:
        try:
            found.append((str(each.get("label")), number(each.get("alertThreshold"))))
        except PydanticCustomError:
            continue
    return tuple(found)


def _name_a_project(schema: dict[str, Any]) -> None:
    schema["properties"]["projects"] |= {"minItems": 1}
    schema["required"] += ["projects"]


class CreateRule(RuleFields):
    """Watch something: one project, one query, one or two thresholds."""

    name: ClassVar[str] = "alert_rule.create"
    model_config = ConfigDict(json_schema_extra=_name_a_project)

    rule_name: Annotated[str, *bounded_text(256)] = Field(alias="name")

    def _check_consistency(self, parts: Sequence[JSON]) -> Self:
        super()._check_consistency(parts)
        if self.in_project is None and not self.projects:
            raise object_error({"projects": [FIELD_REQUIRED]})
        return self


class UpdateRule(RuleFields):
    """Let a rule say something else. Its open incidents end; what is left out stays as it is."""

    name: ClassVar[str] = "alert_rule.update"
    is_partial: ClassVar[bool] = True

    alert_rule: RowId

    def _decided(self) -> RuleDraft:
        if "dataset" in self.model_fields_set:
            return self.apply_to(RuleDraft())
        return replace(self.apply_to(RuleDraft()), query_type=QueryType.ERROR, event_types=())

    @property
    def _decides_thresholds(self) -> bool:
        return {"comparison_delta", "resolve_threshold"} <= self.model_fields_set


class DeleteRule(RuleCommand):
    """Watch something no more. Open incidents of the rule end; incidents keep what it said."""

    name: ClassVar[str] = "alert_rule.delete"

    alert_rule: RowId
    in_project: OptionalText = None
