"""Import and export of the directory document: imports are atomic and match rows by slug or username."""

from __future__ import annotations

import json
import threading
from copy import deepcopy
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from models.directory.document import MAX_GIVEN_ID
from models.directory.importer import DirectoryError, export_directory, import_directory, read_document
from models.directory.tables import hash_token, users
from models.directory.tokens import DEFAULT_SCOPES
from models.enums import CallerKind
from models.types import MAX_ID
from tests.builders import an_alert_rule
from tests.conftest import Database

DOCUMENT: dict[str, list[dict[str, Any]]] = {
    "organizations": [{"slug": "acme", "name": "Acme", "features": ["organizations:incidents"]}],
    "users": [{"id": 11, "username": "mem", "email": "mem@x.test"}, {"username": "Ana"}],
    "projects": [{"organization": "acme", "slug": "p1", "id": 101}, {"organization": "acme", "slug": "p2"}],
    "teams": [
        {"organization": "acme", "slug": "t1", "projects": ["p1", "p2"]},
        {"organization": "acme", "slug": "t2"},
    ],
    "members": [{"organization": "acme", "user": "mem", "teams": ["t1"]}],
    "tokens": [
        {"token": "dev-mem", "user": "mem"},
        {"token": "dev-key", "organization": "acme", "name": "key", "kind": "key"},
        {"token": "dev-ops", "name": "ops", "kind": "ops", "role": "admin"},
    ],
}


@pytest.fixture
def connection(database: Database) -> Any:
    with database.engine.begin() as connection:
        yield connection


@pytest.fixture
def populated(connection: Connection) -> Connection:
    """A connection to a database into which ``DOCUMENT`` was imported."""
    import_directory(connection, deepcopy(DOCUMENT))
    return connection


def exported(connection: Connection, section: str, **key: str) -> dict[str, Any]:
    rows = export_directory(connection)[section]
    return next(row for row in rows if key.items() <= row.items())


def errors_of(connection: Connection, document: object) -> list[str]:
    with pytest.raises(DirectoryError) as caught, connection.begin_nested():
        import_directory(connection, document)
    return caught.value.errors


def counts(created: int = 0, changed: int = 0, unchanged: int = 0) -> dict[str, int]:
    return {"created": created, "changed": changed, "unchanged": unchanged}


def test_new_rows_are_created_with_defaults(connection: Connection) -> None:
    summary = import_directory(connection, deepcopy(DOCUMENT))

    assert summary == {
        "organizations": counts(created=1),
        "users": counts(created=2),
        "projects": counts(created=2),
        "teams": counts(created=2),
        "members": counts(created=1),
        "tokens": counts(created=3),
    }
    assert exported(connection, "organizations", slug="acme")["options"] == {
        "open_membership": True,
        "alerts_member_write": True,
        "events_member_admin": True,
    }
    ana = exported(connection, "users", username="Ana")
    assert (ana["name"], ana["email"], ana["is_active"], ana["is_superuser"], ana["timezone"]) == (
        "Ana",
        "",
        True,
        False,
        "UTC",
    )
    assert exported(connection, "teams", slug="t1")["projects"] == ["p1", "p2"]
    assert exported(connection, "members", user="mem")["role"] == "member"


def test_importing_the_same_document_again_changes_nothing(populated: Connection) -> None:
    summary = import_directory(populated, deepcopy(DOCUMENT))

    assert summary == {section: counts(unchanged=len(rows)) for section, rows in DOCUMENT.items()}


def test_an_export_can_be_imported_into_the_same_or_an_empty_database_with_the_same_ids(populated: Connection) -> None:
    document = json.loads(json.dumps(export_directory(populated)))

    again = import_directory(populated, document)
    populated.execute(text("TRUNCATE organizations, users CASCADE"))
    elsewhere = import_directory(populated, document)

    assert all(count["unchanged"] == sum(count.values()) for count in again.values())
    assert all(count["created"] == sum(count.values()) for count in elsewhere.values())
    assert export_directory(populated) == document


def test_an_export_contains_no_tokens(populated: Connection) -> None:
    assert "tokens" not in export_directory(populated)


