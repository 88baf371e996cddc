"""The field types for alert rules, their triggers and their actions.

Rules are validated from the outside in, as in Sentry's incident API: first the rule's fields, then their consistency,
then each nested part. Errors in a part are reported as if the part had been sent alone. Field names are accepted in
camel case and in snake case, but errors name them in camel case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel

from models.alert_rules.consistency import TRIGGER_LABELS
from models.alert_rules.enums import TARGETS, ActionType, Dataset, EventType, QueryType, TargetType, ThresholdType
from models.incidents import mentions
from models.types import JSON
from tasks.commands import json_schema
from tasks.commands.fields import (
    Number,
    OptionalId,
    OptionalInteger,
    OptionalSlugs,
    OptionalText,
    array,
    bounded_text,
    errors_by_field,
    errors_of_unknown,
    field_error,
    int_if_integral,
    integer,
    mention,
    not_an_object,
    object_error,
    text,
    text_or_blank,
)

RULE_OBJECT_ERRORS_KEY: Final = "nonFieldErrors"
"""The key for errors about a whole rule, trigger or action."""

ValidationContext = Mapping[str, Any]
"""How unknown fields in nested parts are treated: ignored, unless the context says otherwise."""

STRICT_CONTEXT: Final[ValidationContext] = {"strict": True}
"""The validation context in which unknown fields in nested parts are errors."""


def collecting_context(names: list[str]) -> ValidationContext:
    """Return a validation context in which the paths of unknown fields in nested parts are appended to ``names``."""
    return {"names": names, "path": ""}


_SNAKE_CASE: Final = re.compile(r"_([a-z0-9])")


def in_camel_case(value: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return an object with its field names in camel case. If a field is sent in both cases, camel case wins."""
    return {_SNAKE_CASE.sub(lambda found: found[1].upper(), name): each for name, each in value.items()} | {
        name: each for name, each in value.items() if not _SNAKE_CASE.search(name)
    }


