"""Any sequence of commands leads to the state of the reference model, whichever hints are lost and workers fail."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import text
from sqlalchemy.engine import Engine

from models.directory.importer import import_directory
from models.messaging.attempts import record_in_flight
from tasks.commands.base import Command
from tasks.commands.comments import DeleteComment, EditComment, PostComment
from tasks.commands.incidents import MarkSeen, OpenIncident, SetStatus
from tasks.commands.subscriptions import Subscribe, Unsubscribe
from tests.brokers import UNREACHABLE_BROKER, broker_settings
from tests.faults.reference_model import Comment, Incident, Model, Person
from tests.harness import Harness, lock_subjects
from workers.apply.applier import Applier
from workers.apply.in_flight import InFlightBatch
from workers.notify.notifier import Notifier

PEOPLE = ("mem", "ana", "adm", "own", "out")
KEYS = st.sampled_from([None, "disk", "pool"])
# Mostly people with permission, to keep refusals rare.
WHO = st.sampled_from([*PEOPLE, "mem", "ana", "adm", "adm"])
MENTIONED = st.lists(st.sampled_from(["mem", "ana", "adm", "own"]), max_size=2, unique=True)
TEXTS = st.sampled_from(["Look", "Look again", "Never mind"])
# The available choices depend on the timing of workers, so a choice is drawn as a number.
PICK = st.integers(0, 1_000_000)
VERSIONS = st.sampled_from(["any", "current", "stale"])
MAX_CRASHES = 3
"""The most crashes per command: fewer than the attempts after which a command is dead."""

_numbers = count(1)


@pytest.mark.slow
def test_reordered_hints_and_crashed_workers_lead_to_the_same_final_state(harness: Harness) -> None:
    class Machine(CommandMachine):
        def __init__(self) -> None:
            super().__init__(harness)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # With concurrent workers, a failure is rarely reproducible, so shrinking is pointless.
            phases=[Phase.generate],
        ),
    )


class CommandMachine(RuleBasedStateMachine):
    """People submit commands while workers run or fail. Each example has its own organization."""

    def __init__(self, harness: Harness) -> None:
        super().__init__()
        self.harness = harness
        self.engine: Engine = harness.engine
        self.model = Model()
        self.submitted: list[tuple[UUID, int]] = []
        self.crashes = 0

    @initialize()
    def create_organization(self) -> None:
        number = next(_numbers)
        self.slug = slug = f"org{number}"
        first = number * 100
        ids = {name: first + index for index, name in enumerate(PEOPLE)}
        roles = {"mem": "member", "ana": "member", "adm": "admin", "own": "owner"}
        with self.engine.begin() as connection:
            import_directory(
                connection,
                {
                    "organizations": [{"slug": slug, "features": ["organizations:incidents"]}],
                    "users": [
                        {"id": id_, "username": f"{name}{number}", "email": f"{name}{number}@x.test"}
                        for name, id_ in ids.items()
                    ],
                    "projects": [{"organization": slug, "slug": "p"}],
                    "teams": [{"organization": slug, "slug": "t", "projects": ["p"]}],
                    "members": [
                        {
                            "organization": slug,
                            "user": f"{name}{number}",
                            "role": role,
                            "teams": [] if name == "own" else ["t"],
                        }
                        for name, role in roles.items()
                    ],
                    "tokens": [{"token": f"{name}-{number}", "user": f"{name}{number}"} for name in PEOPLE],
                },
            )
            self.organization = connection.execute(
                text("SELECT id FROM organizations WHERE slug = :slug"), {"slug": slug}
            ).scalar_one()
            rows = connection.execute(
                text("SELECT user_id, id FROM tokens WHERE user_id BETWEEN :first AND :last"),
                {"first": first, "last": first + 99},
            )
            self.tokens = {row.user_id: row.id for row in rows}
        self.people = {
            name: Person(
                id_,
                is_member=name != "out",
                may_write=name in ("adm", "own"),
                on_team=name in ("mem", "ana", "adm"),
            )
            for name, id_ in ids.items()
        }

        self.open("adm", None)
        self.open("adm", "disk")
        self._new_worker().drain(())
        self._post("mem", self._references()[0], "Look", [])
        self._post("ana", "dedup:disk", "Look", ["mem"])
        self._new_worker().drain(())

    # --- commands ------------------------------------------------------------------------------------------------

    @rule(who=st.sampled_from(["adm", "adm", "own", "mem"]), key=KEYS)
    def open(self, who: str, key: str | None) -> None:
        expected = self.model.open(self.people[who], key, len(self.submitted))
        self._submit(who, OpenIncident.model_validate({"title": "Slow", "projects": ["p"], "dedupKey": key}), expected)

    @rule(who=WHO, status=st.sampled_from([1, 2, 2, 10, 20]), version=VERSIONS, pick=PICK)
    def set_status(self, who: str, status: int, version: str, pick: int) -> None:
        reference = _choose(self._references(), pick)
        incident = self.model.find(reference)
        expected_version = None if incident is None else _version(version, incident.version)
        expected = self.model.set_status(self.people[who], reference, status, expected_version)
        self._submit(
            who, SetStatus.model_validate({"incident": reference, "status": status}), expected, version=expected_version
        )

    @rule(who=WHO, body_text=TEXTS, mentioned=MENTIONED, pick=PICK)
    def post(self, who: str, body_text: str, mentioned: list[str], pick: int) -> None:
        self._post(who, _choose(self._references(), pick), body_text, mentioned)

    @rule(body_text=TEXTS, mentioned=MENTIONED, version=VERSIONS, who=WHO, by_author=st.booleans(), pick=PICK)
    def edit(
        self, body_text: str, mentioned: list[str], version: str, who: str, by_author: bool, pick: int
    ) -> None:  # fmt: skip
        if not (known := self._known_comments()):
            return
        incident, posted_by, id_ = _choose(known, pick)
        current = self._current_comment(incident, posted_by)
        who = self._name_of(current.author) if by_author and current else who
        expected_version = _version(version, current.version if current else 1)
        expected = self.model.edit(
            self.people[who], incident, posted_by, body_text, self._named(mentioned), expected_version
        )
        body = {"incident": incident.identifier, "id": id_, "comment": body_text, "mentions": self._mentions(mentioned)}
        self._submit(who, EditComment.model_validate(body), expected, version=expected_version)

    @rule(who=WHO, by_author=st.booleans(), pick=PICK)
    def delete(self, who: str, by_author: bool, pick: int) -> None:
        if not (known := self._known_comments()):
            return
        incident, posted_by, id_ = _choose(known, pick)
        current = self._current_comment(incident, posted_by)
        who = self._name_of(current.author) if by_author and current else who
        expected = self.model.delete(self.people[who], incident, posted_by)
        self._submit(who, DeleteComment.model_validate({"incident": incident.identifier, "id": id_}), expected)

    @rule(who=WHO, kind=st.sampled_from([MarkSeen, Subscribe, Unsubscribe]), pick=PICK)
    def follow(self, who: str, kind: type[Command], pick: int) -> None:
        reference = _choose(self._references(), pick)
        commands = {
            MarkSeen: self.model.mark_seen,
            Subscribe: self.model.subscribe,
            Unsubscribe: self.model.unsubscribe,
        }
        self._submit(who, kind.model_validate({"incident": reference}), commands[kind](self.people[who], reference))

    # --- workers and their failures ------------------------------------------------------------------------------

    @rule(picks=st.lists(PICK, max_size=8))
    def hints_arrive_reordered_and_repeated(self, picks: list[int]) -> None:
        subjects = [*self._waiting_subjects(), "incident:0:0", "nonsense"]
        self._new_worker().drain([_choose(subjects, pick) for pick in picks])

    @rule(picks=st.lists(PICK, min_size=1, max_size=3))
    def another_worker_locks_some_subjects(self, picks: list[int]) -> None:
        waiting = self._waiting_subjects()
        subjects = [_choose(waiting, pick) for pick in picks if waiting]
        with self.engine.begin() as other_worker:
            lock_subjects(other_worker, subjects)
            self._new_worker().drain(())

    @rule()
    def three_workers_run_concurrently(self) -> None:
        subjects = self._waiting_subjects()
        with ThreadPoolExecutor(3) as pool:
            for each in [pool.submit(self._new_worker().drain, subjects) for _ in range(3)]:
                each.result()

    @rule(share=st.floats(0.1, 1))
    def a_worker_dies_during_a_batch(self, share: float) -> None:
        waiting = self._rows("SELECT id FROM commands WHERE organization_id = :organization AND state = 'accepted'")
        left = [row.id for row in waiting[: int(len(waiting) * share)]]
        if not left or self.crashes == MAX_CRASHES:
            return
        self.crashes += 1
        with self.engine.begin() as connection:
            record_in_flight(connection, f"dead-{next(_numbers)}", left)

    # --- final state ---------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not self.submitted:
            return
        self._finish()
        self._learn_numbers()
        self._compare_outcomes()
        self._compare_numbers()
        self._compare_incidents()
        self._compare_events()
        self._compare_inboxes()

    def _finish(self) -> None:
        for _ in range(20):
            self._new_worker().drain(())
            if not self._waiting_subjects():
                break
            # Make every deferred command due.
            with self.engine.begin() as connection:
                connection.execute(text("UPDATE commands SET next_attempt_at = NULL WHERE state = 'accepted'"))
        notifier = Notifier(self.engine, broker_settings(UNREACHABLE_BROKER))
        while notifier.plan_batch():
            pass
        self._new_worker().drain(())

    def _compare_outcomes(self) -> None:
        rows = self._rows(
            "SELECT id, outcome_status, type, payload FROM commands WHERE organization_id = :organization"
        )
        outcomes = {row.id: row.outcome_status for row in rows}
        assert [outcomes[id_] for id_, _ in self.submitted] == [expected for _, expected in self.submitted]

    def _compare_numbers(self) -> None:
        numbers = sorted(each.identifier or 0 for each in self.model.incidents)
        assert numbers == list(range(1, len(numbers) + 1))

    def _compare_incidents(self) -> None:
        known = {id_: index for index, (id_, _) in enumerate(self.submitted)}
        for incident in self.model.incidents:
            row = self._row_of(incident)
            assert (row.status, row.version, row.dedup_key) == (incident.status, incident.version, incident.key)
            assert self._subscribers(row.id) == incident.subscribers
            assert self._seen(row.id) == incident.seen
            activities = self._rows(
                "SELECT a.type, a.user_id, a.value, a.previous_value, a.comment, a.version, c.id AS command"
                " FROM incident_activities a LEFT JOIN commands c ON c.type = 'comment.post'"
                " AND c.organization_id = :organization AND c.outcome_body->>'id' = a.id::text"
                " WHERE a.incident_id = :incident ORDER BY a.id",
                incident=row.id,
            )
            comments = [
                (known[each.command], each.user_id, each.comment, each.version) for each in activities if each.type == 3
            ]
            expected = [(each.command, each.author, each.text, each.version) for each in incident.comments]
            assert comments == expected
            changes = [
                (each.user_id, int(each.previous_value), int(each.value)) for each in activities if each.type == 2
            ]
            assert changes == incident.status_changes
        assert len(self._rows("SELECT 1 FROM incidents WHERE organization_id = :organization")) == len(
            self.model.incidents
        )

    def _compare_events(self) -> None:
        for incident in self.model.incidents:
            events = self._rows(
                "SELECT type, sequence FROM events WHERE organization_id = :organization AND subject = :subject"
                " ORDER BY sequence",
                subject=f"incidents/{incident.identifier}",
            )
            assert [each.type for each in events] == incident.event_types
            assert [each.sequence for each in events] == list(range(1, len(events) + 1))

    def _compare_inboxes(self) -> None:
        notifications = self._rows(
            "SELECT n.activity_id, n.user_id FROM notifications n"
            " WHERE n.organization_id = :organization AND n.reason = 'mention'"
        )
        ids = {str(self._outcome_id(posted_by)): posted_by for posted_by, _ in self.model.mentioned}
        assert sorted((ids[str(each.activity_id)], each.user_id) for each in notifications) == sorted(
            self.model.mentioned
        )

    def _new_worker(self) -> Applier:
        """Return an applier for a new worker."""
        return Applier(
            engine=self.engine,
            in_flight=InFlightBatch(
                self.engine.execution_options(isolation_level="AUTOCOMMIT"), worker=f"worker-{next(_numbers)}"
            ),
            on_commit=lambda _: None,
            request_continuation=lambda _: None,
        )

    def _post(self, who: str, reference: str, body_text: str, mentioned: list[str]) -> None:
        expected = self.model.post(self.people[who], reference, body_text, self._named(mentioned), len(self.submitted))
        body = {"incident": reference, "comment": body_text, "mentions": self._mentions(mentioned)}
        self._submit(who, PostComment.model_validate(body), expected)

    # --- queries -------------------------------------------------------------------------------------------------

    def _submit(self, who: str, command: Command, expected: int, *, version: int | None = None) -> None:
        person = self.people[who].id
        id_ = self.harness.accept(
            command,
            organization=self.organization,
            token=self.tokens[person],
            user=person,
            expected_version=version,
        )
        self.submitted.append((id_, expected))

    def _references(self) -> list[str]:
        """Return the references to incidents that a caller may know: numbers and dedup keys."""
        self._learn_numbers()
        numbers = [str(each.identifier) for each in self.model.incidents if each.identifier is not None]
        return [*numbers, "dedup:disk", "dedup:pool"]

    def _learn_numbers(self) -> None:
        """Tell the model the numbers of the incidents that have been opened by now."""
        rows = self._rows(
            "SELECT id, outcome_body->>'identifier' AS number FROM commands"
            " WHERE organization_id = :organization AND type = 'incident.open' AND outcome_status = 201"
        )
        numbers = {row.id: int(row.number) for row in rows}
        for incident in self.model.incidents:
            incident.identifier = numbers.get(self.submitted[incident.command][0])

    def _known_comments(self) -> list[tuple[Incident, int, str]]:
        """Return the comments whose ids a caller may know, including deleted ones."""
        return [
            (incident, posted_by, str(id_))
            for posted_by in range(len(self.submitted))
            if (id_ := self._outcome_id(posted_by)) and (incident := self._incident_of(posted_by))
        ]

    def _outcome_id(self, command: int) -> Any:
        rows = self._rows(
            "SELECT outcome_body->>'id' AS id FROM commands WHERE id = :id AND type = 'comment.post'"
            " AND state = 'applied' AND organization_id = :organization",
            id=self.submitted[command][0],
        )
        return rows[0].id if rows else None

    def _incident_of(self, command: int) -> Incident | None:
        rows = self._rows(
            "SELECT outcome_body->>'incidentIdentifier' AS number FROM commands"
            " WHERE id = :id AND organization_id = :organization",
            id=self.submitted[command][0],
        )
        self._learn_numbers()
        return self.model.find(rows[0].number)

    @staticmethod
    def _current_comment(incident: Incident, command: int) -> Comment | None:
        return next((each for each in incident.comments if each.command == command), None)

    def _waiting_subjects(self) -> list[str]:
        rows = self._rows(
            "SELECT DISTINCT subject FROM commands WHERE organization_id = :organization AND state = 'accepted'"
            " ORDER BY subject"
        )
        return [row.subject for row in rows]

    def _row_of(self, incident: Incident) -> Any:
        [row] = self._rows(
            "SELECT * FROM incidents WHERE organization_id = :organization AND identifier = :identifier",
            identifier=incident.identifier,
        )
        return row

    def _subscribers(self, incident: int) -> dict[int, str]:
        rows = self._rows(
            "SELECT user_id, reason FROM incident_subscriptions WHERE incident_id = :incident", incident=incident
        )
        return {row.user_id: row.reason for row in rows}

    def _seen(self, incident: int) -> set[int]:
        rows = self._rows("SELECT user_id FROM incident_seen WHERE incident_id = :incident", incident=incident)
        return {row.user_id for row in rows}

    def _rows(self, query: str, **facts: Any) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text(query), {"organization": self.organization} | facts))

    def _named(self, mentioned: list[str]) -> list[Person]:
        return [self.people[name] for name in mentioned]

    def _mentions(self, mentioned: list[str]) -> list[str]:
        return [f"user:{self.people[name].id}" for name in mentioned]

    def _name_of(self, id_: int) -> str:
        return next(name for name, person in self.people.items() if person.id == id_)


def _choose(choices: list[Any], pick: int) -> Any:
    return choices[pick % len(choices)]


def _version(which: str, current: int) -> int | None:
    return {"any": None, "current": current, "stale": current - 1}[which]
