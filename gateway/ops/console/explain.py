"""The page that explains who was, or was not, told of what happened on an incident, and by which rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Final, NamedTuple

from sqlalchemy.engine import Connection

from gateway.http.pagination import cursor_text
from gateway.http.responses import HttpResponse
from gateway.ops.bodies import Fields, number, one_of, plain_text
from gateway.ops.console.operator import ConsoleHandler, Operator, console_page
from gateway.ops.console.tables import ListPage, Texts, errors_of, given, read_list, typed_fields
from gateway.ops.explain import (
    ActivityJson,
    PersonDecisionsJson,
    by_weight,
    explain_activity,
    explain_person,
    find_incident,
    find_person,
    list_activities,
)
from gateway.pages.request import PageRequest
from models.operations.keyset import Entry, Listing, Window
from models.refusals import FIELD_REQUIRED, InvalidFields
from models.serializers.notifications import DecisionJson

PATH: Final = "/ops/explain/"
FIELDS: Final = ("organization", "incident", "user", "comment", "told")
NOT_TOLD: Final = "no"


class Question(NamedTuple):
    """What is asked. ``user`` is a username or an id, and ``comment`` the id of a comment or another activity."""

    organization: str
    incident: int
    user: str | None
    comment: int | None
    only_untold: bool


class ExplainedGroup(NamedTuple):
    """The decisions about a person and an activity, in the order in which they were made; ``decisive`` is one of them.

    ``activity`` is ``None`` if the activity is not among the incident's newest ones.
    """

    id: str
    activity: ActivityJson | None
    decisions: Sequence[DecisionJson]
    decisive: DecisionJson


async def explain(request: PageRequest, operator: Operator) -> HttpResponse:
    """Answer a question about an incident.

    With a person, what was decided about them; with a comment, who was told of it; with neither, what happened on the
    incident, to choose from.
    """
    typed = typed_fields(request, FIELDS)
    if not any(typed.values()):
        return _page(request, operator, ListPage(typed))
    if typed["comment"].strip() and not typed["user"].strip():
        found = await read_list(request, FIELDS, _question, _people, key_parser=cursor_text)
        if found.errors:
            return _page(request, operator, found)
        happened = await _answer(request, typed, partial(_activities, with_texts=operator.may_change))
        return _page(request, operator, found, people=found.rows, activities=happened.rows)
    if not typed["user"].strip():
        happened = await _answer(request, typed, partial(_activities, with_texts=operator.may_change))
        return _page(request, operator, happened, activities=happened.rows)
    found = await read_list(request, FIELDS, _question, partial(_person, with_texts=operator.may_change))
    return _page(request, operator, found, groups=found.rows)


def _page(request: PageRequest, operator: Operator, found: ListPage, **facts: Any) -> HttpResponse:
    known = {"people": None, "activities": None, "groups": None}
    return console_page(request, operator, "explain.html", found.status, found=found, **known | facts)


def _question(fields: Fields) -> Question:
    """Return the question. Its errors are in ``fields``."""
    incident = fields.optional("incident", number)
    if incident is None:
        fields.errors.setdefault("incident", [FIELD_REQUIRED])
    return Question(
        organization=fields.required("organization", plain_text),
        incident=incident or 0,
        user=fields.optional("user", plain_text),
        comment=fields.optional("comment", number),
        only_untold=fields.optional("told", one_of([NOT_TOLD])) == NOT_TOLD,
    )


async def _answer(
    request: PageRequest, typed: Texts, read: Callable[[Connection, Question], Sequence[Any]]
) -> ListPage:
    try:
        fields = given(typed)
        question = _question(fields)
        fields.require_valid()
        return ListPage(typed, await request.container.operations.read(lambda connection: read(connection, question)))
    except InvalidFields as refusal:
        return ListPage(typed, errors=errors_of(refusal))


def _activities(connection: Connection, question: Question, *, with_texts: bool) -> list[ActivityJson]:
    ids = find_incident(connection, question.organization, question.incident)
    return list_activities(connection, ids, with_texts=with_texts)


def _person(connection: Connection, question: Question, window: Window, *, with_texts: bool) -> Listing[ExplainedGroup]:
    ids = find_incident(connection, question.organization, question.incident)
    decisions = explain_person(connection, ids, find_person(connection, question.user or ""))["decisions"]
    known = {activity["id"]: activity for activity in list_activities(connection, ids, with_texts=with_texts)}
    groups = [
        Entry((int(id_),), _group(id_, list(found), known.get(id_)))
        for id_, found in groupby(decisions, key=lambda decision: decision["activity"])
        if question.comment in (None, int(id_))
    ]
    return Listing(window.of(groups))


def _people(connection: Connection, question: Question, window: Window) -> Listing[PersonDecisionsJson]:
    ids = find_incident(connection, question.organization, question.incident)
    return explain_activity(connection, ids, question.comment or 0, window, only_untold=question.only_untold)


def _group(id_: str, decisions: Sequence[DecisionJson], activity: ActivityJson | None) -> ExplainedGroup:
    ordered = sorted(decisions, key=lambda decision: decision["at"] or "")
    return ExplainedGroup(id_, activity, ordered, min(ordered, key=by_weight))


PAGES: Final[Mapping[str, Mapping[str, ConsoleHandler]]] = {PATH: {"GET": explain}}
