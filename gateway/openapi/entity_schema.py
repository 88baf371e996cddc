"""JSON Schemas for entities, derived from their ``TypedDict`` declarations (:mod:`models.json_fields`)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from models.json_fields import SchemaKeywords

Json = dict[str, Any]
ComponentNames = Mapping[type, str]
"""The component names of the types that are components of the OpenAPI document. Fields refer to them by ``$ref``."""

_SCALARS: Final[Mapping[Any, Json]] = {
    Any: {},
    NoneType: {"type": "null"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
}


def component_reference(name: str) -> Json:
    """Return a reference to a component in the OpenAPI document."""
    return {"$ref": f"#/components/schemas/{name}"}


def entity_schema(entity: type, names: ComponentNames) -> Json:
    """Return the object schema for a ``TypedDict``. All fields are required, except those marked ``NotRequired``.

    :raises TypeError: if a field has a type for which no schema is defined.
    """
    hints = get_type_hints(entity, include_extras=True)
    return {
        "type": "object",
        "properties": {name: _schema(hint, names) for name, hint in hints.items()},
        "required": [name for name, hint in hints.items() if get_origin(hint) is not NotRequired],
    }


def _schema(hint: Any, names: ComponentNames) -> Json:
    if hint in _SCALARS:
        return dict(_SCALARS[hint])
    if hint in names:
        return component_reference(names[hint])
    if is_typeddict(hint):
        return entity_schema(hint, names)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum_schema(hint)
    return _generic_schema(get_origin(hint), get_args(hint), names)


def _generic_schema(origin: Any, arguments: tuple[Any, ...], names: ComponentNames) -> Json:
    match origin, arguments:
        case (_, (annotated, SchemaKeywords() as keywords)) if origin is Annotated:
            return _schema(annotated, names) | _keywords(keywords)
        case (_, (inner,)) if origin is NotRequired:
            return _schema(inner, names)
        case (_, (str(), _, *_)) if origin is Literal:
            return {"type": "string", "enum": list(arguments)}
        case (_, (value,)) if origin is Literal:
            return _SCALARS[type(value)] | {"const": value}
        case (_, (item,)) if origin is list:
            return {"type": "array", "items": _schema(item, names)}
        case (_, (_, value)) if origin is dict:
            values = _schema(value, names)
            return {"type": "object"} | ({"additionalProperties": values} if values else {})
        case (_, (inner, none)) if origin in (Union, UnionType) and none is NoneType:
            return _nullable(_schema(inner, names))
    raise TypeError(f"no JSON Schema for {origin}{list(arguments)}: add the type to gateway.openapi.entity_schema")


def _enum_schema(enum: type[Enum]) -> Json:
    values = [member.value for member in enum]
    return {"type": "integer" if isinstance(values[0], int) else "string", "enum": values}


def _keywords(keywords: SchemaKeywords) -> Json:
    texts = {"format": keywords.format, "pattern": keywords.pattern, "description": keywords.description}
    enum = {} if keywords.enum is None else _enum_schema(keywords.enum)
    return {name: text for name, text in texts.items() if text is not None} | enum


def _nullable(schema: Json) -> Json:
    if "$ref" in schema or schema["type"] == "object":
        return {"anyOf": [schema, {"type": "null"}]}
    values = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return schema | {"type": [schema["type"], "null"]} | values
