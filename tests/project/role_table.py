"""The table of docs/messages.md that says which role may send which command, made from the catalog and the policy.

``python -m tests.project.role_table`` prints it.
"""

from __future__ import annotations

import sys
from contextlib import suppress

from models.directory.tokens import DEFAULT_SCOPES
from models.enums import CallerKind, IncidentStatus, Role
from models.policy import (
    Actor,
    OrganizationFacts,
    require_may_submit,
    require_organization_access,
    require_status_scope,
    require_token_scope,
)
from models.refusals import Refusal
from models.role_scopes import ALL_SCOPES
from tasks.commands.catalog import CATALOG, CatalogEntry
from tasks.commands.incidents import SetStatus

_ID = 1


def role_table() -> str:
    """Return the table in Markdown, with one row per command."""
    rows = [["command", *Role, "service"], ["---"] * (len(Role) + 2)]
    for name, entry in CATALOG.items():
        by_role = [_of_role(entry, role) for role in Role]
        rows.append([f"`{name}`", *by_role, _of_service(entry)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _of_role(entry: CatalogEntry, role: Role) -> str:
    actor = Actor(CallerKind.USER, user_id=1, role=role)
    if not _may_send(entry, actor, _organization()):
        return "–"
    if entry.command_class is SetStatus and not _may_set_any_status(actor):
        return "close"
    return "yes" if _may_send(entry, actor, _organization(has_options=False)) else "option"


def _of_service(entry: CatalogEntry) -> str:
    kind = CallerKind.SERVICE
    if not _may_send(entry, Actor(kind, organization_id=_ID, scopes=ALL_SCOPES), _organization()):
        return "–"
    by_default = Actor(kind, organization_id=_ID, scopes=DEFAULT_SCOPES[kind])
    return "yes" if _may_send(entry, by_default, _organization()) else "scope"


def _may_send(entry: CatalogEntry, actor: Actor, organization: OrganizationFacts) -> bool:
    with suppress(Refusal):
        require_token_scope(actor, entry.permission, entry.method)
        require_organization_access(actor, organization, entry.permission, entry.method)
        require_may_submit(actor, for_people=entry.for_people, for_services=entry.for_services)
        return True
    return False


def _may_set_any_status(actor: Actor) -> bool:
    with suppress(Refusal):
        require_status_scope(actor, _organization(), IncidentStatus.CRITICAL)
        return True
    return False


def _organization(*, has_options: bool = True) -> OrganizationFacts:
    features = frozenset({"organizations:incidents"})
    return OrganizationFacts(_ID, "acme", features, alerts_member_write=has_options, events_member_admin=has_options)


if __name__ == "__main__":
    sys.stdout.write(role_table() + "\n")
