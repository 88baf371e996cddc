"""The facts about chat destinations that the commands of a batch need."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.notifications.chat_destination import ChatDestination


@dataclass(slots=True)
class ChatFacts:
    """The facts about chat destinations.

    ``by_id`` holds all destinations of the organizations whose destinations the batch changes. Handlers pop new ids
    from ``new_ids``.
    """

    by_id: dict[int, ChatDestination] = field(default_factory=dict)
    new_ids: list[int] = field(default_factory=list)

    def find(self, organization_id: int, id_: int) -> ChatDestination | None:
        """Return the organization's destination with this id, if there is one."""
        destination = self.by_id.get(id_)
        return destination if destination is not None and destination.organization_id == organization_id else None

    def of_organization(self, organization_id: int) -> list[ChatDestination]:
        """Return the organization's destinations."""
        return [each for each in self.by_id.values() if each.organization_id == organization_id]
