"""The facts about people's preferences: their version, and the incidents that they have muted or want to mute."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from models.policy import ProjectFacts


@dataclass(frozen=True, slots=True)
class MutableIncident:
    """The facts about an incident that decide who may read, and therefore mute it."""

    organization_id: int
    projects: tuple[ProjectFacts, ...]


@dataclass(slots=True)
class PreferenceFacts:
    """A person's preferences, kept current by the handlers. The version is 0 if nothing has been set yet.

    ``mutes`` maps the id of each muted incident to the end of the mute, or to ``None`` if it has none. ``incidents``
    holds the muted incidents, and those that the person wants to mute, as far as they exist.
    """

    version: int = 0
    mutes: dict[int, datetime | None] = field(default_factory=dict)
    incidents: dict[int, MutableIncident] = field(default_factory=dict)
