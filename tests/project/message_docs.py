"""docs/messages.md taken apart: its paragraphs by name, and the JSON in them."""

from __future__ import annotations

import re

from tests.project.tree import ROOT

PAGE = ROOT / "docs" / "messages.md"

_HEADING = re.compile(r"^(#{2,4}) (.+)$", re.MULTILINE)
_NAME = re.compile(r"`([a-z_]+\.[a-z_]+)`")
_JSON = re.compile(r"^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections(heading: str) -> dict[str, str]:
    """The paragraphs of a chapter by the name in their heading: ``### `comment.post` `` gives ``comment.post``."""
    found: dict[str, str] = {}
    current = ""
    parts = _HEADING.split(PAGE.read_text())[1:]
    for level, title, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if level == "##":
            current = title
        elif current == heading and (name := _NAME.match(title)):
            found[name[1]] = text
    return found


def examples(text: str) -> list[str]:
    """The JSON blocks of a text."""
    return _JSON.findall(text)