def test_an_absent_key_keeps_the_stored_value(populated: Connection) -> None:
    before = export_directory(populated)

    import_directory(populated, {"organizations": [{"slug": "acme"}], "users": [{"username": "mem"}], "teams": []})
    import_directory(populated, {"teams": [{"organization": "acme", "slug": "t1"}]})
    import_directory(populated, {"members": [{"organization": "acme", "user": "mem"}]})

    assert export_directory(populated) == before


def test_lists_are_replaced_and_options_are_merged(populated: Connection) -> None:
    import_directory(
        populated,
        {
            "organizations": [{"slug": "acme", "features": [], "options": {"open_membership": False}}],
            "teams": [{"organization": "acme", "slug": "t1", "projects": ["p2"]}],
        },
    )
    import_directory(populated, {"organizations": [{"slug": "acme", "options": {"alerts_member_write": False}}]})

    acme = exported(populated, "organizations", slug="acme")
    assert acme["features"] == []
    assert acme["options"] == {"open_membership": False, "alerts_member_write": False, "events_member_admin": True}
    assert exported(populated, "teams", slug="t1")["projects"] == ["p2"]


def test_a_removed_team_membership_is_deactivated_and_not_deleted(populated: Connection) -> None:
    memberships = text(
        "SELECT t.slug, tm.is_active FROM team_members tm JOIN teams t ON t.id = tm.team_id ORDER BY t.slug"
    )

    import_directory(populated, {"members": [{"organization": "acme", "user": "mem", "teams": ["t2"]}]})
    moved = [tuple(row) for row in populated.execute(memberships)]
    import_directory(populated, {"members": [{"organization": "acme", "user": "mem", "teams": ["t1"]}]})
    back = [tuple(row) for row in populated.execute(memberships)]

    assert moved == [("t1", False), ("t2", True)]
    assert back == [("t1", True), ("t2", False)]


def test_users_projects_and_teams_can_be_deactivated(populated: Connection) -> None:
    summary = import_directory(
        populated,
        {
            "users": [{"username": "mem", "is_active": False}],
            "projects": [{"organization": "acme", "slug": "p1", "status": "inactive"}],
            "teams": [{"organization": "acme", "slug": "t1", "status": "inactive"}],
        },
    )

    assert [summary[section] for section in ("users", "projects", "teams")] == [counts(changed=1)] * 3
    assert exported(populated, "users", username="mem")["is_active"] is False
    assert exported(populated, "projects", slug="p1")["status"] == "inactive"
    assert exported(populated, "teams", slug="t1")["status"] == "inactive"


def test_a_null_role_removes_a_member_and_does_not_affect_a_non_member(populated: Connection) -> None:
    removal = {
        "members": [
            {"organization": "acme", "user": "mem", "role": None},
            {"organization": "acme", "user": "ana", "role": None},
        ]
    }

    first = import_directory(populated, removal)
    second = import_directory(populated, removal)

    assert first["members"] == counts(changed=1, unchanged=1)
    assert second["members"] == counts(unchanged=2)
    assert export_directory(populated)["members"] == []


def test_usernames_are_matched_case_insensitively(populated: Connection) -> None:
    summary = import_directory(
        populated,
        {"users": [{"username": "ana"}], "members": [{"organization": "acme", "user": "MEM", "role": "owner"}]},
    )

    assert summary["users"] == counts(changed=1)
    assert exported(populated, "users", username="ana")
    assert exported(populated, "members", user="mem")["role"] == "owner"


def test_usernames_are_unique_case_insensitively(populated: Connection) -> None:
    row = {"username": "MEM", "name": "", "email": ""}

    with pytest.raises(IntegrityError, match="users_username_lower_key"), populated.begin_nested():
        populated.execute(insert(users).values(row))


