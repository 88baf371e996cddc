"""Endpoints that open, list, read and close incidents, mark them as seen, and list their activity and subscribers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from gateway.api.access import require_incident
from gateway.api.context import RequestContext
from gateway.api.endpoint import REPEATABLE_TEXT, Endpoint, Operation, Parameter
from gateway.api.submit import submit_command
from gateway.http.pagination import cursor_int, cursor_time, page_response, parse_page
from gateway.http.responses import HttpResponse, conditional_response, json_response
from gateway.reads.incident_list import IncidentListItem
from gateway.reads.queries import author_from_row
from models.directory.queries import person_from_row
from models.enums import IncidentStatus
from models.incidents.queries import activity_from_row
from models.permissions import INCIDENT, INCIDENTS
from models.policy import require_may_explain, require_person, require_project_access
from models.refusals import InvalidFields, StringRefusal
from models.serializers.incidents import (
    IncidentJson,
    IncidentRule,
    activity_json,
    incident_details_json,
    incident_json,
    subscriber_json,
)
from models.serializers.notifications import decisions_json
from models.types import JSON
from tasks.commands import json_schema
from tasks.commands.fields import NOT_AN_INTEGER, identifier
from tasks.commands.incidents import MarkSeen, OpenIncident, SetStatus

LIST_PAGE = 25
ACTIVITY_PAGE = 100
SUBSCRIBER_PAGE = 100


async def open_incident(context: RequestContext) -> HttpResponse:
    """Open an incident and return 201 with it, or return 200 with an open incident that has the same `dedupKey`."""
    return await submit_command(context, OpenIncident)


async def list_incidents(context: RequestContext) -> HttpResponse:
    """List the incidents in the given projects (by default, the projects of the caller's teams), latest start first."""
    incident_list, query, viewer = context.container.incident_list, context.query, context.actor.user_id
    incident_filter = await incident_list.parse_filter(query, context.actor, context.organization)
    page = parse_page(query, default=LIST_PAGE, key_parsers=(cursor_time, cursor_int))
    keys = await incident_list.keys(incident_filter, page)
    expand = query.getlist("expand")
    items = await incident_list.items(keys, activities="activities" in expand, seen_by="seen_by" in expand)
    alert_rules = await context.container.rules.incident_rules([each.incident for each in items.values()], viewer)
    shows_original = "original_alert_rule" in expand
    rules = (
        {each.snapshot.rule.id: each.snapshot.rule for each in alert_rules.values()}
        if "latestIncident" in expand
        else {}
    )
    latest = await context.container.rules.latest_incidents(list(rules.values()), viewer)
    return page_response(
        page,
        # An incident that was deleted after its key was read is skipped.
        [key for key in keys if key.incident_id in items],
        key_of=lambda row: (row.date_started, row.incident_id),
        serialize=lambda row: _with_latest_incident(
            _item_json(items[row.incident_id], viewer, alert_rules.get(row.incident_id), shows_original=shows_original),
            latest,
        ),
        url=context.url,
        query=query,
    )


def _with_latest_incident(incident: IncidentJson, latest: Mapping[int, JSON]) -> JSON:
    """Add to an incident the latest incident of its rule, if the query requested it."""
    rule = incident["alertRule"]
    if rule is None or int(rule["id"]) not in latest:
        return incident
    return {**incident, "alertRule": {**rule, "latestIncident": latest[int(rule["id"])]}}


def _item_json(
    item: IncidentListItem, viewer: int | None, alert_rule: IncidentRule | None, *, shows_original: bool
) -> IncidentJson:
    number = item.incident.identifier
    activities = None
    if item.activities is not None:
        activities = [activity_json(each, identifier=number, user=by) for each, by in item.activities]
    return incident_json(
        item.incident,
        projects=item.projects,
        activities=activities,
        seen_by=item.seen_by,
        viewer=viewer,
        alert_rule=alert_rule,
        shows_original=shows_original,
    )


async def read_incident(context: RequestContext) -> HttpResponse:
    """Read an incident."""
    organization, viewer = context.organization, context.actor.user_id
    found, projects = await context.container.queries.incident(organization.id, context.incident_number(), viewer)
    require_project_access(context.actor, organization, projects)
    alert_rules = await context.container.rules.incident_rules([found.incident], viewer)
    details = incident_details_json(
        found.incident,
        projects=found.projects,
        seen_by=found.seen_by,
        viewer=viewer,
        is_subscribed=found.is_subscribed,
        alert_rule=alert_rules.get(found.incident.id),
    )
    return conditional_response(details, version=found.incident.version, if_none_match=context.if_none_match)


async def close_incident(context: RequestContext) -> HttpResponse:
    """Close an incident and return 200 with the incident. Other statuses are set through `commands/`."""
    return await submit_command(context, SetStatus, incident=context.incident_number(), require=_require_closed)


async def mark_seen(context: RequestContext) -> HttpResponse:
    """Mark an incident as seen by the caller and return 201. Only a member of the incident's projects is recorded."""
    return await submit_command(context, MarkSeen, incident=context.incident_number(), has_body=False)


def _require_closed(command: SetStatus) -> None:
    if command.status != IncidentStatus.CLOSED:
        raise StringRefusal("Status cannot be changed.")


async def list_activity(context: RequestContext) -> HttpResponse:
    """List an incident's activity, newest first unless `desc` says otherwise."""
    number = context.incident_number()
    await require_incident(context, number)
    page = parse_page(context.query, default=ACTIVITY_PAGE, key_parsers=(cursor_time, cursor_int))
    descending = context.query.get("desc", "1") == "1"
    rows = await context.container.queries.activities(context.organization.id, number, page, descending=descending)
    return page_response(
        page,
        rows,
        key_of=lambda row: (row.date_added, row.id),
        serialize=lambda row: activity_json(activity_from_row(row), identifier=number, user=author_from_row(row)),
        url=context.url,
        query=context.query,
    )


async def list_subscribers(context: RequestContext) -> HttpResponse:
    """List an incident's subscribers, and why each is subscribed."""
    number = context.incident_number()
    await require_incident(context, number)
    page = parse_page(context.query, default=SUBSCRIBER_PAGE)
    rows = await context.container.queries.subscribers(context.organization, number, page)
    return page_response(
        page,
        rows,
        key_of=lambda row: (row.id,),
        serialize=lambda row: subscriber_json(person_from_row(row), row.reason),
        url=context.url,
        query=context.query,
    )


async def explain_incident(context: RequestContext) -> HttpResponse:
    """Return why a person was, or was not, notified of an incident's comments and status changes, newest first."""
    number, organization = context.incident_number(), context.organization
    projects = await context.container.queries.incident_projects(organization.id, number)
    require_project_access(context.actor, organization, projects)
    user = _explained_user(context)
    require_may_explain(context.actor, user)
    found = await context.container.decisions.of_incident(organization, number, projects, user)
    return json_response(200, decisions_json(found))


def _explained_user(context: RequestContext) -> int:
    if "user" not in context.query:
        require_person(context.actor)
        return context.actor.user_id or 0
    user = identifier(context.query["user"])
    if user is None:
        raise InvalidFields({"user": [NOT_AN_INTEGER]})
    return user


# Other date formats are accepted, too.
DATE = {"type": "string", "format": "date-time"}

_LIST_PARAMETERS = (
    Parameter(
        "project",
        "Project ids, repeatable; -1 selects all projects that the caller has access to. Without it: the projects of"
        " the caller's teams, or all for a service.",
        {"type": "array", "items": {"type": "integer"}},
    ),
    Parameter(
        "projectSlug", "Project slugs, repeatable; $all selects all. Takes precedence over project.", REPEATABLE_TEXT
    ),
    Parameter("environment", "Environment names of the alert rule, repeatable.", REPEATABLE_TEXT),
    Parameter("alertRule", "Id of the alert rule.", {"type": "integer"}),
    Parameter("includeSnapshots", "With alertRule: also incidents of the rule's earlier generations."),
    Parameter("start", "Omits incidents closed before this date; UTC without an offset.", DATE),
    Parameter("end", "Omits incidents started after this date; UTC without an offset.", DATE),
    Parameter("status", "open (every status but closed), warning, critical or closed; other values are ignored."),
    Parameter(
        "team",
        "Owner of the alert rule: team ids, myteams or unassigned, repeatable.",
        {"type": "array", "items": {"type": "string", "pattern": "^([0-9]+|myteams|unassigned)$"}},
    ),
    Parameter("title", "Part of the title, case-insensitive."),
    Parameter(
        "dedupKey",
        "Finds one incident by its key: the open one, else the latest; in all projects that the caller has access to,"
        " unless projects are given.",
    ),
    Parameter(
        "expand",
        "activities (at most 1,000 per page), seen_by, original_alert_rule or latestIncident; repeatable.",
        REPEATABLE_TEXT,
    ),
)

_incident_endpoint = partial(Endpoint, tag="incidents", permission=INCIDENT)

ENDPOINTS = (
    Endpoint(
        "/api/0/organizations/{organization}/incidents/",
        {
            "GET": Operation(
                list_incidents, "List incidents", {200: "Incident"}, parameters=_LIST_PARAMETERS, is_list=True
            ),
            "POST": Operation(
                open_incident,
                "Open an incident",
                {201: "IncidentDetails", 200: "IncidentDetails"},
                command_class=OpenIncident,
                is_command=True,
            ),
        },
        tag="incidents",
        permission=INCIDENTS,
    ),
    _incident_endpoint(
        "/api/0/organizations/{organization}/incidents/{identifier}/",
        {
            "GET": Operation(read_incident, "Read an incident", {200: "IncidentDetails"}, has_etag=True),
            "PUT": Operation(
                close_incident,
                "Close an incident",
                {200: "IncidentDetails"},
                command_class=SetStatus,
                path_fields=("incident",),
                narrowed={"status": json_schema.choice_of((IncidentStatus.CLOSED,))},
                is_command=True,
            ),
        },
    ),
    _incident_endpoint(
        "/api/0/organizations/{organization}/incidents/{identifier}/seen/",
        {"POST": Operation(mark_seen, "Mark an incident as seen", {201: "Nothing"}, is_command=True)},
    ),
    _incident_endpoint(
        "/api/0/organizations/{organization}/incidents/{identifier}/activity/",
        {
            "GET": Operation(
                list_activity,
                "List an incident's activity",
                {200: "Activity"},
                parameters=(Parameter("desc", "1 (the default) lists the newest first, others the oldest."),),
                is_list=True,
            )
        },
    ),
    _incident_endpoint(
        "/api/0/organizations/{organization}/incidents/{identifier}/explain/",
        {
            "GET": Operation(
                explain_incident,
                "Explain whom an incident notified, and why",
                {200: "DecisionList"},
                parameters=(
                    Parameter(
                        "user",
                        "Id of the person; for managers and owners. Without it: the caller.",
                        {"type": "integer", "minimum": 0},
                    ),
                ),
            )
        },
    ),
    _incident_endpoint(
        "/api/0/organizations/{organization}/incidents/{identifier}/subscribers/",
        {"GET": Operation(list_subscribers, "List an incident's subscribers", {200: "Subscriber"}, is_list=True)},
    ),
)
