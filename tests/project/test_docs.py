"""Links, make targets, settings, files and examples in the documentation exist and are valid."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.openapi.directory_schema import directory_schema
from models.directory.document import NATURAL_KEYS, SECTIONS
from models.directory.example import EXAMPLE
from models.directory.rows import OPTIONS
from models.directory.tables import TOKEN_KINDS
from models.enums import Feature, Role
from models.settings import SETTING_NAMES
from tasks.commands.catalog import CATALOG
from tasks.events import EVENTS
from tests.project.message_docs import PAGE, examples, sections
from tests.project.role_table import role_table
from tests.project.tree import ROOT, files, relative_path

PAGES = sorted(files(".md"))
ENVELOPE = {
    "specversion", "id", "source", "subject", "type", "time", "sequence", "partitionkey", "datacontenttype", "data",
}  # fmt: skip

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`\n]+`|^```.*?^```$", re.MULTILINE | re.DOTALL)
_MAKE = re.compile(r"(?:^|[`;&|(]\s*)make[ \t]+([a-z][a-z-]*)", re.MULTILINE)
_TARGET = re.compile(r"^([a-z][a-z-]*)\s*:(?!=)", re.MULTILINE)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_SETTING = re.compile(r"\b(?:TOCSIN_[A-Z_]*[A-Z]|DATABASE_URL|BROKER_URL|REDIS_URL)\b")
_FILE = re.compile(r"`((?:gateway|workers|tasks|models|tests|docs|deploy|clients)/[\w./-]*)`")

pages = pytest.mark.parametrize("page", PAGES, ids=relative_path)


@pages
def test_every_link_within_the_repository_resolves(page: Path) -> None:
    lost = []
    for target in _LINK.findall(_FENCE.sub("", page.read_text())):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        aim = (page.parent / path).resolve() if path else page
        if not aim.exists() or (anchor and aim.suffix == ".md" and anchor not in _anchors(aim)):
            lost.append(target)

    assert lost == []


@pages
def test_every_make_target_named_on_a_page_exists(page: Path) -> None:
    code = "\n".join(_CODE.findall(page.read_text()))
    named = set(_MAKE.findall(code))

    assert sorted(named - _make_targets()) == [], "no such target in the Makefile"


@pages
def test_every_setting_named_on_a_page_exists(page: Path) -> None:
    assert sorted(set(_SETTING.findall(page.read_text())) - SETTING_NAMES.keys()) == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=relative_path)
def test_every_file_named_on_a_page_exists(page: Path) -> None:
    assert [name for name in _FILE.findall(page.read_text()) if not (ROOT / name).exists()] == []


def test_every_setting_is_documented_in_the_readme() -> None:
    assert sorted(SETTING_NAMES.keys() - set(_SETTING.findall((ROOT / "README.md").read_text()))) == []


def test_the_table_of_roles_is_what_the_policy_says() -> None:
    assert role_table() in PAGE.read_text(), "python -m tests.project.role_table prints the table"


def test_the_example_of_the_directory_is_the_one_that_the_command_prints() -> None:
    [example, _] = map(json.loads, examples((ROOT / "docs" / "directory.md").read_text()))

    assert example == EXAMPLE


def test_every_word_of_the_directory_is_explained() -> None:
    page = (ROOT / "docs" / "directory.md").read_text()
    keys = {key for shape in SECTIONS.values() for key in shape}

    words = [*SECTIONS, *keys, *OPTIONS, *Feature, *Role, *TOKEN_KINDS]
    assert [word for word in words if f"`{word}`" not in page] == []


@pytest.mark.parametrize("section", SECTIONS)
def test_the_schema_of_the_directory_has_the_keys_that_an_import_knows(section: str) -> None:
    items = directory_schema()["properties"][section]["items"]

    assert items["properties"].keys() == SECTIONS[section].keys()
    assert items["required"] == list(NATURAL_KEYS[section])


@pytest.mark.parametrize("block", examples(PAGE.read_text()))
def test_every_json_block_of_the_message_page_is_valid(block: str) -> None:
    assert isinstance(json.loads(block), dict)


@pytest.mark.parametrize("command", CATALOG)
def test_every_command_example_is_valid(command: str) -> None:
    for block in examples(sections("Commands").get(command, "")):
        body = json.loads(block)
        message = CATALOG[command].command_class

        message.model_validate(body)
        assert body.keys() <= _names_on_the_wire(command), f"{command} has no such field"


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_example_is_valid(event: str) -> None:
    for block in examples(sections("Events").get(event, "")):
        body = json.loads(block)

        assert body.keys() == ENVELOPE
        assert body["type"] == event
        assert body["partitionkey"] == body["subject"]


def _anchors(page: Path) -> set[str]:
    titles = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in _HEADING.findall(page.read_text())]
    return set(titles)


def _make_targets() -> set[str]:
    makefile = ROOT / "Makefile"
    return set(_TARGET.findall(makefile.read_text())) if makefile.exists() else set()


def _names_on_the_wire(command: str) -> set[str]:
    return {field.alias or name for name, field in CATALOG[command].command_class.model_fields.items()}
