"""The scopes that each role grants, named as in Sentry."""

from __future__ import annotations

from typing import Final

from models.enums import Role

MEMBER_SCOPES: Final = frozenset(
    {
        "org:read",
        "member:read",
        "team:read",
        "project:read",
        "project:releases",
        "event:read",
        "event:write",
        "event:admin",
        "alerts:read",
        "alerts:write",
    }
)
ADMIN_SCOPES: Final = MEMBER_SCOPES | {
    "org:integrations",
    "team:write",
    "team:admin",
    "project:write",
    "project:admin",
}
MANAGER_SCOPES: Final = ADMIN_SCOPES | {"org:write", "member:write", "member:admin"}
OWNER_SCOPES: Final = MANAGER_SCOPES | {"org:admin"}

ROLE_SCOPES: Final[dict[Role, frozenset[str]]] = {
    Role.MEMBER: MEMBER_SCOPES,
    Role.ADMIN: ADMIN_SCOPES,
    Role.MANAGER: MANAGER_SCOPES,
    Role.OWNER: OWNER_SCOPES,
}
"""The scopes that each role grants, before the organization's options restrict them."""

GLOBAL_ROLES: Final = frozenset({Role.MANAGER, Role.OWNER})
"""The roles that have access to every project, even if the organization does not have open membership."""

ALL_SCOPES: Final = OWNER_SCOPES | {"org:ci", "openid", "profile", "email"}
"""Every scope that a token may have."""
