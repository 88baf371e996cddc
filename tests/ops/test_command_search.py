"""Operators find commands by every filter, page by page, and see one with everything that followed from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, update

from models.base import new_id
from models.enums import CommandState
from models.messaging.command_ledger import commands, idempotency_keys
from models.operations import commands as search
from models.operations.command_details import read_command
from models.operations.commands import CommandFilters, search_commands
from models.operations.keyset import Window
from models.refusals import InvalidFields, NotFound
from models.serializers.operations import CommandRowJson
from tasks.commands.incidents import MarkSeen, OpenIncident
from tests.faults.ledger import a_comment_command
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.ops.ledger import accept_comments, bury


def found(harness: Harness, window: Window | None = None, **filters: Any) -> list[UUID]:
    """Return the ids of the commands that match, newest first."""
    with harness.engine.connect() as connection:
        listing = search_commands(connection, CommandFilters(**filters), window or Window())
    return [UUID(command["id"]) for command in listing.entities]


def mark_seen() -> MarkSeen:
    return MarkSeen.model_validate({"incident": "1"})


def test_every_filter_finds_its_commands_whether_they_wait_or_have_ended(harness: Harness, acme: Acme) -> None:
    comment = harness.accept(a_comment_command(), **acme.by("mem"))
    refused = harness.accept(a_comment_command(incident="99"), **acme.by("ana"))
    harness.apply()
    seen = harness.accept(mark_seen(), **acme.by("mem"))
    dead = harness.accept(a_comment_command("2"), **acme.by("ben"))
    bury(harness, [dead])

    assert found(harness) == [dead, seen, refused, comment]
    assert found(harness, organization="acme") == [dead, seen, refused, comment]
    assert found(harness, organization="plain") == []
    assert found(harness, user="mem") == [seen, comment]
    assert found(harness, user="12") == [refused]
    assert found(harness, type="comment.post") == [dead, refused, comment]
    assert found(harness, type="comment.post", organization="acme", user="mem") == [comment]
    assert found(harness, queue="commands") == [dead, seen, refused, comment]
    assert found(harness, queue="bulk") == []
    assert found(harness, state=CommandState.ACCEPTED) == [seen]
    assert found(harness, state=CommandState.APPLIED) == [comment]
    assert found(harness, state=CommandState.REJECTED) == [refused]
    assert found(harness, state=CommandState.DEAD) == [dead]
    assert found(harness, organization="acme", incident=1) == [dead, seen, comment]


def test_a_filter_that_names_nobody_finds_nothing(harness: Harness, acme: Acme) -> None:
    accept_comments(harness, 1, **acme.by("mem"))

    assert found(harness, user="nobody") == []
    assert found(harness, organization="nowhere") == []
    assert found(harness, organization="acme", incident=10**30) == []
    assert found(harness, query="no such key") == []


def test_an_incident_is_searched_in_an_organization(harness: Harness, acme: Acme) -> None:
    with pytest.raises(InvalidFields) as refused:
        found(harness, incident=1)

    assert refused.value.body == {"organization": ["This field is required."]}


def test_the_command_that_opened_an_incident_is_found_by_it(harness: Harness, acme: Acme) -> None:
    opening = OpenIncident.model_validate({"title": "Down", "projects": ["p1"]})
    id_ = harness.accept(opening, **acme.by("own"))
    harness.apply()
    outcome = harness.ledger_row(id_)["outcome_body"]

    assert found(harness, organization="acme", incident=int(outcome["identifier"])) == [id_]


def test_commands_are_found_by_the_time_of_acceptance(harness: Harness, acme: Acme) -> None:
    ids = accept_comments(harness, 2, **acme.by("mem"))
    now = datetime.now(UTC)

    assert found(harness, accepted_from=now - timedelta(minutes=5), accepted_to=now + timedelta(minutes=5)) == ids[::-1]
    assert found(harness, accepted_from=now + timedelta(minutes=5)) == []
    assert found(harness, accepted_to=now - timedelta(minutes=5)) == []


def test_a_query_finds_a_command_by_its_ids_its_key_and_its_trace(harness: Harness, acme: Acme) -> None:
    id_, other = accept_comments(harness, 2, **acme.by("mem"))
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with harness.engine.begin() as connection:
        connection.execute(
            update(commands).where(commands.c.id == id_).values(traceparent=f"00-{trace}-00f067aa0ba902b7-01")
        )
        connection.execute(
            insert(idempotency_keys).values(caller="user:11", key="the key", request_hash="", command_ids=[str(id_)])
        )
    harness.apply()
    with harness.engine.connect() as connection:
        event = connection.exec_driver_sql("SELECT id FROM events WHERE command_id = %s", (id_,)).scalars().first()
        detail = read_command(connection, id_, with_texts=True)

    for query in (str(id_), str(event), "the key", trace, trace.upper()):
        assert found(harness, query=query) == [id_], query
    assert found(harness, query=str(other), state=CommandState.DEAD) == []
    assert (detail["idempotencyKey"], detail["traceId"]) == ("the key", trace)


def test_pages_cover_waiting_and_ended_commands_once_in_both_directions(harness: Harness, acme: Acme) -> None:
    ids = accept_comments(harness, 3, **acme.by("mem"))
    harness.apply()
    ids += accept_comments(harness, 3, **acme.by("mem"))
    newest_first = ids[::-1]
    seq = {id_: harness.ledger_row(id_)["seq"] for id_ in ids}

    pages = [found(harness, Window(limit=2))]
    while pages[-1]:
        pages.append(found(harness, Window(limit=2, key=(seq[pages[-1][-1]],)), organization="acme"))

    assert [id_ for page in pages for id_ in page] == newest_first
    assert found(harness, Window(limit=2, key=(seq[ids[1]],), backwards=True)) == ids[2:4]
    assert found(harness, Window(limit=2, key=(seq[ids[1]],), backwards=True, includes=True)) == ids[1:3]


def test_a_search_that_reads_too_much_says_where_it_continues(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = accept_comments(harness, 9, **acme.by("mem"))
    harness.apply()
    oldest = ids[0]
    with harness.engine.begin() as connection:
        connection.execute(update(commands).where(commands.c.id == oldest).values(lane="bulk"))
    monkeypatch.setattr(search, "_EVERY_ARM", search._EVERY_ARM._replace(rows=4))

    results: list[CommandRowJson] = []
    stops = []
    window = Window(limit=5)
    with harness.engine.connect() as connection:
        while True:
            listing = search_commands(connection, CommandFilters(queue="bulk"), window)
            results += listing.entities
            if listing.stopped_at is None:
                break
            stops.append(listing.stopped_at)
            window = window._replace(key=listing.stopped_at)

    assert [command["id"] for command in results] == [str(oldest)]
    assert len(stops) == 2


def test_a_row_has_the_fields_of_the_contract(harness: Harness, acme: Acme) -> None:
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))
    harness.apply()

    with harness.engine.connect() as connection:
        [row] = search_commands(connection).entities

    assert set(row) == {
        "id", "type", "status", "organization", "acceptedAt", "finishedAt", "attempts", "heldBy", "outcome", "error",
        "subject", "lane", "actor", "waitMs", "applyMs",
    }  # fmt: skip
    assert row["id"] == str(id_)
    assert row["outcome"] == {"status": 201}
    assert row["actor"] == {"type": "user", "id": "11", "name": "mem"}
    assert row["waitMs"] is not None
    assert row["applyMs"] is not None


def test_a_viewer_sees_neither_payload_nor_outcome_body(harness: Harness, acme: Acme) -> None:
    id_ = harness.accept(a_comment_command("a secret"), **acme.by("mem"))
    harness.apply()

    with harness.engine.connect() as connection:
        shown, hidden = (read_command(connection, id_, with_texts=with_texts) for with_texts in (True, False))

    assert shown["payload"]["comment"] == "a secret"
    assert shown["outcome"] is not None
    assert shown["outcome"]["body"]
    assert hidden["payload"] is None
    assert hidden["outcome"] == {"status": 201, "body": None}
    assert "a secret" not in str(hidden)


def test_an_unknown_command_is_not_found(harness: Harness) -> None:
    with harness.engine.connect() as connection, pytest.raises(NotFound):
        read_command(connection, new_id(), with_texts=True)
