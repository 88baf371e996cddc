"""Commands about alert rules: the rules themselves, their triggers and actions, and their silence.

A rule is named by its id. Each message knows what of its words has to fit together; what depends on data (who exists,
how many rules there are, what a change leaves of a rule) is for the worker to decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema
from pydantic.alias_generators import to_snake
from pydantic_core import PydanticCustomError

from models.alert_rules.enums import EVENT_TYPES, ActivationCondition, Dataset, EventType, MonitorType, QueryType
from models.alert_rules.validation import (
    Saying,
    wrong_event_types,
    wrong_labels,
    wrong_number,
    wrong_query,
    wrong_thresholds,
)
from models.enums import JSON
from models.refusals import REQUIRED
from tasks import spellings
from tasks.commands import Command
from tasks.fields import (
    Number,
    OptionalMoment,
    OptionalNumber,
    OptionalText,
    RowId,
    SlugsIfAny,
    TextField,
    Truth,
    integer,
    number,
    optional,
    text,
    text_or_blank,
    text_within,
    up_to,
    whole_number,
    wrong,
    wrong_fields,
)
from tasks.rule_fields import (
    ACTION_SCHEMA,
    WHOLE,
    Actions,
    ActionSpec,
    DatasetField,
    EventTypes,
    OneProject,
    OutsideIn,
    Owner,
    Part,
    Query,
    QueryTypeField,
    ThresholdTypeField,
    Triggers,
    TriggerSpec,
    in_camel_case,
    part,
)

_LONGEST_DELTA: Final = 128_160
"""Minutes that a comparison may look back: 89 days."""


class RuleCommand(OutsideIn, Command):
    """A command about rules. ``in_project`` is a project's slug where the address is that project's."""

    model_config = ConfigDict(populate_by_name=False)

    whole: ClassVar[str] = WHOLE
    of_address: ClassVar[frozenset[str]] = frozenset({"inProject", "in_project"})

    @classmethod
    def fields_on_wire(cls) -> frozenset[str]:
        """Every field in camel case and in snake case."""
        names = {field.alias for field in cls.model_fields.values() if field.alias}
        return frozenset(names | {to_snake(name) for name in names}) - cls.of_address

    def stored(self) -> str:
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


# --- rules -----------------------------------------------------------------------------------------------------


def _or_null(schema: Mapping[str, Any]) -> WithJsonSchema:
    return WithJsonSchema(spellings.or_null(schema))


def _monitor_type(value: JSON) -> int:
    kind = integer(value)
    if kind < 0:
        raise wrong("Ensure this value is greater than or equal to 0.")
    if kind not in tuple(MonitorType):
        raise wrong(f"Invalid monitor type, valid values are {[int(each) for each in MonitorType]}")
    return kind


def _activation_condition(value: JSON) -> int:
    condition = integer(value)
    if condition not in tuple(ActivationCondition):
        raise wrong(f"Invalid activation condition, valid values are {[int(each) for each in ActivationCondition]}")
    return condition


class RuleWords(RuleCommand):
    """What a rule can say. What was said is in ``model_fields_set``; a change leaves the rest as it stands."""

    inner: ClassVar[tuple[str, type[Part]] | None] = ("triggers", TriggerSpec)

    rule_name: Annotated[str, *text_within(256)] = Field(default="", alias="name")
    aggregate: TextField
    query: Query
    time_window: Annotated[int, *whole_number(1440)]
    threshold_type: ThresholdTypeField
    triggers: Triggers
    projects: OneProject = ()
    environment: Annotated[str | None, optional(up_to(64)), _or_null(spellings.text_up_to(64))] = None
    dataset: DatasetField = Dataset.EVENTS
    query_type: QueryTypeField = QueryType.ERROR
    event_types: EventTypes = ()
    threshold_period: Annotated[int, *whole_number(20)] = 1
    comparison_delta: Annotated[int | None, *whole_number(_LONGEST_DELTA, is_optional=True)] = None
    resolve_threshold: OptionalNumber = None
    owner: Owner = None
    monitor_type: Annotated[
        int, BeforeValidator(_monitor_type), WithJsonSchema(spellings.choice_of(tuple(MonitorType)))
    ] = MonitorType.CONTINUOUS
    activation_condition: Annotated[
        int | None, optional(_activation_condition), _or_null(spellings.choice_of(tuple(ActivationCondition)))
    ] = None
    description: Annotated[
        str | None, optional(up_to(1000, text_or_blank)), _or_null(spellings.text_or_blank_up_to(1000))
    ] = None
    excluded_projects: SlugsIfAny = ()
    include_all_projects: Truth = False
    in_project: OptionalText = None

    @property
    def new_ids(self) -> int:
        """The rule, its triggers and their actions."""
        return 1 + sum(1 + len(trigger.actions) for trigger in self.triggers)

    @property
    def action_specs(self) -> Iterable[ActionSpec]:
        """Those of all triggers."""
        return (action for trigger in self.triggers for action in trigger.actions)

    def saying(self, standing: Saying) -> Saying:
        """What the rule says from now on, where it said ``standing`` before."""
        said = self.model_fields_set
        dataset = self.dataset if "dataset" in said else standing.dataset
        kind = standing.query_type
        if "query_type" in said or "dataset" in said:
            kind = self.query_type if "query_type" in said else dataset.query_type
        return Saying(
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

    def _counted(self, kind: QueryType, standing: Saying) -> tuple[EventType, ...]:
        if kind is QueryType.CRASH_RATE:
            return ()
        if "event_types" in self.model_fields_set:
            return self.event_types or EVENT_TYPES[kind][:1]
        return standing.event_types if kind is standing.query_type else EVENT_TYPES[kind][:1]

    def _fitting(self, parts: Sequence[JSON]) -> Self:
        triggers = [in_camel_case(each) if isinstance(each, dict) else {} for each in parts]
        saying = replace(self._decided(), thresholds=_thresholds(triggers))
        is_comparable = self._decides_thresholds and len(saying.thresholds) == len(triggers)
        for sentence in (
            wrong_query(saying),
            wrong_number(triggers),
            wrong_event_types(saying),
            wrong_labels([each.get("label") for each in triggers]),
            wrong_thresholds(saying) if is_comparable else None,
        ):
            if sentence:
                raise wrong(sentence)
        return self

    def _decided(self) -> Saying:
        """What can be said of the rule without knowing what it said before."""
        return self.saying(Saying())

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


class CreateRule(RuleWords):
    """Watch something: one project, one query, one or two thresholds."""

    name: ClassVar[str] = "alert_rule.create"
    model_config = ConfigDict(json_schema_extra=_name_a_project)

    rule_name: Annotated[str, *text_within(256)] = Field(alias="name")

    def _fitting(self, parts: Sequence[JSON]) -> Self:
        super()._fitting(parts)
        if self.in_project is None and not self.projects:
            raise wrong_fields({"projects": [REQUIRED]})
        return self


class UpdateRule(RuleWords):
    """Let a rule say something else. Its open incidents end; what is left out stays as it is."""

    name: ClassVar[str] = "alert_rule.update"
    is_partial: ClassVar[bool] = True

    alert_rule: RowId

    def _decided(self) -> Saying:
        if "dataset" in self.model_fields_set:
            return self.saying(Saying())
        return replace(self.saying(Saying()), query_type=QueryType.ERROR, event_types=())

    @property
    def _decides_thresholds(self) -> bool:
        return {"comparison_delta", "resolve_threshold"} <= self.model_fields_set


class DeleteRule(RuleCommand):
    """Watch something no more. Open incidents of the rule end; incidents keep what it said."""

    name: ClassVar[str] = "alert_rule.delete"

    alert_rule: RowId
    in_project: OptionalText = None


# --- triggers --------------------------------------------------------------------------------------------------

_Label = Annotated[str, *text_within(64)]


class CreateTrigger(RuleCommand):
    """Add a threshold to a rule. Open incidents of the rule end."""

    name: ClassVar[str] = "trigger.create"
    inner: ClassVar[tuple[str, type[Part]] | None] = ("actions", ActionSpec)

    alert_rule: RowId
    label: _Label
    alert_threshold: Number
    excluded_projects: SlugsIfAny = ()
    actions: Actions = ()

    @property
    def new_ids(self) -> int:
        """The trigger and its actions."""
        return 1 + len(self.actions)

    @property
    def action_specs(self) -> Iterable[ActionSpec]:
        """Those of the trigger."""
        return self.actions


class UpdateTrigger(CreateTrigger):
    """Move a threshold, or let it tell others. Open incidents of the rule end; what is left out stays."""

    name: ClassVar[str] = "trigger.update"
    is_partial: ClassVar[bool] = True

    id: RowId
    label: _Label = ""
    alert_threshold: Number = 0.0


class DeleteTrigger(RuleCommand):
    """Take a threshold from a rule. Open incidents of the rule end."""

    name: ClassVar[str] = "trigger.delete"

    alert_rule: RowId
    id: RowId


# --- actions ---------------------------------------------------------------------------------------------------


def _action(value: JSON, info: ValidationInfo) -> ActionSpec:
    return part(ActionSpec, value, info.context)


class CreateAction(RuleCommand):
    """Let a trigger tell somebody else as well."""

    name: ClassVar[str] = "trigger_action.create"

    alert_rule: RowId
    trigger: RowId
    action: Annotated[ActionSpec, BeforeValidator(_action), WithJsonSchema(ACTION_SCHEMA)]

    @property
    def new_ids(self) -> int:
        """The action."""
        return 1

    @property
    def action_specs(self) -> Iterable[ActionSpec]:
        """The action."""
        return (self.action,)


class UpdateAction(CreateAction):
    """Let a trigger tell somebody else instead."""

    name: ClassVar[str] = "trigger_action.update"

    id: RowId


class DeleteAction(RuleCommand):
    """Let a trigger tell somebody no more."""

    name: ClassVar[str] = "trigger_action.delete"

    alert_rule: RowId
    trigger: RowId
    id: RowId


# --- snoozes ---------------------------------------------------------------------------------------------------


def _target(value: JSON) -> str:
    target = text(value)
    if target not in ("me", "everyone"):
        raise wrong(f'"{target[:100]}" is not a valid choice.')
    return target


_Target = Literal["me", "everyone"]


class SnoozeRule(RuleCommand):
    """Keep a rule silent, for oneself or for everyone, until a time or until it is woken."""

    name: ClassVar[str] = "alert_rule.snooze"

    alert_rule: RowId
    target: Annotated[_Target, BeforeValidator(_target)]
    until: OptionalMoment = None
    in_project: OptionalText = None


class UnsnoozeRule(RuleCommand):
    """Let a rule speak again: to oneself, to everyone, or, without a target, both."""

    name: ClassVar[str] = "alert_rule.unsnooze"

    alert_rule: RowId
    target: Annotated[_Target | None, optional(_target)] = None
    in_project: OptionalText = None
