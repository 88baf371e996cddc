"""Field types for entities in JSON. Each entity is a ``TypedDict``, declared beside the serializer that builds it.

Each declaration is used twice: the type checker checks the serializer against it, field by field, and
:mod:`gateway.openapi.entity_schema` derives the entity's OpenAPI schema from it. A serializer returns a plain ``dict``,
so the declaration adds no cost when lists are rendered.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated


@dataclass(frozen=True, slots=True)
class SchemaKeywords:
    """JSON Schema keywords that annotate a type with what the Python type itself cannot express.

    ``enum`` holds the allowed values.
    """

    format: str | None = None
    pattern: str | None = None
    enum: type[Enum] | None = None
    description: str | None = None


Id = Annotated[str, SchemaKeywords(pattern="^[0-9]+$")]
Uuid = Annotated[str, SchemaKeywords(format="uuid")]
DateTime = Annotated[str, SchemaKeywords(format="date-time")]
