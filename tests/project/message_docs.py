"""Helpers that parse docs/messages.md into sections by name, and the JSON examples in them."""

from __future__ import annotations

import re

from tests.project.tree import ROOT

PAGE = ROOT / "docs" / "messages.md"

_HEADING = re.compile(r"^(#{2,4}) (.+)$", re.MULTILINE)
_NAME = re.compile(r"`([a-z_]+\.[a-z_]+)`")
_JSON = re.compile(r"^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections(heading: str) -> dict[str, str]:
    """Return the text of each section below a heading, by the name in its own heading, such as ``comment.post``."""
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
    """Return the JSON code blocks in a text."""
    return _JSON.findall(text)
