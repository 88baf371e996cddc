"""Commands about comments: post, edit, delete."""

from __future__ import annotations

from typing import ClassVar

from tasks.commands.base import Command
from tasks.commands.fields import (
    IncidentReference,
    Mentions,
    OptionalMentions,
    OptionalText,
    RowId,
    TextField,
)


class PostComment(Command):
    """Say something on an incident; ``mentions`` are told. ``external_id`` is checked and not kept."""

    name: ClassVar[str] = "comment.post"

    incident: IncidentReference
    comment: TextField
    mentions: Mentions = ()
    external_id: OptionalText = None


class EditComment(Command):
    """Say something else instead; who is mentioned for the first time is told. Without ``mentions`` nobody is."""

    name: ClassVar[str] = "comment.edit"

    incident: IncidentReference
    id: RowId
    comment: TextField
    mentions: OptionalMentions = None


class DeleteComment(Command):
    """Take a comment back."""

    name: ClassVar[str] = "comment.delete"

    incident: IncidentReference
    id: RowId
