"""docker-compose.yml, read as Docker would: variables by their defaults, merges done."""

from __future__ import annotations

import re
from typing import Any

from ruamel.yaml import YAML

from tests.project.tree import ROOT

COMPOSE = ROOT / "docker-compose.yml"

_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def services() -> dict[str, dict[str, Any]]:
    """Every service of the file."""
    text = _VARIABLE.sub(lambda found: found[2], COMPOSE.read_text())
    found: dict[str, dict[str, Any]] = YAML(typ="safe", pure=True).load(text)["services"]
    return found


def own_services() -> dict[str, dict[str, Any]]:
    """The services that are tocsin's own processes."""
    return {name: service for name, service in services().items() if "build" in service}


def variables() -> dict[str, str]:
    """What may be set from outside, with its default."""
    return dict(_VARIABLE.findall(COMPOSE.read_text()))
