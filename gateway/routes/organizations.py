"""Endpoints for an organization and its members, teams and projects. Clients also use them to complete mentions."""

from __future__ import annotations

from gateway.api.context import RequestContext
from gateway.api.endpoint import Endpoint, Operation, Parameter
from gateway.http.pagination import Page, cursor_text, page_response, parse_page
from gateway.http.responses import HttpResponse, conditional_response
from gateway.reads.database import Rows
from models.directory.queries import person_from_row
from models.permissions import MEMBERS, ORGANIZATION, PROJECTS, TEAMS
from models.serializers.directory import member_json, organization_json, team_or_project_json

PAGE = 100


async def read_organization(context: RequestContext) -> HttpResponse:
    """Read the organization."""
    row = await context.container.queries.organization(context.organization.id)
    return conditional_response(organization_json(row), version=0, if_none_match=context.if_none_match)


async def list_members(context: RequestContext) -> HttpResponse:
    """List the organization's active members."""
    page = parse_page(context.query, default=PAGE)
    rows = await context.container.queries.members(context.organization.id, _name_query(context), page)
    return page_response(
        page,
        rows,
        key_of=lambda row: (row.member_id,),
        serialize=lambda row: member_json(row.member_id, role=row.role, person=person_from_row(row), teams=row.teams),
        url=context.url,
        query=context.query,
    )


async def list_teams(context: RequestContext) -> HttpResponse:
    """List the organization's active teams."""
    page = parse_page(context.query, default=PAGE, key_parsers=(cursor_text,))
    return _slug_page(
        context, page, await context.container.queries.teams(context.organization.id, _name_query(context), page)
    )


async def list_projects(context: RequestContext) -> HttpResponse:
    """List the projects that the caller has access to."""
    page = parse_page(context.query, default=PAGE, key_parsers=(cursor_text,))
    rows = await context.container.queries.projects(context.actor, context.organization, _name_query(context), page)
    return _slug_page(context, page, rows)


def _name_query(context: RequestContext) -> str:
    return context.query.get("query", "")


def _slug_page(context: RequestContext, page: Page, rows: Rows) -> HttpResponse:
    return page_response(
        page,
        rows,
        key_of=lambda row: (row.slug,),
        serialize=lambda row: team_or_project_json(row._mapping),
        url=context.url,
        query=context.query,
    )


_QUERY = (Parameter("query", "Part of the name, case-insensitive."),)

ENDPOINTS = (
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
