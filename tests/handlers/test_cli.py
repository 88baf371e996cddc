"""Output and exit codes of `tocsin migrate`, `tocsin directory` and `tocsin token`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from models.directory.tables import hash_token
from tests.conftest import Database
from workers.cli import main


class CliResult(NamedTuple):
    code: int
    out: str
    err: str


Tocsin = Callable[..., CliResult]


@pytest.fixture
def tocsin(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Tocsin:
    """A function that runs the command line on a fresh database; it returns the exit code and the output."""
    monkeypatch.chdir(tmp_path)
    # Configuring logging would affect the whole test process.
    monkeypatch.setattr("workers.cli.migrate.configure_logging", lambda _level: None)
    monkeypatch.setenv("DATABASE_URL", database.url)

    def run(*arguments: str) -> CliResult:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        return CliResult(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def document(tmp_path: Path) -> str:
    path = tmp_path / "directory.json"
    path.write_text(json.dumps({"organizations": [{"slug": "acme"}], "users": [{"username": "mem"}]}))
    return str(path)


def test_migrating_an_up_to_date_database_reports_that_it_is_up_to_date(tocsin: Tocsin) -> None:
    result = tocsin("migrate")

    assert result.code == 0
    assert result.out.startswith("the schema is already at ")


def test_the_example_of_a_document_can_be_imported_as_it_is(tocsin: Tocsin, tmp_path: Path) -> None:
    printed = tocsin("directory", "import", "--example")
    (tmp_path / "example.json").write_text(printed.out)

    imported = tocsin("directory", "import", "example.json", "--json")

    counts = {section: counted["created"] for section, counted in json.loads(imported.out).items()}
    assert (printed.code, imported.code, imported.err) == (0, 0, "")
    assert counts == {"organizations": 1, "users": 2, "projects": 1, "teams": 1, "members": 2, "tokens": 0}


def test_an_import_says_which_organizations_lack_the_feature_of_incidents(tocsin: Tocsin, document: str) -> None:
    result = tocsin("directory", "import", document)

    assert (result.code, result.err.split(":")[0]) == (0, "acme does not have the feature organizations")


def test_an_import_without_a_document_names_the_example(tocsin: Tocsin) -> None:
    result = tocsin("directory", "import")

    assert result.code == 1
    assert "--example" in result.err


def test_an_import_reports_created_and_unchanged_rows(tocsin: Tocsin, document: str) -> None:
    first, second = tocsin("directory", "import", document), tocsin("directory", "import", document, "--json")

    assert (first.code, second.code) == (0, 0)
    assert "users: 1 created, 0 changed, 0 unchanged" in first.out.splitlines()
    assert json.loads(second.out)["users"] == {"created": 0, "changed": 0, "unchanged": 1}


def test_an_export_can_be_imported_from_standard_input(
    tocsin: Tocsin, document: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tocsin("directory", "import", document)
    exported = tocsin("directory", "export")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(exported.out.encode())))

    result = tocsin("directory", "import", "-", "--json")

    assert json.loads(result.out)["organizations"] == {"created": 0, "changed": 0, "unchanged": 1}


def test_each_error_in_a_refused_document_is_reported_with_its_path(tocsin: Tocsin, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"users": [{"nmae": "x"}]}')

    result = tocsin("directory", "import", str(bad))

    assert (result.code, result.out) == (1, "")
    assert 'users[0]: unknown key "nmae"' in result.err.splitlines()


def test_only_the_token_is_printed_on_standard_output(tocsin: Tocsin, document: str, database: Database) -> None:
    tocsin("directory", "import", document)

    result = tocsin("token", "create", "--user", "mem", "--expires", "7")

    (secret,) = result.out.splitlines()
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT hash FROM tokens").scalar_one() == hash_token(secret)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["--organization", "acme", "--name", "k"], "key"),
        (["--organization", "acme", "--name", "s", "--service"], "service"),
        (["--organization", "acme", "--name", "s", "--act-as", "--scopes", "org:read, project:read"], "service"),
        (["--ops", "viewer", "--name", "o"], "ops"),
        (["--user", "mem"], "user"),
    ],
    ids=" ".join,
)
def test_the_options_determine_the_kind_of_token(
    tocsin: Tocsin, document: str, arguments: list[str], kind: str
) -> None:
    tocsin("directory", "import", document)

    made = json.loads(tocsin("token", "create", *arguments, "--json").out)

    (listed,) = json.loads(tocsin("token", "list", "--json").out)
    assert (listed["id"], listed["kind"]) == (made["id"], kind)
    assert made["token"] not in json.dumps(listed)


def test_a_revoked_token_is_listed_as_revoked(tocsin: Tocsin) -> None:
    made = json.loads(tocsin("token", "create", "--ops", "admin", "--name", "me", "--json").out)

    result = tocsin("token", "revoke", str(made["id"]))

    assert result.code == 0
    assert "revoked" in tocsin("token", "list").out


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["token", "create"], 2, "give one of --user"),
        (["token", "create", "--user", "mem", "--ops", "admin"], 2, "give one of --user"),
        (["token", "create", "--organization", "acme"], 2, "--organization needs --name"),
        (["token", "create", "--ops", "admin", "--name", " "], 2, "--ops needs --name"),
        (
            ["token", "create", "--user", "mem", "--act-as"],
            2,
            "--act-as needs the service's organization: add --organization",
        ),
        (
            ["token", "create", "--ops", "admin", "--name", "k", "--service"],
            2,
            "--service needs the service's organization",
        ),
        (["token", "create", "--ops", "admin", "--name", "k", "--scopes", "org:read"], 2, "--ops takes no --scopes"),
        (
            ["token", "create", "--user", "ghost"],
            1,
            'there is no user "ghost": `tocsin directory export` lists the users',
        ),
        (["token", "create", "--organization", "nix", "--name", "k"], 1, 'there is no organization "nix": `tocsin'),
        (["token", "create", "--ops", "king", "--name", "k"], 2, "'king'"),
        (["token", "revoke", "99"], 1, "there is no token 99"),
        (
            ["directory", "import", "nowhere.json"],
            1,
            "nowhere.json cannot be read: No such file or directory; choose a file with a directory document",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_error_is_one_line_on_standard_error(tocsin: Tocsin, arguments: list[str], code: int, sentence: str) -> None:
    result = tocsin(*arguments)

    assert (result.code, result.out) == (code, "")
    assert sentence in result.err
    assert result.err.count("\n") == 1