class NestedModel(BaseModel):
    """A model that is validated from the outside in.

    ``nested`` holds the name of the field that contains the model's nested parts, and the class of these parts.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)

    nested: ClassVar[tuple[str, type[RulePart]] | None] = None

    @model_validator(mode="wrap")
    @classmethod
    def _validate_outside_in(cls, value: Any, read: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        if not isinstance(value, dict):
            return read(value)
        fields = in_camel_case(value)
        if cls.nested is None or not isinstance(parts := fields.get(cls.nested[0]), list):
            return read(fields)._check_consistency(())
        name, kind = cls.nested
        whole = read(fields | {name: []})._check_consistency(parts)
        return whole.model_copy(
            update={
                name: tuple(
                    parse_part(kind, each, _context_of_part(info.context, f"{name}/{index}"))
                    for index, each in enumerate(parts)
                )
            }
        )

    def _check_consistency(self, parts: Sequence[JSON]) -> Self:  # noqa: ARG002
        """Return the model if its fields are consistent with each other and with the parts, given as they were sent.

        :raises PydanticCustomError: if the fields are inconsistent.
        """
        return self


class RulePart(NestedModel):
    """A nested part of a rule: a trigger or an action."""


_P = TypeVar("_P", bound=RulePart)


def _context_of_part(context: ValidationContext | None, path: str) -> ValidationContext | None:
    return {**context, "path": f"{context['path']}{path}/"} if context and "path" in context else context


def parse_part(kind: type[_P], value: JSON, context: ValidationContext | None) -> _P:
    """Validate a nested part, and report errors as if the part had been sent alone.

    :raises PydanticCustomError: if the part is invalid.
    """
    if not isinstance(value, dict):
        raise object_error({RULE_OBJECT_ERRORS_KEY: [not_an_object(value)]})
    known = {field.alias for field in kind.model_fields.values()}
    unknown = [name for name in value if in_camel_case({name: None}).keys().isdisjoint(known)] if context else []
    errors: dict[str, JSON] = {}
    if context and "names" in context:
        context["names"].extend(f"{context['path']}{name}" for name in unknown)
    elif context:
        errors = errors_of_unknown(in_camel_case(dict.fromkeys(unknown)))
    try:
        read = kind.model_validate(value, context=dict(context or {}))
    except ValidationError as invalid:
        raise object_error(errors_by_field(invalid, object_errors_key=RULE_OBJECT_ERRORS_KEY) | errors) from None
    if errors:
        raise object_error(errors)
    return read


# --- what a rule observes --------------------------------------------------------------------------------------


def _one_of(enum: type[Any], check: Callable[[JSON], Any], message: str) -> BeforeValidator:
    values = [each.value for each in enum]

    def validate(value: JSON) -> Any:
        found = check(value)
        if found not in values:
            raise field_error(message.format(value=found, values=values))
        return enum(found)

    return BeforeValidator(validate)


def _query(value: JSON) -> str:
    query = text_or_blank(value)
    for term in query.split():
        if term == "release:latest":
            raise field_error(f"Unsupported Query: We do not currently support the {term} query")
    return query


def _event_types(value: JSON) -> tuple[EventType, ...]:
    known = {str(each): each for each in EventType}
    names = [each.lower() if isinstance(each, str) else "" for each in array(value)]
    if not set(names) <= known.keys():
        raise field_error(f"Invalid event_type, valid values are {list(known)}")
    return tuple(known[each] for each in dict.fromkeys(names))


def _owner(value: JSON) -> str | None:
    if value is None:
        return None
    named = mention(int_if_integral(value)) or ""
    if mentions.parse_mention(named) is None:
        raise field_error(mentions.UNPARSABLE)
    return named


def _one_project(value: JSON) -> tuple[str, ...]:
    slugs = [text(each) for each in array(value)]
    if len(slugs) > 1:
        raise field_error("Ensure this field has no more than 1 elements.")
    return tuple(slugs)


Query = Annotated[
    str,
    BeforeValidator(_query),
    WithJsonSchema(
        json_schema.recommending(
            json_schema.STORABLE | {"description": "May not contain the term release:latest."},
            {
                "type": ["string", "number"],
                "pattern": r"^[^\u0000]*$",
                "not": {"type": "string", "pattern": r"(^|\s)release:latest(\s|$)"},
            },
        )
    ),
]
DatasetField = Annotated[
    Dataset,
    _one_of(Dataset, text, "Invalid dataset, valid values are {values}"),
    WithJsonSchema({"type": "string", "enum": [str(each) for each in Dataset]}),
]
QUERY_TYPE_SCHEMA: Final = json_schema.choice_of(tuple(QueryType))
QueryTypeField = Annotated[
    QueryType,
    _one_of(QueryType, integer, "Invalid query type {value}, valid values are {values}"),
    WithJsonSchema(QUERY_TYPE_SCHEMA),
]
ThresholdTypeField = Annotated[
    ThresholdType,
    _one_of(ThresholdType, integer, "Invalid threshold type, valid values are {values}"),
    WithJsonSchema(json_schema.choice_of(tuple(ThresholdType))),
]
EventTypes = Annotated[
    tuple[EventType, ...],
    BeforeValidator(_event_types),
    WithJsonSchema(json_schema.list_of({"type": "string", "enum": [str(each) for each in EventType]})),
]
_OWNER: Final = json_schema.recommending(
    {
        "description": "The owner, as a mention. One that names nobody is rejected when the command is applied.",
        "type": ["string", "null"],
        "maxLength": 1000,
    },
    {
        "anyOf": [
            {"type": "integer", "not": {"const": 0}},
            {"type": "string", "maxLength": 1000, "pattern": "^(user:|team:)?0{0,29}[1-9][0-9]*$"},
            {
                "type": "string",
                "maxLength": 1000,
                "pattern": f"^{json_schema.NON_BLANK}",
                "not": {"pattern": "^(user:|team:|[0-9]+$)"},
            },
            {"type": "null"},
        ]
    },
)
Owner = Annotated[str | None, BeforeValidator(_owner), WithJsonSchema(_OWNER)]
OneProject = Annotated[
    tuple[str, ...],
    BeforeValidator(_one_project),
    WithJsonSchema(json_schema.list_of(json_schema.TEXT, most=1)),
]


# --- whom a rule notifies --------------------------------------------------------------------------------------

# Action types that need an integration with another product. tocsin has no such integrations.
_UNSUPPORTED: Final = {
    "slack": ("specific",),
    "pagerduty": ("specific",),
    "msteams": ("specific",),
    "opsgenie": ("specific",),
    "discord": ("specific",),
    "sentry_app": ("sentry_app",),
}
_PRIORITIES: Final = {
    "pagerduty": ("Pagerduty", ["critical", "warning", "error", "info"]),
    "opsgenie": ("Opsgenie", ["P1", "P2", "P3", "P4", "P5"]),
}
_TARGET_TYPES: Final = (*(str(each) for each in TargetType), "sentry_app")


def _action_type(value: JSON) -> str:
    if value is not None and (not isinstance(value, str) or value not in {*ActionType, *_UNSUPPORTED}):
        raise field_error(f"Invalid type, valid values are {[str(each) for each in ActionType]}")
    return text(value)


def _target_type(value: JSON) -> str:
    if value is not None and value not in _TARGET_TYPES:
        raise field_error(f"Invalid targetType, valid values are [{', '.join(_TARGET_TYPES)}]")
    return text(value)


def _one_of_texts(choices: Iterable[str]) -> dict[str, Any]:
    return {"type": "string", "enum": [str(each) for each in choices]}


class ActionSpec(RulePart):
    """A trigger's action: an e-mail to a person or a team, or a message to a webhook or a chat."""

    id: OptionalId = None
    type: Annotated[str, BeforeValidator(_action_type), WithJsonSchema(_one_of_texts(ActionType))]
    target_type: Annotated[str, BeforeValidator(_target_type), WithJsonSchema(_one_of_texts(TargetType))]
    target_identifier: Annotated[str, *bounded_text(2000)]
    integration: OptionalInteger = None
    sentry_app: OptionalInteger = None
    priority: OptionalText = None

    def _check_consistency(self, parts: Sequence[JSON]) -> Self:  # noqa: ARG002
        allowed = _UNSUPPORTED.get(self.type) or TARGETS[ActionType(self.type)]
        if self.target_type not in allowed:
            message = f"Invalid target type for {self.type}. Valid types are [{','.join(allowed)}]"
            raise object_error({"targetType": [message]})
        # Sentry's order: these three types report a missing integration before a wrong priority, the others after.
        for name, message in (
            self._early_integration_error(),
            self._priority_error(),
            self._integration_error(),
            self._target_error(),
        ):
            if message:
                raise object_error({name: [message]})
        return self

    def _early_integration_error(self) -> tuple[str, str]:
        return self._integration_error() if self.type in ("slack", "discord", "sentry_app") else ("", "")

    def _integration_error(self) -> tuple[str, str]:
        if self.type not in _UNSUPPORTED:
            return "", ""
        if self.type == "sentry_app":
            return "sentryApp", "The installation does not exist." if self.sentry_app else (
                "SentryApp must be provided for sentry_app"
            )
        return "integration", "Integration does not exist" if self.integration else (
            f"Integration must be provided for {self.type}"
        )

    def _priority_error(self) -> tuple[str, str]:
        if self.priority is None:
            return "", ""
        product, known = _PRIORITIES.get(self.type, ("", []))
        if not product:
            return "priority", "Can only be set for Pagerduty or Opsgenie"
        return "priority", "" if self.priority in known else f"Allowed priorities for {product} are {known}"

    def _target_error(self) -> tuple[str, str]:
        is_url = self.type != ActionType.WEBHOOK or _is_url(self.target_identifier)
        return "targetIdentifier", "" if is_url else "Enter a valid URL."


