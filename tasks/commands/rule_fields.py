"""The parts of an alert rule as callers write them: its triggers, and whom they tell.

Bodies about rules are read from the outside in, as the incident API that tocsin gives back read them: first the fields
of the whole, then how they fit together, then each part, whose errors stand alone and name no place. Fields may be
spelled in either case, and errors are told in camel case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
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

from models.alert_rules.enums import TARGETS, ActionType, Dataset, EventType, QueryType, TargetType, ThresholdType
from models.alert_rules.validation import TRIGGER_LABELS
from models.enums import JSON
from models.incidents import mentions
from tasks.commands import json_schema
from tasks.commands.fields import (
    Number,
    OptionalInteger,
    OptionalText,
    SlugsIfAny,
    bounded_text,
    errors_by_field,
    field_error,
    integer,
    listing,
    mention,
    not_an_object,
    object_error,
    text,
    text_or_blank,
    whole_if_integral,
)

RULE_OBJECT_ERRORS_KEY: Final = "nonFieldErrors"
"""How errors of a whole object are called where rules are concerned."""

STRICT_CONTEXT: Final[Mapping[str, bool]] = {"strict": True}
"""The context in which unknown fields of parts are errors."""


def in_camel_case(value: Mapping[str, JSON]) -> dict[str, JSON]:
    """An object with its fields in camel case; of two spellings of one field that one counts."""
    return {_UNDERSCORED.sub(lambda found: found[1].upper(), name): each for name, each in value.items()} | {
        name: each for name, each in value.items() if not _UNDERSCORED.search(name)
    }


class OutsideIn(BaseModel):
    """Something with parts: ``inner`` is the field that holds them, if it has any, and what each is."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)

    inner: ClassVar[tuple[str, type[Part]] | None] = None

    @model_validator(mode="wrap")
    @classmethod
    def _outside_in(cls, value: Any, read: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        if not isinstance(value, dict):
            return read(value)
        fields = in_camel_case(value)
        if cls.inner is None or not isinstance(parts := fields.get(cls.inner[0]), list):
            return read(fields)._fitting(())
        name, kind = cls.inner
        whole = read(fields | {name: []})._fitting(parts)
        return whole.model_copy(update={name: tuple(part(kind, each, info.context) for each in parts)})

    def _fitting(self, parts: Sequence[JSON]) -> Self:  # noqa: ARG002
        """Itself, if its fields fit together; ``parts`` are as they came."""
        return self


class Part(OutsideIn):
    """A part of a rule."""


_P = TypeVar("_P", bound=Part)


def part(kind: type[_P], value: JSON, context: Mapping[str, bool] | None) -> _P:
    """A part as its own object: what is wrong with it is told as if it had been sent alone."""
    if not isinstance(value, dict):
        raise object_error({RULE_OBJECT_ERRORS_KEY: [not_an_object(value)]})
    known = {field.alias for field in kind.model_fields.values()}
    wrongs: dict[str, JSON] = {}
    if context:
        wrongs = {name: ["Unknown field."] for name in in_camel_case(value) if name not in known}
    try:
        read = kind.model_validate(value, context=dict(context or {}))
    except ValidationError as error:
        raise object_error(errors_by_field(error, object_errors_key=RULE_OBJECT_ERRORS_KEY) | wrongs) from None
    if wrongs:
        raise object_error(wrongs)
    return read


# --- what a rule watches ---------------------------------------------------------------------------------------


def _one_of(words: type[Any], read: Callable[[JSON], Any], sentence: str) -> BeforeValidator:
    values = [each.value for each in words]

    def check(value: JSON) -> Any:
        found = read(value)
        if found not in values:
            raise field_error(sentence.format(value=found, values=values))
        return words(found)

    return BeforeValidator(check)


def _query(value: JSON) -> str:
    query = text_or_blank(value)
    for term in query.split():
        if term == "release:latest":
            raise field_error(f"Unsupported Query: We do not currently support the {term} query")
    return query


def _event_types(value: JSON) -> tuple[EventType, ...]:
    known = {str(each): each for each in EventType}
    asked = [each.lower() if isinstance(each, str) else "" for each in listing(value)]
    if not set(asked) <= known.keys():
        raise field_error(f"Invalid event_type, valid values are {list(known)}")
    return tuple(known[each] for each in dict.fromkeys(asked))


def _owner(value: JSON) -> str | None:
    if value is None:
        return None
    named = mention(whole_if_integral(value)) or ""
    if mentions.parse_mention(named) is None:
        raise field_error(mentions.UNPARSABLE)
    return named


def _one_project(value: JSON) -> tuple[str, ...]:
    slugs = [text(each) for each in listing(value)]
    if len(slugs) > 1:
        raise field_error("Ensure this field has no more than 1 elements.")
    return tuple(slugs)


Query = Annotated[
    str,
    BeforeValidator(_query),
    WithJsonSchema(
        {
            "type": ["string", "number"],
            "pattern": r"^[^\u0000]*$",
            "not": {"type": "string", "pattern": r"(^|\s)release:latest(\s|$)"},
        }
    ),
]
DatasetField = Annotated[
    Dataset,
    _one_of(Dataset, text, "Invalid dataset, valid values are {values}"),
    WithJsonSchema({"type": "string", "enum": [str(each) for each in Dataset]}),
]
QueryTypeField = Annotated[
    QueryType,
    _one_of(QueryType, integer, "Invalid query type {value}, valid values are {values}"),
    WithJsonSchema(json_schema.choice_of(tuple(QueryType))),
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
_OWNER: Final = {
    "description": "Who owns it, in the forms of a mention. What names nobody is refused when the command is applied.",
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
    ],
}
Owner = Annotated[str | None, BeforeValidator(_owner), WithJsonSchema(_OWNER)]
OneProject = Annotated[
    tuple[str, ...],
    BeforeValidator(_one_project),
    WithJsonSchema(json_schema.list_of(json_schema.TEXT, most=1)),
]


# --- whom it tells ---------------------------------------------------------------------------------------------

_UNDERSCORED: Final = re.compile(r"_([a-z0-9])")

# Known names whose channels belong to other products: each needs an integration, and there is none here.
_FOREIGN: Final = {
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
    if value is not None and (not isinstance(value, str) or value not in {*ActionType, *_FOREIGN}):
        raise field_error(f"Invalid type, valid values are {[str(each) for each in ActionType]}")
    return text(value)


def _target_type(value: JSON) -> str:
    if value is not None and value not in _TARGET_TYPES:
        raise field_error(f"Invalid targetType, valid values are [{', '.join(_TARGET_TYPES)}]")
    return text(value)


class ActionSpec(Part):
    """Whom a trigger tells: a person or a team by e-mail, or an address of a webhook or a chat."""

    id: OptionalInteger = None
    type: Annotated[str, BeforeValidator(_action_type), WithJsonSchema({"enum": [str(each) for each in ActionType]})]
    target_type: Annotated[
        str, BeforeValidator(_target_type), WithJsonSchema({"enum": [str(each) for each in TargetType]})
    ]
    target_identifier: Annotated[str, *bounded_text(2000)]
    integration: OptionalInteger = None
    sentry_app: OptionalInteger = None
    priority: OptionalText = None

    def _fitting(self, parts: Sequence[JSON]) -> Self:  # noqa: ARG002
        allowed = _FOREIGN.get(self.type) or TARGETS[ActionType(self.type)]
        if self.target_type not in allowed:
            sentence = f"Invalid target type for {self.type}. Valid types are [{','.join(allowed)}]"
            raise object_error({"targetType": [sentence]})
        # In this order: the first three of the foreign ones spoke before priorities were looked at.
        for name, sentence in (self._missing_first(), self._wrong_priority(), self._missing(), self._wrong_address()):
            if sentence:
                raise object_error({name: [sentence]})
        return self

    def _missing_first(self) -> tuple[str, str]:
        return self._missing() if self.type in ("slack", "discord", "sentry_app") else ("", "")

    def _missing(self) -> tuple[str, str]:
        if self.type not in _FOREIGN:
            return "", ""
        if self.type == "sentry_app":
            return "sentryApp", "The installation does not exist." if self.sentry_app else (
                "SentryApp must be provided for sentry_app"
            )
        return "integration", "Integration does not exist" if self.integration else (
            f"Integration must be provided for {self.type}"
        )

    def _wrong_priority(self) -> tuple[str, str]:
        if self.priority is None:
            return "", ""
        product, known = _PRIORITIES.get(self.type, ("", []))
        if not product:
            return "priority", "Can only be set for Pagerduty or Opsgenie"
        return "priority", "" if self.priority in known else f"Allowed priorities for {product} are {known}"

    def _wrong_address(self) -> tuple[str, str]:
        is_url = self.type != ActionType.WEBHOOK or _is_url(self.target_identifier)
        return "targetIdentifier", "" if is_url else "Enter a valid URL."


def _is_url(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"\s", address)
    except ValueError:
        return False


_URL: Final = json_schema.spelled("[hH][tT][tT][pP][sS]?://[A-Za-z0-9.-]{1,200}(:[0-9]{1,5})?([/?#][!-~]{0,1000})?")


def _action_schema(kind: ActionType) -> dict[str, Any]:
    told = {
        "type": {"const": str(kind)},
        "targetType": {"enum": [str(each) for each in TARGETS[kind]]},
        # Some kinds of actions that belong to other products have one; none of these.
        "priority": {"type": "null"},
    }
    address = {"targetIdentifier": _URL} if kind is ActionType.WEBHOOK else {}
    return {
        "type": "object",
        "properties": ActionSpec.model_json_schema(mode="validation")["properties"] | told | address,
    }


ACTION_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "targetType", "targetIdentifier"],
    "anyOf": [_action_schema(kind) for kind in ActionType],
}
Actions = Annotated[
    tuple[ActionSpec, ...], BeforeValidator(listing), WithJsonSchema(json_schema.list_of(ACTION_SCHEMA))
]


class TriggerSpec(Part):
    """A line that a value may cross, and whom that tells."""

    inner: ClassVar[tuple[str, type[Part]] | None] = ("actions", ActionSpec)

    id: OptionalInteger = None
    label: Annotated[str, *bounded_text(64)]
    alert_threshold: Number
    excluded_projects: SlugsIfAny = ()
    actions: Actions = ()


def _trigger_schema(label: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": TriggerSpec.model_json_schema(mode="validation")["properties"] | {"label": {"const": label}},
        "required": ["label", "alertThreshold"],
    }


Triggers = Annotated[
    tuple[TriggerSpec, ...],
    BeforeValidator(listing),
    WithJsonSchema(
        {
            "type": "array",
            "prefixItems": [_trigger_schema(label) for label in TRIGGER_LABELS],
            "minItems": 1,
            "maxItems": len(TRIGGER_LABELS),
        }
    ),
]
