"""`tocsin explain`: why a person was, or was not, notified of an incident's comments and status changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from models.directory.tables import organizations, users
from models.incidents.incident import incidents
from models.notifications.derivation import ExplainedActivity
from models.notifications.explanation import ExplainedDecision
from models.serializers.notifications import decisions_json
from models.timestamps import iso
from models.types import MAX_ID
from workers.cli.common import DataOption, JsonOption, print_json, print_line
from workers.cli.database import transaction
from workers.cli.errors import CliError
from workers.notify.explanation import explain_incident


def explain(
    incident: Annotated[int, typer.Argument(metavar="INCIDENT", help="The incident's number.")],
    *,
    organization: Annotated[str, typer.Option(metavar="O", help="The organization's slug.")],
    user: Annotated[str, typer.Option(metavar="U", help="The person's username.")],
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain why a person was, or was not, notified of an incident's comments and status changes, newest first."""
    with transaction(data) as connection:
        organization_id = _organization_id(connection, organization)
        user_id = _user_id(connection, user)
        incident_id = _incident_id(connection, organization_id, organization, incident)
        explained = explain_incident(connection, incident_id, user_id)
    if as_json:
        print_json(decisions_json(decision for activity in explained for decision in activity.decisions))
        return
    for line in _lines(explained):
        print_line(line)


def _lines(explained: Sequence[ExplainedActivity]) -> Iterator[str]:
    if not explained:
        yield "nothing has happened on this incident of which people are notified"
    for activity in explained:
        yield f"activity {activity.activity_id}" + (f", {activity.type}" if activity.type else "")
        for decision in activity.decisions:
            yield f"  {_line(decision)}"


def _line(decision: ExplainedDecision) -> str:
    recorded = "not recorded" if decision.at is None else iso(decision.at)
    facts = ", ".join(filter(None, [f"rule {decision.rule}", decision.detail, f"event {decision.event_id}", recorded]))
    return f"{decision.explanation} ({facts})"


def _organization_id(connection: Connection, slug: str) -> int:
    found: int | None = connection.execute(select(organizations.c.id).where(organizations.c.slug == slug)).scalar()
    if found is None:
        raise CliError(f'there is no organization "{slug}": `tocsin directory export` lists the organizations')
    return found


def _user_id(connection: Connection, username: str) -> int:
    query = select(users.c.id).where(func.lower(users.c.username) == func.lower(username))
    found: int | None = connection.execute(query).scalar()
    if found is None:
        raise CliError(f'there is no user "{username}": `tocsin directory export` lists the users')
    return found


def _incident_id(connection: Connection, organization_id: int, slug: str, identifier: int) -> int:
    query = select(incidents.c.id).where(
        incidents.c.organization_id == organization_id,
        incidents.c.identifier == (identifier if 0 < identifier <= MAX_ID else 0),
    )
    found: int | None = connection.execute(query).scalar()
    if found is None:
        raise CliError(
            f'there is no incident {identifier} in the organization "{slug}": its number is the `identifier` in'
            f" GET /api/0/organizations/{slug}/incidents/"
        )
    return found
