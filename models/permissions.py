"""The scopes that each group of endpoints requires, by HTTP method; :mod:`models.policy` applies them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from models.enums import Feature
from models.role_scopes import MEMBER_SCOPES


@dataclass(frozen=True, slots=True)
class Permission:
    """The scopes that a group of endpoints requires, by HTTP method. Any one of a method's scopes suffices.

    ``without_feature`` holds the methods that are allowed even if the organization's plan does not include the feature.
    """

    name: str
    scopes: Mapping[str, frozenset[str]]
    feature: Feature | None = None
    without_feature: frozenset[str] = frozenset()

    def required_feature(self, method: str) -> Feature | None:
        """Return the feature that the organization's plan must include for this method, if any."""
        return None if method in self.without_feature else self.feature


def _scopes(*names: str) -> frozenset[str]:
    return frozenset(names)


_ORGANIZATION_READ = _scopes("org:read", "org:write", "org:admin")
_INCIDENT_WRITE = _scopes("org:write", "org:admin", "project:read", "project:write", "project:admin")
_INCIDENT_READ = _INCIDENT_WRITE | {"org:read"}
MAY_OPEN = _scopes("org:write", "org:admin", "project:write", "project:admin")
"""The scopes that allow opening an incident and setting any status except closed."""

INCIDENT: Final = Permission(
    "incident",
    {"GET": _INCIDENT_READ, "POST": _INCIDENT_WRITE, "PUT": _INCIDENT_WRITE, "DELETE": _INCIDENT_WRITE},
    Feature.INCIDENTS,
)
INCIDENTS: Final = Permission("incidents", {"GET": _INCIDENT_READ, "POST": MAY_OPEN}, Feature.INCIDENTS)
_RULE_WRITE = _scopes("org:write", "org:admin", "alerts:write")
_RULE_READ = _RULE_WRITE | {"org:read", "alerts:read"}
_PROJECT_RULE_WRITE = _scopes("project:write", "project:admin", "alerts:write")
_PROJECT_RULE_READ = _PROJECT_RULE_WRITE | {"project:read", "alerts:read"}
_CHANGES: Final = ("POST", "PUT", "DELETE")
_DOWNGRADED: Final = _scopes("DELETE")
"""The methods that remain allowed without the feature, so that an organization can still delete its rules."""

_OF_ORGANIZATION = {"GET": _RULE_READ} | dict.fromkeys(_CHANGES, _RULE_WRITE)
_OF_PROJECT = {"GET": _PROJECT_RULE_READ} | dict.fromkeys(_CHANGES, _PROJECT_RULE_WRITE)
ALERT_RULES: Final = Permission("alert rules", _OF_ORGANIZATION, Feature.INCIDENTS)
"""The permission for the list of rules, their triggers and their observations. Every method requires the feature."""
ALERT_RULE: Final = Permission("alert rule", _OF_ORGANIZATION, Feature.INCIDENTS, without_feature=_DOWNGRADED)
PROJECT_ALERT_RULES: Final = Permission("project's alert rules", _OF_PROJECT, Feature.INCIDENTS)
PROJECT_ALERT_RULE: Final = Permission(
    "project's alert rule", _OF_PROJECT, Feature.INCIDENTS, without_feature=_DOWNGRADED
)
AVAILABLE_ACTIONS: Final = Permission(
    "available actions",
    {
        "GET": _ORGANIZATION_READ,
        "POST": _scopes("org:write", "org:admin"),
        "PUT": _scopes("org:write", "org:admin"),
        "DELETE": _scopes("org:admin"),
    },
    Feature.INCIDENTS,
)
ORGANIZATION: Final = Permission("organization", {"GET": _ORGANIZATION_READ})
MEMBERS: Final = Permission("members", {"GET": _ORGANIZATION_READ | {"member:read", "member:write", "member:admin"}})
TEAMS: Final = Permission("teams", {"GET": _ORGANIZATION_READ | {"team:read", "team:write", "team:admin"}})
PROJECTS: Final = Permission(
    "projects", {"GET": _ORGANIZATION_READ | {"project:read", "project:write", "project:admin"}}
)
INBOX: Final = Permission("inbox", {"GET": MEMBER_SCOPES | _INCIDENT_READ, "POST": MEMBER_SCOPES | _INCIDENT_READ})
PREFERENCES: Final = Permission(
    "preferences", {"GET": MEMBER_SCOPES | _INCIDENT_READ, "PUT": MEMBER_SCOPES | _INCIDENT_READ}
)
"""The permission for a person's own preferences, which belong to no organization: the token's scopes decide alone."""
WEBHOOKS: Final = Permission("webhooks", dict.fromkeys(("GET", *_CHANGES), _scopes("org:write", "org:admin")))
"""The permission for webhooks, which managers and owners have: a webhook receives the events of every project."""
CHAT_DESTINATIONS: Final = Permission("chat destinations", WEBHOOKS.scopes)
"""The permission for chat destinations, which managers and owners have, for the same reason."""
COMMANDS: Final = Permission("commands", dict.fromkeys(("GET", "POST"), MEMBER_SCOPES | _INCIDENT_READ))
"""The permission for the list of commands and for the bulk endpoint.

Every item of a bulk request is also checked against the permission for its own endpoint.
"""
