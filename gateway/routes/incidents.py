"""Incidents: opening one, the list of them, one's details, what happened on it, who hears of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from gateway.api.context import RequestContext
from gateway.api.endpoint import TEXTS, Endpoint, Operation, Parameter
from gateway.api.submit import ask, require_incident
from gateway.http.pagination import cursor_int, cursor_time, page_response, parse_page
from gateway.http.responses import HttpResponse, read_answer
from gateway.reads.incident_list import IncidentListItem
from gateway.reads.queries import author_from_row
from models.directory.queries import person_from_row
from models.enums import JSON, IncidentStatus
from models.incidents.queries import activity_from_row
from models.policy import INCIDENT, INCIDENTS, require_project_access
from models.refusals import StringRefusal
from models.serializers import IncidentRule, activity_json, incident_details, incident_json, person_brief
from tasks.commands import json_schema
from tasks.commands.incidents import MarkSeen, OpenIncident, SetStatus

LIST_PAGE = 25
ACTIVITY_PAGE = 100
SUBSCRIBER_PAGE = 100


async def open_incident(visit: RequestContext) -> HttpResponse:
    """Ask for an incident; 201 with it once a worker has opened it, 200 with an open one of the same dedupKey."""
    return await ask(visit, OpenIncident)


async def list_incidents(visit: RequestContext) -> HttpResponse:
    """Incidents of the caller's teams, or of the projects named; the last to begin first."""
    reads, query, viewer = visit.services.incident_list, visit.query, visit.actor.user_id
    selection = await reads.parse_filter(query, visit.actor, visit.organization)
    page = parse_page(query, default=LIST_PAGE, kinds=(cursor_time, cursor_int))
    keys = await reads.keys(selection, page)
    expand = query.getlist("expand")
    listed = await reads.items(keys, activities="activities" in expand, seen_by="seen_by" in expand)
    found_by = await visit.services.rules.incident_rules([each.incident for each in listed.values()], viewer)
    shows_original = "original_alert_rule" in expand
    rules = (
        {each.snapshot.rule.id: each.snapshot.rule for each in found_by.values()} if "latestIncident" in expand else {}
    )
    latest = await visit.services.rules.latest_incidents(list(rules.values()), viewer)
    return page_response(
        page,
        # What was deleted just now is left out.
        [key for key in keys if key.incident_id in listed],
        key=lambda row: (row.date_started, row.incident_id),
        shape=lambda row: _with_latest(
            _listed_json(listed[row.incident_id], viewer, found_by.get(row.incident_id), shows_original=shows_original),
            latest,
        ),
        url=visit.url,
        query=query,
    )


def _with_latest(shown: dict[str, JSON], latest: Mapping[int, JSON]) -> JSON:
    """Beside the incident's rule the last thing that it found, where that was asked for."""
    rule = shown["alertRule"]
    if rule is None or int(rule["id"]) not in latest:
        return shown
    return shown | {"alertRule": rule | {"latestIncident": latest[int(rule["id"])]}}


def _listed_json(
    listed: IncidentListItem, viewer: int | None, found_by: IncidentRule | None, *, shows_original: bool
) -> dict[str, JSON]:
    number = listed.incident.identifier
    activities = None
    if listed.activities is not None:
        activities = [activity_json(each, identifier=number, user=by) for each, by in listed.activities]
    return incident_json(
        listed.incident,
        projects=listed.projects,
        activities=activities,
        seen_by=listed.seen_by,
        viewer=viewer,
        alert_rule=found_by,
        shows_original=shows_original,
    )


async def read_incident(visit: RequestContext) -> HttpResponse:
    """An incident by itself."""
    organization, viewer = visit.organization, visit.actor.user_id
    found, projects = await visit.services.queries.incident(organization.id, visit.incident_number(), viewer)
    require_project_access(visit.actor, organization, projects)
    found_by = await visit.services.rules.incident_rules([found.incident], viewer)
    details = incident_details(
        found.incident,
        projects=found.projects,
        seen_by=found.seen_by,
        viewer=viewer,
        is_subscribed=found.is_subscribed,
        alert_rule=found_by.get(found.incident.id),
    )
    return read_answer(details, version=found.incident.version, if_none_match=visit.if_none_match)


async def close_incident(visit: RequestContext) -> HttpResponse:
    """Ask for an incident to be closed; 200 with it. Its other statuses are set through `commands/`."""
    return await ask(visit, SetStatus, incident=visit.incident_number(), require=_closing)


async def mark_seen(visit: RequestContext) -> HttpResponse:
    """Say that the caller has seen an incident; 201 whether or not it is remembered."""
    return await ask(visit, MarkSeen, incident=visit.incident_number(), has_body=False)