def test_rows_can_be_renamed_by_their_ids_and_keep_everything_else(populated: Connection) -> None:
    before = export_directory(populated)
    ids = {
        (section, row.get("slug", row.get("username"))): row["id"]
        for section in ("organizations", "users", "projects", "teams")
        for row in before[section]
    }
    document = {
        "organizations": [{"id": ids["organizations", "acme"], "slug": "shop"}],
        "users": [{"id": 11, "username": "Mem.Ber"}],
        "projects": [{"id": ids["projects", "p2"], "organization": "shop", "slug": "checkout"}],
        "teams": [{"id": ids["teams", "t1"], "organization": "shop", "slug": "oncall", "projects": ["p1", "checkout"]}],
        "members": [{"organization": "shop", "user": "mem.ber", "teams": ["oncall", "t2"]}],
        "tokens": [{"token": "dev-mem", "user": "Mem.Ber"}, {"token": "dev-key", "organization": "shop"}],
    }

    summary = import_directory(populated, document)
    again = import_directory(populated, document)

    changed = {section: counts(changed=1) for section in ("organizations", "users", "projects", "teams", "members")}
    assert summary == changed | {"tokens": counts(unchanged=2)}
    assert {section: count["changed"] for section, count in again.items()} == dict.fromkeys(again, 0)
    after = export_directory(populated)
    assert [(row["id"], row["slug"], row["name"]) for row in after["organizations"]] == [
        (ids["organizations", "acme"], "shop", "Acme")
    ]
    assert exported(populated, "users", username="Mem.Ber") == exported(populated, "users", email="mem@x.test")
    assert {(row["id"], row["organization"], row["slug"]) for row in after["projects"]} == {
        (101, "shop", "p1"),
        (ids["projects", "p2"], "shop", "checkout"),
    }
    assert exported(populated, "teams", slug="oncall")["projects"] == ["checkout", "p1"]
    [member] = after["members"]
    assert (member["organization"], member["user"], member["teams"]) == ("shop", "Mem.Ber", ["oncall", "t2"])
    assert member["id"] == before["members"][0]["id"]


def test_an_organization_that_is_renamed_alone_keeps_its_rows(populated: Connection) -> None:
    before = export_directory(populated)
    [acme] = before["organizations"]

    import_directory(populated, {"organizations": [{"id": acme["id"], "slug": "shop"}]})

    renamed = {
        section: [row | {"organization": "shop"} if "organization" in row else row for row in rows]
        for section, rows in before.items()
    }
    assert export_directory(populated) == renamed | {"organizations": [acme | {"slug": "shop"}]}


def test_a_new_row_may_take_a_name_that_was_given_up_by_an_earlier_import(populated: Connection) -> None:
    import_directory(populated, {"users": [{"id": 11, "username": "mem2"}]})

    summary = import_directory(populated, {"users": [{"username": "mem"}]})

    assert summary["users"] == counts(created=1)
    assert exported(populated, "users", username="mem")["id"] != 11


def test_a_project_that_a_rule_excludes_cannot_be_renamed(populated: Connection) -> None:
    [acme] = export_directory(populated)["organizations"]
    an_alert_rule(populated, acme["id"], projects=[101], excluded_projects=("p1",))

    errors = errors_of(populated, {"projects": [{"id": 101, "organization": "acme", "slug": "new"}]})

    assert errors == ['projects[0].slug: "new" in "acme" is the new name of a project that alert rules exclude']


def test_names_may_contain_joiners_and_spaces_of_their_scripts(populated: Connection) -> None:
    names = ["نمی\u200cدانم", "👩\u200d💻 Team", "Jean\u00a0Luc", "José"]

    import_directory(populated, {"users": [{"username": f"u{at}", "name": name} for at, name in enumerate(names)]})

    assert [exported(populated, "users", username=f"u{at}")["name"] for at in range(len(names))] == names


def test_an_imported_id_advances_the_sequence_past_it(populated: Connection) -> None:
    import_directory(populated, {"users": [{"username": "new"}, {"username": "old", "id": 5000}]})
    import_directory(populated, {"users": [{"username": "newer"}]})

    assert exported(populated, "users", username="old")["id"] == 5000
    assert exported(populated, "users", username="new")["id"] == 5001
    assert exported(populated, "users", username="newer")["id"] == 5002


def test_a_refused_document_changes_neither_rows_nor_sequences(populated: Connection) -> None:
    before = export_directory(populated)

    errors = errors_of(
        populated, {"users": [{"username": "far", "id": MAX_GIVEN_ID}], "members": [{"organization": "acme"}]}
    )
    import_directory(populated, {"users": [{"username": "next"}]})

    assert errors == ['members[0]: "user" is missing']
    assert exported(populated, "users", username="next")["id"] < 100
    assert len(export_directory(populated)["users"]) == len(before["users"]) + 1


