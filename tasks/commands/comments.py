"""Commands to post, edit and delete comments."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Final

from models.enums import CallerKind
from models.refusals import InvalidFields
from tasks.commands.base import Command
from tasks.commands.fields import (
    IncidentReference,
    Mentions,
    OptionalMentions,
    OptionalText,
    RowId,
    TextField,
)

MAX_MENTIONS: Final = 100


class _WithMentions(Command):
    def require_submittable(self, *, by: CallerKind, at: datetime) -> None:  # noqa: ARG002
        """Check that there are at most :data:`MAX_MENTIONS` mentions. Commands of earlier releases may have more.

        :raises InvalidFields: if there are more.
        """
        require_few_mentions(getattr(self, "mentions", None) or ())


def require_few_mentions(mentions: Sequence[object]) -> None:
    """Require at most :data:`MAX_MENTIONS` mentions.

    :raises InvalidFields: if there are more.
    """
    if len(mentions) > MAX_MENTIONS:
        raise InvalidFields({"mentions": [f"Ensure this field has no more than {MAX_MENTIONS} elements."]})


class PostComment(_WithMentions):
    """Add a comment to an incident and notify the people it mentions. ``external_id`` is validated but ignored."""

    name: ClassVar[str] = "comment.post"

    incident: IncidentReference
    comment: TextField
    mentions: Mentions = ()
    external_id: OptionalText = None


class EditComment(_WithMentions):
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