def _closing(command: SetStatus) -> None:
    if command.status != IncidentStatus.CLOSED:
        raise StringRefusal("Status cannot be changed.")


async def list_activity(visit: RequestContext) -> HttpResponse:
    """What happened on an incident, newest first unless asked otherwise."""
    number = visit.incident_number()
    await require_incident(visit, number)
    page = parse_page(visit.query, default=ACTIVITY_PAGE, kinds=(cursor_time, cursor_int))
    descending = visit.query.get("desc", "1") == "1"
    rows = await visit.services.queries.activities(visit.organization.id, number, page, descending=descending)
    return page_response(
        page,
        rows,
        key=lambda row: (row.date_added, row.id),
        shape=lambda row: activity_json(activity_from_row(row), identifier=number, user=author_from_row(row)),
        url=visit.url,
        query=visit.query,
    )


async def list_subscribers(visit: RequestContext) -> HttpResponse:
    """Who will hear of a change, and how that arose."""
    number = visit.incident_number()
    await require_incident(visit, number)
    page = parse_page(visit.query, default=SUBSCRIBER_PAGE)
    rows = await visit.services.queries.subscribers(visit.organization, number, page)
    return page_response(
        page,
        rows,
        key=lambda row: (row.id,),
        shape=lambda row: {"user": person_brief(person_from_row(row)), "reason": row.reason},
        url=visit.url,
        query=visit.query,
    )


# Other ways to write a date are understood too.
DATE = {"type": "string", "format": "date-time"}

_LIST_PARAMETERS = (
    Parameter(
        "project",
        "Ids of projects, repeatable; -1 means all that the caller reaches. Without it: those of the caller's teams,"
        " for a service all.",
        {"type": "array", "items": {"type": "integer"}},
    ),
    Parameter("projectSlug", "The same by slug, repeatable; $all means all. Goes before project.", TEXTS),
    Parameter("environment", "Names of environments, repeatable: incidents of alert rules on one of these.", TEXTS),
    Parameter("alertRule", "Id of an alert rule: its incidents.", {"type": "integer"}),
    Parameter("includeSnapshots", "With alertRule: also incidents of the rule's earlier states."),
    Parameter("start", "Leaves out what was closed before this date; without an offset it is UTC.", DATE),
    Parameter("end", "Leaves out what began after this date; without an offset it is UTC.", DATE),
    Parameter("status", "open (anything but closed), warning, critical or closed; anything else changes nothing."),
    Parameter(
        "team",
        "Ids of teams, myteams or unassigned, repeatable: who owns the alert rule.",
        {"type": "array", "items": {"type": "string", "pattern": "^([0-9]+|myteams|unassigned)$"}},
    ),
    Parameter("title", "A part of the title, in any case."),
    Parameter(
        "dedupKey",
        "Finds one incident by its key: the open one, else the latest; among all that the caller reaches, unless"
        " projects are named.",
    ),
    Parameter(
        "expand",
        "activities (at most 1000 on a page), seen_by, original_alert_rule, latestIncident; repeatable.",
        TEXTS,
    ),
)

_incident = partial(Endpoint, tag="incidents", permission=INCIDENT)

ADDRESSES = (
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
                message=OpenIncident,
                is_command=True,
            ),
        },
        tag="incidents",
        permission=INCIDENTS,
    ),
    _incident(
        "/api/0/organizations/{organization}/incidents/{identifier}/",
        {
            "GET": Operation(read_incident, "Read an incident", {200: "IncidentDetails"}, has_etag=True),
            "PUT": Operation(
                close_incident,
                "Close an incident",
                {200: "IncidentDetails"},
                message=SetStatus,
                in_address=("incident",),
                narrowed={"status": json_schema.choice_of((IncidentStatus.CLOSED,))},
                is_command=True,
            ),
        },
    ),
    _incident(
        "/api/0/organizations/{organization}/incidents/{identifier}/seen/",
        {"POST": Operation(mark_seen, "Mark an incident as seen", {201: "Nothing"}, is_command=True)},
    ),
    _incident(
        "/api/0/organizations/{organization}/incidents/{identifier}/activity/",
        {
            "GET": Operation(
                list_activity,
                "List what happened on an incident",
                {200: "Activity"},
                parameters=(Parameter("desc", "1 (the default) lists the newest first, anything else the oldest"),),
                is_list=True,
            )
        },
    ),
    _incident(
        "/api/0/organizations/{organization}/incidents/{identifier}/subscribers/",
        {"GET": Operation(list_subscribers, "List who will hear of a change", {200: "Subscriber"}, is_list=True)},
    ),
)
