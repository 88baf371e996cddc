"""Parse docker-compose.yml as Docker does: defaults for variables, and YAML merges."""

from __future__ import annotations

import re
from typing import Any

from ruamel.yaml import YAML

from tests.project.tree import ROOT

COMPOSE = ROOT / "docker-compose.yml"

_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def services() -> dict[str, dict[str, Any]]:
    """Return every service in the file, by name."""
    text = _VARIABLE.sub(lambda found: found[2], COMPOSE.read_text())
    found: dict[str, dict[str, Any]] = YAML(typ="safe", pure=True).load(text)["services"]
    return found


def own_services() -> dict[str, dict[str, Any]]:
    """Return the services that run tocsin's own processes, by name."""
    return {name: service for name, service in services().items() if "build" in service}


def variables() -> dict[str, str]:
    """Return the variables in the file, with their defaults."""
    return dict(_VARIABLE.findall(COMPOSE.read_text()))