def test_after_the_greatest_id_that_can_be_given_others_are_assigned(populated: Connection) -> None:
    import_directory(populated, {"users": [{"username": "last", "id": MAX_GIVEN_ID}]})

    import_directory(populated, {"users": [{"username": "next"}]})

    assert exported(populated, "users", username="next")["id"] == MAX_GIVEN_ID + 1


def test_new_rows_are_refused_once_no_ids_are_left(populated: Connection) -> None:
    populated.execute(text(f"SELECT setval('users_id_seq', {MAX_ID})"))

    errors = errors_of(populated, {"users": [{"username": "next"}]})

    assert errors == [f"users: no ids are left after {MAX_ID}; give every new object an id"]


def test_tokens_are_stored_as_hashes_with_their_scopes(populated: Connection) -> None:
    rows = populated.execute(text("SELECT hash, kind, user_id, scopes, ops_role FROM tokens ORDER BY id")).all()

    assert [row.hash for row in rows] == [hash_token(token) for token in ("dev-mem", "dev-key", "dev-ops")]
    assert [row.kind for row in rows] == ["user", "key", "ops"]
    assert [row.user_id for row in rows] == [11, None, None]
    assert [row.scopes for row in rows] == [None, sorted(DEFAULT_SCOPES[CallerKind.KEY]), None]
    assert rows[2].ops_role == "admin"


def test_an_import_leaves_a_revoked_token_revoked(populated: Connection) -> None:
    populated.execute(text("UPDATE tokens SET revoked_at = now()"))

    import_directory(populated, {"tokens": [{"token": "dev-mem", "scopes": ["org:read"]}]})

    row = populated.execute(text("SELECT scopes, revoked_at FROM tokens WHERE kind = 'user'")).one()
    assert row.scopes == ["org:read"]
    assert row.revoked_at is not None


