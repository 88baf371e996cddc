"""The pages about commands: a search in the ledger, and a command with its timeline."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final, NamedTuple
from urllib.parse import urlencode

from gateway.http.responses import HttpResponse
from gateway.ops.console.operator import ConsoleHandler, Operator, console_page
from gateway.ops.console.tables import parse_uuid, read_list
from gateway.ops.filters import COMMAND_FILTERS, command_filters
from gateway.pages.request import PageRequest
from models.enums import CommandState, Lane
from models.notifications.delivery import DeliveryState
from models.operations.command_details import read_command
from models.operations.commands import search_commands
from models.serializers.operations import CommandDetailJson, TimelineEntryJson, TimelineStep
from tasks.commands.catalog import CATALOG

PATH: Final = "/ops/commands/"
COMMAND_PATH: Final = "/ops/commands/{command}/"

STATES: Final = tuple(state.value for state in CommandState)
LANES: Final = tuple(lane.value for lane in Lane)
TYPES: Final = tuple((name, name) for name in sorted(CATALOG))


class ShownStep(NamedTuple):
    """A step of a timeline as it is shown. ``tone`` colours it, and ``link`` is the path of the page about it.

    ``after`` is the number of milliseconds since the step before, or ``None`` for the first step.
    """

    at: str
    after: float | None
    label: str
    tone: str
    detail: str
    link: str | None


_STEPS: Final[Mapping[TimelineStep, tuple[str, str]]] = {
    TimelineStep.ACCEPTED: ("Accepted", "open"),
    TimelineStep.HINTED: ("Hint sent", ""),
    TimelineStep.HELD: ("Held", "warning"),
    TimelineStep.RELEASED: ("Released", ""),
    TimelineStep.CLAIMED: ("Claimed", ""),
    TimelineStep.ATTEMPT_FAILED: ("Attempt failed", "critical"),
    TimelineStep.APPLIED: ("Applied", "resolved"),
    TimelineStep.REJECTED: ("Rejected", "warning"),
    TimelineStep.DEAD: ("Dead", "critical"),
    TimelineStep.REQUEUED: ("Requeued", "open"),
    TimelineStep.DISCARDED: ("Discarded", "warning"),
    TimelineStep.EVENT: ("Event written", ""),
    TimelineStep.ANNOUNCED: ("Event announced", ""),
    TimelineStep.PLANNED: ("Recipients planned", ""),
    TimelineStep.DECISION: ("Decision", ""),
    TimelineStep.DELIVERY: ("Delivery", ""),
}
"""What each step is called, and its tone."""

_LINKS: Final[Mapping[TimelineStep, tuple[re.Pattern[str], str]]] = {
    TimelineStep.DELIVERY: (re.compile(r": (?P<state>[a-z]+), delivery (?P<id>[0-9a-f-]{36})$"), "/ops/deliveries/{}/"),
    TimelineStep.REQUEUED: (re.compile(r"in operation (?P<id>[0-9]+):"), "/ops/operations/{}/"),
}
"""The pages about what a step's detail names."""

_TONES: Final[Mapping[str, str]] = {
    DeliveryState.DELIVERED: "resolved",
    DeliveryState.FAILED: "critical",
    DeliveryState.DEAD: "critical",
}
"""The tone of a delivery in this state."""


async def show_commands(request: PageRequest, operator: Operator) -> HttpResponse:
    """Show the commands that all filters match, newest first."""
    found = await read_list(request, COMMAND_FILTERS, command_filters, search_commands)
    return console_page(
        request, operator, "commands.html", found.status, found=found, states=STATES, lanes=LANES, types=TYPES
    )


async def show_command(request: PageRequest, operator: Operator) -> HttpResponse:
    """Show a command with its timeline; to viewers without what a user wrote."""
    id_ = parse_uuid(request.parameters["command"])
    read = partial(read_command, command_id=id_, with_texts=operator.may_change)
    command = await request.container.operations.read(read)
    return console_page(
        request,
        operator,
        "command.html",
        command=command,
        steps=list(shown_steps(command["timeline"])),
        payload=_pretty(command["payload"]),
        outcome=_pretty(command["outcome"] and command["outcome"]["body"]),
        links=_links(command),
        is_moving=command["status"] is CommandState.ACCEPTED,
    )


def shown_steps(timeline: list[TimelineEntryJson]) -> Iterator[ShownStep]:
    """Yield the steps of a timeline as they are shown."""
    for index, entry in enumerate(timeline):
        label, tone = _STEPS[entry["step"]]
        link = None
        if entry["step"] in _LINKS:
            pattern, path = _LINKS[entry["step"]]
            if (found := pattern.search(entry["detail"])) is not None:
                link = path.format(found["id"])
                tone = _TONES.get(found.groupdict().get("state", ""), tone)
        yield ShownStep(entry["at"], entry["afterMs"] if index else None, label, tone, entry["detail"], link)


def _pretty(value: object) -> str | None:
    return None if value is None else json.dumps(value, indent=2, ensure_ascii=False)


def _links(command: CommandDetailJson) -> dict[str, str]:
    """Return the paths of the pages about the command's incident, by what they show."""
    organization, incident = command["organization"], command["incident"]
    if organization is None or incident is None:
        return {}
    named = urlencode({"organization": organization, "incident": incident})
    links = {
        "Commands of its incident": f"{PATH}?{named}",
        "Deliveries of its incident": f"/ops/deliveries/?{named}",
        "Who was told": f"/ops/explain/?{named}",
    }
    if command["activities"]:
        links["Who was told"] += f"&{urlencode({'comment': command['activities'][0]})}"
    return links


PAGES: Final[Mapping[str, Mapping[str, ConsoleHandler]]] = {
    PATH: {"GET": show_commands},
    COMMAND_PATH: {"GET": show_command},
}
