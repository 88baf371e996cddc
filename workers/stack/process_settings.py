"""Which settings each process of a stack is given."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points

from models.settings import SETTING_NAMES, DatabaseSettings, Settings, environment_name
from tasks.settings import LogSettings
from workers.runtime.imports import importing

_EVERYWHERE = frozenset({"TOCSIN_DATA"})
"""Every command of tocsin looks for a stack there."""


def process_setting_names(process: str) -> frozenset[str]:
    """Return the names of the settings that a process reads: ``gateway``, ``worker``, ``relay``, and so on."""
    names = {environment_name(each, field) for each in _settings_classes(process) for field in each.model_fields}
    return _EVERYWHERE | names


def process_environment(process: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the settings that the process does not read. Other variables stay."""
    names = process_setting_names(process)
    return {name: value for name, value in environment.items() if name in names or name not in SETTING_NAMES}


def _settings_classes(process: str) -> list[type[Settings]]:
    with importing():
        from workers.settings import NotifierSettings, RelaySettings, WorkerSettings

    if process == "gateway":
        # The packages must not import each other.
        return [entry.load() for entry in entry_points(group="tocsin.settings", name=process)]
    classes: dict[str, list[type[Settings]]] = {
        "worker": [WorkerSettings],
        "relay": [RelaySettings],
        "notifier": [NotifierSettings],
        "migrate": [DatabaseSettings, LogSettings],
        "catcher": [],
    }
    return classes[process]