MEMBER = {"organization": "acme", "user": "mem"}
ERRORS: dict[str, tuple[object, list[str]]] = {
    "no object": ([], ["the document must be a JSON object, not []"]),
    "unknown section": ({"user": []}, ['unknown key "user"']),
    "no list": ({"users": {}}, ["users: {} is not a list"]),
    "no object in a list": ({"users": [5]}, ["users[0]: 5 is not an object"]),
    "unknown key": ({"users": [{"username": "x", "nmae": "X"}]}, ['users[0]: unknown key "nmae"']),
    "missing key": ({"projects": [{"slug": "p"}]}, ['projects[0]: "organization" is missing']),
    "role": ({"members": [{**MEMBER, "role": "king"}]}, ['members[0].role: "king" is no role']),
    "number for a name": ({"users": [{"username": "x", "name": 5}]}, ["users[0].name: 5 is not a name"]),
    "blank name": ({"users": [{"username": " "}]}, ['users[0].username: " " is blank: a username must not be blank']),
    "flag": ({"users": [{"username": "x", "is_active": 1}]}, ["users[0].is_active: 1 is neither true nor false"]),
    "time zone": (
        {"users": [{"username": "x", "timezone": "Mars/Dune"}]},
        ['users[0].timezone: "Mars/Dune" is not a time zone'],
    ),
    "email": ({"users": [{"username": "x", "email": "x@"}]}, ['users[0].email: "x@" is not an e-mail address']),
    "NUL": (
        {"users": [{"username": "a\0b"}]},
        ['users[0].username: "a\\u0000b" contains characters that cannot be stored'],
    ),
    "lone surrogate": (
        {"users": [{"username": "x", "name": "\ud800"}]},
        ['users[0].name: "\\ud800" contains characters that cannot be stored'],
    ),
    "option": (
        {"organizations": [{"slug": "o", "options": {"opne": True}}]},
        ['organizations[0].options: unknown key "opne"'],
    ),
    "feature": (
        {"organizations": [{"slug": "o", "features": [""]}]},
        ['organizations[0].features[0]: "" is blank: a feature must not be blank'],
    ),
    "scope": (
        {"tokens": [{"token": "t", "user": "mem", "scopes": ["org:read", "org:rule"]}]},
        ['tokens[0].scopes[1]: "org:rule" is not a scope'],
    ),
    "system token": (
        {"tokens": [{"token": "t", "kind": "system"}]},
        ['tokens[0].kind: "system" is not a kind of token'],
    ),
    "role of operators": (
        {"tokens": [{"token": "t", "kind": "ops", "name": "o", "role": "king"}]},
        ['tokens[0].role: "king" is not an ops role'],
    ),
    "unknown organization": (
        {"projects": [{"organization": "nix", "slug": "p"}]},
        ['projects[0].organization: "nix" is not an organization'],
    ),
    "unknown user": ({"members": [{**MEMBER, "user": "Nix"}]}, ['members[0].user: "Nix" is not a user']),
    "unknown team": (
        {"members": [{**MEMBER, "teams": ["t1", "t9"]}]},
        ['members[0].teams[1]: "t9" is not a team of "acme"'],
    ),
    "unknown project": (
        {"teams": [{"organization": "acme", "slug": "t1", "projects": ["p9"]}]},
        ['teams[0].projects[0]: "p9" is not a project of "acme"'],
    ),
    "twice": (
        {"users": [{"username": "twin"}, {"username": "TWIN"}]},
        ['users[1]: "twin" is already in users[0]'],
    ),
    "an id twice": (
        {"users": [{"username": "x", "id": 7}, {"username": "y", "id": 7}]},
        ["users[1].id: 7 is already in users[0]"],
    ),
    "another id": ({"users": [{"username": "mem", "id": 12}]}, ['users[0].id: 12 is not the id of "mem", which is 11']),
    "an id of another": (
        {"organizations": [{"slug": "shop"}], "projects": [{"organization": "shop", "slug": "p9", "id": 101}]},
        ["projects[0].id: 101 is the id of another row of projects"],
    ),
    "a new name that another row has": (
        {"users": [{"username": "ana", "id": 11}]},
        ['users[0].id: 11 is not the id of "ana", which is 12'],
    ),
    "the old name of a renamed row": (
        {"users": [{"username": "mem"}, {"username": "mem2", "id": 11}]},
        ["users[0]: users[1] gives this row another name; refer to it by that name"],
    ),
    "a reference by an old name": (
        {
            "users": [{"username": "mem2", "id": 11}],
            "members": [{"organization": "acme", "user": "mem", "role": "owner"}],
        },
        ['members[0].user: "mem" is not a user'],
    ),
    "zero width": (
        {"users": [{"username": "a\u200bb"}]},
        ['users[0].username: "a\u200bb" contains invisible characters'],
    ),
    "zero width in a name": (
        {"users": [{"username": "x", "name": "A\u202eB"}]},
        ['users[0].name: "A\u202eB" contains invisible characters'],
    ),
    "a joiner alone": (
        {"users": [{"username": "x", "name": "\u200d"}]},
        ['users[0].name: "\u200d" contains invisible characters'],
    ),
    "an invisible letter": (
        {"users": [{"username": "a\u3164"}]},
        ['users[0].username: "a\u3164" contains invisible characters'],
    ),
    "a soft hyphen in an address": (
        {"users": [{"username": "x", "email": "a\u00adb@x.test"}]},
        ['users[0].email: "a\u00adb@x.test" contains invisible characters'],
    ),
    "outer blanks": (
        {"users": [{"username": "mem "}]},
        ['users[0].username: "mem " begins or ends with a blank'],
    ),
    "outer blanks in a reference": (
        {"members": [{**MEMBER, "user": " mem"}]},
        ['members[0].user: " mem" begins or ends with a blank'],
    ),
    "outer blanks in a feature": (
        {"organizations": [{"slug": "o", "features": ["organizations:incidents "]}]},
        ['organizations[0].features[0]: "organizations:incidents " begins or ends with a blank'],
    ),
    "decomposed letters": (
        {"users": [{"username": "jose\u0301"}]},
        ['users[0].username: "jose\u0301" is not in Unicode\'s normalization form C'],
    ),
    "a username that looks like an id": (
        {"users": [{"username": "user:28"}]},
        ['users[0].username: "user:28" is not a username: it begins like the mention of an id'],
    ),
    "a key for a user": (
        {"tokens": [{"token": "t", "kind": "key", "name": "k", "organization": "acme", "user": "mem"}]},
        ['tokens[0].user: "mem", but a key token cannot have a user'],
    ),
    "a key that acts": (
        {"tokens": [{"token": "dev-key", "act_as": True}]},
        ["tokens[0].act_as: true, but a key token cannot act for users: only a service token can"],
    ),
    "a key without a name": (
        {"tokens": [{"token": "t", "kind": "key", "organization": "acme"}]},
        ['tokens[0]: "name" is missing: a key token needs a name'],
    ),
    "an operator with scopes": (
        {"tokens": [{"token": "dev-ops", "scopes": ["org:read"]}]},
        ['tokens[0].scopes: ["org:read"], but an ops token has a role instead of scopes'],
    ),
    "another kind": (
        {"tokens": [{"token": "dev-key", "kind": "service"}]},
        ['tokens[0].kind: "service" is not the kind of this token, which is key'],
    ),
}


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_is_reported_with_its_path(populated: Connection, error: str) -> None:
    document, expected = ERRORS[error]

    assert errors_of(populated, document) == expected


