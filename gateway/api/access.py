"""Checks 10 and 11: whether the resource in the request's path exists (10), and whether the caller may access it (11).

Checks 1 to 9 are the same for every endpoint and belong to :mod:`gateway.api.pipeline`.
"""

from __future__ import annotations

from gateway.api.context import RequestContext
from models.alert_rules.alert_rule import AlertRule
from models.policy import ProjectFacts, require_project_access
from models.refusals import NotFound


async def require_incident(context: RequestContext, number: int) -> None:
    """Require that the caller has access to at least one of the incident's projects.

    :raises NotFound: if the organization has no incident with this number.
    :raises Forbidden: if the caller has access to none of the incident's projects.
    """
    projects = await context.container.queries.incident_projects(context.organization.id, number)
    require_project_access(context.actor, context.organization, projects)


async def require_rule(context: RequestContext) -> AlertRule:
    """Return the alert rule in the path. If the path names a project, the rule must belong to that project.

    :raises NotFound: if there is no such rule or project.
    :raises Forbidden: if the caller has access to none of the rule's projects or, if the path names a project, no
        access to that one.
    """
    organization, rules = context.organization, context.container.rules
    in_project = "project" in context.path_parameters
    project = await rules.project(organization.id, context.project_slug()) if in_project else None
    rule, projects = await rules.rule(organization.id, context.row_id("rule"))
    if project is not None and project.id not in rule.projects:
        raise NotFound
    require_project_access(context.actor, organization, projects if project is None else [project])
    return rule


async def require_project(context: RequestContext) -> ProjectFacts:
    """Return the project in the path.

    :raises NotFound: if there is no such active project.
    :raises Forbidden: if the caller has no access to the project.
    """
    project = await context.container.rules.project(context.organization.id, context.project_slug())
    require_project_access(context.actor, context.organization, [project])
    return project