def _is_url(target: str) -> bool:
    try:
        parts = urlsplit(target)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"\s", target)
    except ValueError:
        return False


_URL: Final = json_schema.trimmed("[hH][tT][tT][pP][sS]?://[A-Za-z0-9.-]{1,200}(:[0-9]{1,5})?([/?#][!-~]{0,1000})?")


def _action_schema(kind: ActionType) -> dict[str, Any]:
    overrides = {
        "type": {"const": str(kind)},
        "targetType": {"enum": [str(each) for each in TARGETS[kind]]},
        # Only unsupported types have a priority.
        "priority": {"type": "null"},
    }
    webhook = {"targetIdentifier": _URL} if kind is ActionType.WEBHOOK else {}
    return {"type": "object", "properties": _ACTION_FIELDS | overrides | webhook}


_ACTION_FIELDS: Final[dict[str, Any]] = ActionSpec.model_json_schema(mode="validation")["properties"]
_REQUIRED_ACTION_FIELDS: Final = ("type", "targetType", "targetIdentifier")
_TARGETS_OF_TYPES: Final = "; ".join(f"{kind}: {', '.join(targets)}" for kind, targets in TARGETS.items())
ACTION_SCHEMA: Final = json_schema.component(
    "ActionBody",
    json_schema.recommending(
        {
            "description": f"The target types of each type are {_TARGETS_OF_TYPES}.",
            "type": "object",
            "required": list(_REQUIRED_ACTION_FIELDS),
            # The other fields belong to integrations that tocsin does not have.
            "properties": {name: _ACTION_FIELDS[name] for name in ("id", *_REQUIRED_ACTION_FIELDS)},
        },
        {
            "type": "object",
            "required": list(_REQUIRED_ACTION_FIELDS),
            "anyOf": [_action_schema(kind) for kind in ActionType],
        },
    ),
)
Actions = Annotated[tuple[ActionSpec, ...], BeforeValidator(array), WithJsonSchema(json_schema.list_of(ACTION_SCHEMA))]


class TriggerSpec(RulePart):
    """A trigger: its threshold and its actions."""

    nested: ClassVar[tuple[str, type[RulePart]] | None] = ("actions", ActionSpec)

    id: OptionalId = None
    label: Annotated[str, *bounded_text(64)]
    alert_threshold: Number
    excluded_projects: OptionalSlugs = ()
    actions: Actions = ()


def _trigger_schema(label: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": TriggerSpec.model_json_schema(mode="validation")["properties"] | {"label": label},
        "required": ["label", "alertThreshold"],
    }


_TRIGGER_LIMITS: Final = {"type": "array", "minItems": 1, "maxItems": len(TRIGGER_LABELS)}
Triggers = Annotated[
    tuple[TriggerSpec, ...],
    BeforeValidator(array),
    WithJsonSchema(
        json_schema.recommending(
            _TRIGGER_LIMITS
            | {
                "description": f"In this order: {', '.join(TRIGGER_LABELS)}.",
                "items": json_schema.component("TriggerBody", _trigger_schema(_one_of_texts(TRIGGER_LABELS))),
            },
            _TRIGGER_LIMITS | {"prefixItems": [_trigger_schema({"const": label}) for label in TRIGGER_LABELS]},
        )
    ),
]
