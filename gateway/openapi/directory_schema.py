"""The schema of the directory document: what an object of each section may contain."""

from __future__ import annotations

from typing import Any, Final

from gateway.openapi.entity_schema import Json
from models.directory.document import MAX_GIVEN_ID, NATURAL_KEYS
from models.directory.rows import OPTIONS
from models.directory.tables import TOKEN_KINDS
from models.enums import Feature, ObjectStatus, OpsRole, Role
from models.role_scopes import ALL_SCOPES
from tasks.commands import json_schema

_ID: Final[Json] = {
    "type": "integer",
    "minimum": 1,
    "maximum": MAX_GIVEN_ID,
    "description": "Assigned unless it is given. With another name, the object renames the row that has this id.",
}
_SLUG: Final[Json] = {"type": "string", "pattern": r"^(?![0-9]+$)[a-z0-9_-]{1,100}$"}
_USERNAME: Final[Json] = {
    "type": "string",
    "minLength": 1,
    "maxLength": 128,
    "description": "Unique regardless of case, without invisible characters and outer blanks.",
}
_NAME: Final[Json] = {"type": "string", "minLength": 1, "maxLength": 200}
_FLAG: Final[Json] = {"type": "boolean"}
_STATUS: Final[Json] = {"type": "string", "enum": [str(each) for each in ObjectStatus]}


def _slugs(description: str) -> Json:
    return {"type": "array", "items": _SLUG, "description": description}


def _choice(values: Any, **more: Any) -> Json:
    return {"type": "string", "enum": [str(each) for each in values], **more}


_PROPERTIES: Final[dict[str, Json]] = {
    "organizations": {
        "id": _ID,
        "slug": _SLUG,
        "name": _NAME,
        "features": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 200},
            "description": f"Replaces the features. Without {Feature.INCIDENTS}, incidents and alert rules are 404.",
        },
        "options": json_schema.component(
            "DirectoryOptions",
            {
                "type": "object",
                "properties": dict.fromkeys(OPTIONS, _FLAG),
                "additionalProperties": False,
                "description": "All are true unless they are set. Options that are left out keep their values.",
            },
        ),
    },
    "users": {
        "id": _ID,
        "username": _USERNAME,
        "name": _NAME,
        "email": {"type": "string", "maxLength": 254, "description": "Empty for a person who gets no mail."},
        "is_active": _FLAG,
        "is_superuser": _FLAG,
        "timezone": {"type": "string", "description": "A name of the IANA time zone database, UTC by default."},
    },
    "projects": {"id": _ID, "organization": _SLUG, "slug": _SLUG, "name": _NAME, "status": _STATUS},
    "teams": {
        "id": _ID,
        "organization": _SLUG,
        "slug": _SLUG,
        "name": _NAME,
        "status": _STATUS,
        "projects": _slugs("Replaces the team's projects."),
    },
    "members": {
        "id": _ID,
        "organization": _SLUG,
        "user": _USERNAME,
        "role": {
            "type": ["string", "null"],
            "enum": [*(str(each) for each in Role), None],
            "description": "Null removes the member.",
        },
        "teams": _slugs("Replaces the member's teams."),
    },
    "tokens": {
        "id": _ID,
        "token": {
            "type": "string",
            "pattern": "^[!-~]{1,255}$",
            "description": "The secret, of which a hash is stored.",
        },
        "kind": _choice(TOKEN_KINDS, description="May be left out if there is a user."),
        "user": _USERNAME,
        "organization": _SLUG,
        "name": _NAME,
        "scopes": {"type": "array", "items": _choice(sorted(ALL_SCOPES))},
        "act_as": _FLAG,
        "role": _choice(OpsRole),
    },
}

_COMPONENTS: Final = {
    "organizations": "DirectoryOrganization",
    "users": "DirectoryUser",
    "projects": "DirectoryProject",
    "teams": "DirectoryTeam",
    "members": "DirectoryMember",
    "tokens": "DirectoryToken",
}


def directory_schema() -> Json:
    """Return the schema of the document. Whatever it forbids is refused."""
    return {
        "type": "object",
        "description": "An import only creates or changes what is listed. An export has no tokens.",
        "properties": {
            section: {
                "type": "array",
                "items": json_schema.component(
                    _COMPONENTS[section],
                    {
                        "type": "object",
                        "properties": properties,
                        "required": list(NATURAL_KEYS[section]),
                        "additionalProperties": False,
                    },
                ),
            }
            for section, properties in _PROPERTIES.items()
        },
        "additionalProperties": False,
    }
