"""A ``tocsin`` command of a made-up next release: ``python -m tests.project.next_release COMMAND …``.

It is the checkout with one more command type, ``comment.pin``, and a higher version of the payload of ``comment.post``.
Its gateway thus sends ``comment.post`` in version 2, and its worker can apply versions 1 and 2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from tasks.commands import catalog
from tasks.commands.comments import PostComment
from workers import handlers
from workers.cli import main

NEXT_PAYLOAD_VERSION = 2
"""The next release's version of the payload of ``comment.post``."""


class PinComment(PostComment):
    """Add a comment to an incident, as ``comment.post`` does. Only the next release has this command type."""

    name: ClassVar[str] = "comment.pin"
    payload_version: ClassVar[int] = 1


NEXT_TYPES = frozenset({"comment.pin/1", f"comment.post/{NEXT_PAYLOAD_VERSION}"})
"""The types and payload versions that the next release has added."""


def become_the_next_release() -> None:
    """Add the next release's commands to this process, before anything else has read the catalog."""
    entry, handler = catalog.CATALOG[PostComment.name], handlers.HANDLERS[PostComment.name]
    catalog.CATALOG[PinComment.name] = replace(entry, command_class=PinComment)
    handlers.HANDLERS[PinComment.name] = replace(handler, command_class=PinComment)
    PostComment.payload_version = NEXT_PAYLOAD_VERSION
    vars(catalog)["KNOWN_TYPES"] = catalog.KNOWN_TYPES | NEXT_TYPES


if __name__ == "__main__":
    become_the_next_release()
    main()
