"""Field types of entities in JSON. An entity is a ``TypedDict`` beside the serializer that builds it.

Each declaration is used twice: the type checker compares the serializer with it, field by field, and
:mod:`gateway.openapi.entity_schema` derives the entity's OpenAPI schema from it. A serializer's result is a plain
``dict``, so that the declaration costs nothing when lists are rendered.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated


@dataclass(frozen=True, slots=True)
class SchemaKeywords:
    """What the JSON Schema of an annotated type says in addition to its Python type; ``enum`` lists the values."""

    format: str | None = None
    pattern: str | None = None
    enum: type[Enum] | None = None
    description: str | None = None


Id = Annotated[str, SchemaKeywords(pattern="^[0-9]+$")]
Uuid = Annotated[str, SchemaKeywords(format="uuid")]
DateTime = Annotated[str, SchemaKeywords(format="date-time")]
