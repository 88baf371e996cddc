"""Commands to post, edit and delete comments."""

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
    """Add a comment to an incident and notify the people it mentions. ``external_id`` is validated but ignored."""

    name: ClassVar[str] = "comment.post"

    incident: IncidentReference
    comment: TextField
    mentions: Mentions = ()
    external_id: OptionalText = None


class EditComment(Command):
    """Replace a comment's text and notify the people whom it mentions for the first time."""

    name: ClassVar[str] = "comment.edit"

    incident: IncidentReference
    id: RowId
    comment: TextField
    mentions: OptionalMentions = None


class DeleteComment(Command):
    """Delete a comment."""

    name: ClassVar[str] = "comment.delete"

    incident: IncidentReference
    id: RowId
