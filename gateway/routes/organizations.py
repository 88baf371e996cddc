"""An organization and who is in it: for any member, and for mention completion."""

from __future__ import annotations

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation, Parameter
from gateway.http.pagination import Page, cursor_text, page_response, parse_page
from gateway.http.responses import HttpResponse, read_answer
from gateway.reads.database import Rows
from models.directory.queries import person_from_row
from models.policy import MEMBERS, ORGANIZATION, PROJECTS, TEAMS
from models.serializers import member_json, organization_json, team_or_project_json

PAGE = 100


async def read_organization(visit: RequestContext) -> HttpResponse:
    """The organization itself."""
    row = await visit.services.queries.organization(visit.organization.id)
    return read_answer(organization_json(row), version=0, if_none_match=visit.if_none_match)


async def list_members(visit: RequestContext) -> HttpResponse:
    """Active people of the organization."""
    page = parse_page(visit.query, default=PAGE)
    rows = await visit.services.queries.members(visit.organization.id, _wanted(visit), page)
    return page_response(
        page,
        rows,
        key=lambda row: (row.member_id,),
        shape=lambda row: member_json(row.member_id, role=row.role, person=person_from_row(row), teams=row.teams),
        url=visit.url,
        query=visit.query,
    )


async def list_teams(visit: RequestContext) -> HttpResponse:
    """Active teams of the organization."""
    page = parse_page(visit.query, default=PAGE, kinds=(cursor_text,))
    return _named(visit, page, await visit.services.queries.teams(visit.organization.id, _wanted(visit), page))


async def list_projects(visit: RequestContext) -> HttpResponse:
    """Projects that the caller has access to."""
    page = parse_page(visit.query, default=PAGE, kinds=(cursor_text,))
    rows = await visit.services.queries.projects(visit.actor, visit.organization, _wanted(visit), page)
    return _named(visit, page, rows)


def _wanted(visit: RequestContext) -> str:
    return visit.query.get("query", "")


def _named(visit: RequestContext, page: Page, rows: Rows) -> HttpResponse:
    return page_response(
        page,
        rows,
        key=lambda row: (row.slug,),
        shape=lambda row: team_or_project_json(row._mapping),
        url=visit.url,
        query=visit.query,
    )


_QUERY = (Parameter("query", "only those whose name contains this, in any case"),)

ADDRESSES = (
    Endpoint(
        "/api/0/organizations/{organization}/",
        {"GET": Operation(read_organization, "Read an organization", {200: "Organization"}, has_etag=True)},
        tag="organizations",
        permission=ORGANIZATION,
    ),
    Endpoint(
        "/api/0/organizations/{organization}/members/",
        {"GET": Operation(list_members, "List members", {200: "Member"}, parameters=_QUERY, is_list=True)},
        tag="organizations",
        permission=MEMBERS,
    ),
    Endpoint(
        "/api/0/organizations/{organization}/teams/",
        {"GET": Operation(list_teams, "List teams", {200: "Team"}, parameters=_QUERY, is_list=True)},
        tag="organizations",
        permission=TEAMS,
    ),
    Endpoint(
        "/api/0/organizations/{organization}/projects/",
        {"GET": Operation(list_projects, "List projects", {200: "Project"}, parameters=_QUERY, is_list=True)},
        tag="organizations",
        permission=PROJECTS,
    ),
)
