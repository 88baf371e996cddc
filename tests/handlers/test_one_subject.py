"""An incident has one subject, which every command that may change the incident carries from its acceptance on."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from models.incidents.incident import incidents
from models.messaging.command_ledger import commands
from models.messaging.subject import INCIDENT_SUBJECT, Subject
from tasks.commands.alertmanager import ReceiveAlerts
from tasks.commands.comments import PostComment
from tasks.commands.incidents import OpenIncident, SetStatus
from tasks.commands.snoozes import UnsnoozeRule
from tests.builders import a_trigger, an_action, an_incident
from tests.handlers.acme import Acme
from tests.handlers.observed_rule import ANA, ObservedRule
from tests.harness import Harness, lock_subjects
from tests.waiting import eventually


@pytest.fixture
def rule(harness: Harness, acme: Acme) -> ObservedRule:
    return ObservedRule(harness, acme, a_trigger("critical", 100, an_action(ANA)))


def an_open_command(**fields: Any) -> OpenIncident:
    return OpenIncident.model_validate({"title": "Disk full", "projects": ["p1"]} | fields)


def a_status_change(incident: int | str, status: int) -> SetStatus:
    return SetStatus.model_validate({"incident": incident, "status": status})


def a_comment(incident: int | str, text: str = "Looking.") -> PostComment:
    return PostComment.model_validate({"incident": incident, "comment": text})


def subject_of(harness: Harness, id_: UUID) -> str:
    return str(harness.ledger_row(id_)["subject"])


def outcomes(harness: Harness, *ids: UUID) -> list[int | None]:
    return [harness.ledger_row(id_)["outcome_status"] for id_ in ids]


def numbers(harness: Harness) -> list[int]:
    with harness.engine.connect() as connection:
        query = select(incidents.c.identifier).where(incidents.c.title == "Disk full").order_by(incidents.c.identifier)
        return list(connection.execute(query).scalars())


# --- the subject -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule_id", "key", "subject"),
    [(5, None, "rule:5"), (None, "é", "key:12:66ddcd97cfdeabb2f6fb8a999b4bc76f"), (None, None, "incident:12:7")],
)
def test_an_incident_has_the_same_subject_in_sql_and_in_python(
    harness: Harness, rule_id: int | None, key: str | None, subject: str
) -> None:
    with harness.engine.connect() as connection:
        in_sql = connection.exec_driver_sql(
            f"SELECT {INCIDENT_SUBJECT} FROM (SELECT %(rule)s::bigint, %(key)s::text, 12, 7)"
            " AS i(alert_rule_id, dedup_key, organization_id, identifier)",
            {"rule": rule_id, "key": key},
        ).scalar_one()

    assert in_sql == str(Subject.of_incident(12, 7, alert_rule_id=rule_id, dedup_key=key)) == subject


def test_commands_for_an_incident_with_a_key_have_one_subject_however_they_refer_to_it(
    harness: Harness, acme: Acme
) -> None:
    opened = harness.accept(an_open_command(dedupKey="disk"), **acme.by_service())
    harness.apply()
    alerts = {"dedupKey": "disk", "state": "firing", "title": "Disk full"}
    others = [
        harness.accept(a_comment(2), **acme.by("mem")),
        harness.accept(a_comment("dedup:disk"), **acme.by("mem")),
        harness.accept(ReceiveAlerts.model_validate(alerts), **acme.by_service()),
    ]

    assert {subject_of(harness, id_) for id_ in (opened, *others)} == {
        str(Subject.dedup_key(acme.organizations["acme"], "disk"))
    }


def test_commands_for_a_rules_incident_have_the_rules_subject(harness: Harness, acme: Acme, rule: ObservedRule) -> None:
    opened = harness.accept(an_open_command(alertRule=rule.rule_id), **acme.by("own"))
    harness.apply()
    comment = harness.accept(a_comment(2), **acme.by("mem"))

    assert subject_of(harness, opened) == subject_of(harness, comment) == f"rule:{rule.rule_id}"


def test_a_command_about_another_organizations_rule_does_not_wait_in_that_rules_line(
    harness: Harness, acme: Acme, rule: ObservedRule
) -> None:
    unsnooze = UnsnoozeRule.model_validate({"alertRule": rule.rule_id, "inProject": "p1"})

    foreign = harness.accept(unsnooze, **acme.by("mem", organization="closed"))
    own = harness.accept(unsnooze, **acme.by("mem"))

    assert subject_of(harness, foreign) == str(Subject.command(foreign))
    assert subject_of(harness, own) == str(Subject.rule(rule.rule_id))


def test_a_command_that_opens_an_incident_without_a_key_has_a_subject_of_its_own(harness: Harness, acme: Acme) -> None:
    first, second = (harness.accept(an_open_command(), **acme.by_service()) for _ in range(2))

    assert [subject_of(harness, id_) for id_ in (first, second)] == [f"command:{first}", f"command:{second}"]


def test_a_command_whose_incident_did_not_exist_at_its_acceptance_is_404(harness: Harness, acme: Acme) -> None:
    early = harness.accept(a_comment(2), **acme.by("mem"))
    with harness.engine.begin() as connection:
        an_incident(
            connection,
            acme.organizations["acme"],
            projects=[acme.projects["acme", "p1"]],
            identifier=2,
            dedup_key="disk",
        )

    harness.apply()

    assert outcomes(harness, early) == [404]


def test_an_incident_cannot_be_opened_with_both_a_rule_and_a_key(
    harness: Harness, acme: Acme, rule: ObservedRule
) -> None:
    outcome = harness.execute(an_open_command(alertRule=rule.rule_id, dedupKey="disk"), **acme.by_service())

    assert outcome == (400, {"dedupKey": ["An incident with an alertRule cannot have a dedupKey."]})


def test_the_database_rejects_an_incident_with_both_a_rule_and_a_key(
    harness: Harness, acme: Acme, rule: ObservedRule
) -> None:
    with pytest.raises(IntegrityError, match="incidents_one_subject_check"), harness.engine.begin() as connection:
        an_incident(connection, acme.organizations["acme"], alert_rule_id=rule.rule_id, dedup_key="disk")


# --- order -------------------------------------------------------------------------------------------------------


def test_a_command_by_key_waits_for_an_earlier_one_that_reopens_the_incident_by_number(
    harness: Harness, acme: Acme
) -> None:
    harness.execute(an_open_command(dedupKey="disk"), **acme.by_service())
    harness.execute(a_status_change(2, 2), **acme.by("ben"))
    reopened = harness.accept(a_status_change(2, 1), **acme.by("ben"))
    by_key = harness.accept(a_status_change("dedup:disk", 20), **acme.by("ben"))

    with harness.engine.begin() as other_worker:
        # The other worker is applying the command that reopens the incident.
        lock_subjects(other_worker, [subject_of(harness, reopened)])
        harness.apply()
        waiting = outcomes(harness, reopened, by_key)
    harness.apply()

    assert waiting == [None, None]
    assert outcomes(harness, reopened, by_key) == [200, 200]


def test_a_deferred_command_of_one_incident_delays_no_other_incident(harness: Harness, acme: Acme) -> None:
    harness.execute(an_open_command(dedupKey="disk"), **acme.by_service())
    deferred = harness.accept(a_comment(2), **acme.by("mem"))
    with harness.engine.begin() as connection:
        later = datetime.now(UTC) + timedelta(hours=1)
        connection.execute(update(commands).where(commands.c.id == deferred).values(next_attempt_at=later))
    behind = harness.accept(a_status_change("dedup:disk", 2), **acme.by("ben"))
    others = [
        harness.accept(an_open_command(), **acme.by_service()),
        harness.accept(an_open_command(dedupKey="memory"), **acme.by_service()),
    ]

    harness.apply()

    assert outcomes(harness, deferred, behind, *others) == [None, None, 201, 201]


def test_observations_of_two_rules_do_not_wait_for_each_other(harness: Harness, acme: Acme, rule: ObservedRule) -> None:
    other = ObservedRule(harness, acme, a_trigger("critical", 100, an_action(ANA)))
    mine, theirs = rule.accept(120), other.accept(120)

    with harness.engine.begin() as other_worker:
        lock_subjects(other_worker, [f"rule:{rule.rule_id}"])
        harness.apply()
        states = outcomes(harness, mine, theirs)

    assert states == [None, 201]


# --- numbers -----------------------------------------------------------------------------------------------------


def lock_numbers(connection: Any, organization: int) -> None:
    connection.exec_driver_sql(
        "SELECT pg_advisory_xact_lock(hashtextextended('number:' || %s::bigint, 0))", (organization,)
    )


def test_workers_that_open_incidents_at_the_same_time_leave_no_gap_in_the_numbers(harness: Harness, acme: Acme) -> None:
    ids = harness.accept_all([an_open_command() for _ in range(400)], **acme.by_service())

    threads = [threading.Thread(target=harness.applier(f"worker-{n}").drain, args=((),)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    harness.apply()

    assert set(outcomes(harness, *ids)) == {201}
    assert numbers(harness) == list(range(2, 402))
    assert {harness.ledger_row(id_)["attempts"] for id_ in ids} == {1}


def test_a_number_is_assigned_only_after_other_batches_have_committed_theirs(harness: Harness, acme: Acme) -> None:
    organization = acme.organizations["acme"]
    opening = harness.accept(an_open_command(), **acme.by_service())
    with harness.engine.begin() as other_worker:
        lock_numbers(other_worker, organization)
        an_incident(other_worker, organization, projects=[acme.projects["acme", "p1"]], identifier=2)
        applying = threading.Thread(target=harness.applier().drain, args=((),))
        applying.start()
        eventually(lambda: is_waiting_for_lock(harness))
    applying.join()

    assert outcomes(harness, opening) == [201]
    assert harness.ledger_row(opening)["outcome_body"]["identifier"] == "3"
    assert harness.results[-1].finished == [opening]


def is_waiting_for_lock(harness: Harness) -> bool:
    with harness.engine.connect() as connection:
        return bool(
            connection.exec_driver_sql(
                "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
                " WHERE l.locktype = 'advisory' AND NOT l.granted AND a.datname = current_database()"
            ).scalar_one()
        )


def test_a_batch_that_opens_no_incident_does_not_wait_for_numbers(
    harness: Harness, acme: Acme, rule: ObservedRule
) -> None:
    harness.execute(an_open_command(dedupKey="disk"), **acme.by_service())
    below_the_threshold = rule.accept(10)
    repeated = harness.accept(an_open_command(dedupKey="disk"), **acme.by_service())

    with harness.engine.begin() as other_worker:
        lock_numbers(other_worker, acme.organizations["acme"])
        harness.apply()
        applied = outcomes(harness, below_the_threshold, repeated)

    assert applied == [201, 200]