@pytest.mark.parametrize("slug", ["", "Acme", "1234", "a b", "ä", "a/b", "a\n", "x" * 101, 5, None])
def test_a_slug_that_is_not_url_safe_is_refused(connection: Connection, slug: object) -> None:
    (error,) = errors_of(connection, {"organizations": [{"slug": slug}]})

    assert error.startswith("organizations[0].slug: ")
    assert "is not a slug" in error


@pytest.mark.parametrize("number", [0, -1, MAX_GIVEN_ID + 1, MAX_ID, MAX_ID + 1, True, "11", 11.0, None])
def test_an_id_must_be_an_integer_that_leaves_others_to_assign(connection: Connection, number: object) -> None:
    (error,) = errors_of(connection, {"users": [{"username": "x", "id": number}]})

    assert error.startswith(f"users[0].id: {json.dumps(number)} is not an id")


def test_all_errors_are_reported_at_once(populated: Connection) -> None:
    document = {
        "users": [{"username": "x", "nmae": "X", "timezone": "Mars"}],
        "members": [{"organization": "acme", "user": "ghost", "role": "king", "teams": ["t9"]}],
        "tokens": [{"token": "t", "kind": "ops", "name": "o"}],
    }

    errors = errors_of(populated, document)

    assert [error.split(":")[0] for error in errors] == [
        "users[0]",
        "users[0].timezone",
        "members[0].role",
        "members[0].user",
        "members[0].teams[0]",
        "tokens[0]",
    ]


def test_a_duplicate_key_is_reported_with_its_path(connection: Connection) -> None:
    document = read_document('{"users": [{"username": "x", "name": "a", "name": "b"}], "teams": [], "teams": []}')

    assert errors_of(connection, document) == ['key "teams" occurs twice', 'users[0]: key "name" occurs twice']


@pytest.mark.parametrize(
    "content", ["", "{", '{"users": NaN}', "[" * 100_000, b"\xff\xfe\xfd", f'{{"a": {"9" * 5000}}}']
)
def test_invalid_json_is_refused_with_a_one_line_error(content: str | bytes) -> None:
    with pytest.raises(DirectoryError, match="the document is"):
        read_document(content)


def test_ten_thousand_people_are_imported_within_the_statement_timeout(connection: Connection) -> None:
    people = [f"person-{number}" for number in range(10_000)]
    document = {
        "organizations": [{"slug": "big"}],
        "users": [{"username": name} for name in people],
        "teams": [{"organization": "big", "slug": "all"}],
        "members": [{"organization": "big", "user": name, "teams": ["all"]} for name in people],
    }
    # An import that inserts row by row would exceed this timeout.
    connection.execute(text("SET LOCAL statement_timeout = '5s'"))

    summary = import_directory(connection, document)

    assert summary["members"] == counts(created=10_000)
    assert connection.execute(text("SELECT count(*) FROM team_members WHERE is_active")).scalar_one() == 10_000


def test_concurrent_imports_are_serialized(database: Database) -> None:
    document = {"organizations": [{"slug": "acme"}], "users": [{"username": f"u{number}"} for number in range(50)]}
    summaries = []

    def import_once() -> None:
        with database.engine.begin() as connection:
            summaries.append(import_directory(connection, document))

    threads = [threading.Thread(target=import_once) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(summary["users"]["created"] for summary in summaries) == [0, 0, 0, 50]
