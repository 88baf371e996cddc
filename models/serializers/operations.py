"""What operators see of tocsin, as JSON: queues, processes, commands, dead letters, holds, deliveries, the audit log.

The functions in :mod:`models.operations` return these entities, so that ``/ops/api``, the dashboard and the command
line show the same facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, NotRequired, TypedDict

from models.enums import Channel, CommandState, Lane
from models.json_fields import DateTime, Id, SchemaKeywords, Uuid
from models.messaging.hold import HoldScope
from models.notifications.delivery import DeliveryState
from models.serializers.commands import HeldByJson, OutcomeJson
from models.timestamps import iso, iso_or_none


class Severity(StrEnum):
    """How urgent something is that needs an operator's attention."""

    WARNING = "warning"
    CRITICAL = "critical"


class BrokerState(StrEnum):
    """Whether the broker answers."""

    OK = "ok"
    UNREACHABLE = "unreachable"


class QueueState(StrEnum):
    """The state of a queue. ``no_consumer``: its canaries are not consumed. ``stalled``: work waits and none is done.

    ``unknown``: no canary has been sent yet, so nobody can tell.
    """

    RUNNING = "running"
    HELD = "held"
    NO_CONSUMER = "no_consumer"
    STALLED = "stalled"
    UNKNOWN = "unknown"


class ProcessState(StrEnum):
    """The state of a process: ``gone`` if it has ended, or has not reported for 30 s."""

    BUSY = "busy"
    IDLE = "idle"
    GONE = "gone"


class BulkState(StrEnum):
    """The state of a bulk operation. ``stopped``: by an operator, or because too many commands died again."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"


class TimelineStep(StrEnum):
    """A step in the life of a command."""

    ACCEPTED = "accepted"
    HINTED = "hinted"
    HELD = "held"
    RELEASED = "released"
    CLAIMED = "claimed"
    ATTEMPT_FAILED = "attempt_failed"
    APPLIED = "applied"
    REJECTED = "rejected"
    DEAD = "dead"
    REQUEUED = "requeued"
    DISCARDED = "discarded"
    EVENT = "event"
    ANNOUNCED = "announced"
    PLANNED = "planned"
    DECISION = "decision"
    DELIVERY = "delivery"


class DatabaseStatusJson(TypedDict):
    """Whether the database answers: ``ok``, because otherwise there is no answer."""

    status: str


class BrokerStatusJson(TypedDict):
    """Whether the broker answers. ``kind`` is ``valkey``, ``redis`` or ``rabbitmq``, and ``detail`` a sentence."""

    status: BrokerState
    kind: str
    detail: str


class AttentionJson(TypedDict):
    """Something that needs an operator's attention: a sentence, and the path of the page that shows more."""

    kind: str
    severity: Severity
    text: str
    link: str


class OverviewJson(TypedDict):
    """The state of the whole system. Numbers are those of the last minute unless their name says otherwise."""

    at: DateTime
    database: DatabaseStatusJson
    broker: BrokerStatusJson
    waiting: int
    oldestSeconds: float | None
    held: int
    dead: int
    unannounced: int
    unplanned: int
    deliveriesDue: int
    acceptedPerMinute: int
    finishedPerMinute: int
    rejectedPerMinute: int
    waitP50Ms: float | None
    waitP95Ms: float | None
    attention: list[AttentionJson]


class HoldJson(TypedDict):
    """A hold. ``by`` says who placed it, and ``waiting`` how many commands or deliveries it holds."""

    id: Id
    scope: HoldScope
    target: str
    reason: str
    by: str
    since: DateTime
    releaseAt: DateTime | None
    waiting: int


class QueueCanaryJson(TypedDict):
    """The last canaries of a queue: when one was sent and seen, and how long the last one seen was on its way."""

    sentSecondsAgo: float
    seenSecondsAgo: float | None
    wayMs: float | None


class QueueJson(TypedDict):
    """A queue. ``waiting`` counts commands, or deliveries, not hints.

    ``consumers`` is null if the broker does not know them or does not answer.
    """

    name: Lane
    waiting: int
    oldestSeconds: float | None
    held: int
    inPerMinute: int
    outPerMinute: int
    drainSeconds: float | None
    state: QueueState
    hold: HoldJson | None
    canary: QueueCanaryJson | None
    consumers: int | None


class ProcessJson(TypedDict):
    """A process. ``inHand`` are the ids of the commands that it is applying."""

    id: Uuid
    kind: Annotated[str, SchemaKeywords(pattern="^(gateway|worker|relay|notifier)$")]
    host: str
    pid: int
    version: str
    startedAt: DateTime
    lastSeenAt: DateTime
    state: ProcessState
    lanes: list[Lane]
    inHand: list[Uuid]
    finishedPerMinute: int | None
    rssBytes: int | None


class ActorJson(TypedDict):
    """Who submitted a command: a user, or a token without a user. ``tocsin`` itself has the type ``system``."""

    type: str
    id: Id | None
    name: str


class OutcomeStatusJson(TypedDict):
    """A command's outcome without its body, which may contain what users wrote."""

    status: int


class CommandFactsJson(TypedDict):
    """What a list and the details of a command have in common.

    ``waitMs`` is the time until the command was claimed, and ``applyMs`` the time from then to its outcome. Both are
    null if they were not recorded.
    """

    id: Uuid
    type: str
    status: CommandState
    organization: str | None
    acceptedAt: DateTime
    finishedAt: DateTime | None
    attempts: int
    heldBy: HeldByJson | None
    error: str | None
    subject: str
    lane: str
    actor: ActorJson | None
    waitMs: float | None
    applyMs: float | None


class CommandRowJson(CommandFactsJson):
    """A command in a list."""

    outcome: OutcomeStatusJson | None


class TimelineEntryJson(TypedDict):
    """A step in the life of a command, with the milliseconds since the step before."""

    at: DateTime
    step: TimelineStep
    detail: str
    afterMs: float


class CommandDetailJson(CommandFactsJson):
    """A command with everything that is known about it. ``payload`` and ``outcome.body`` are null for viewers.

    ``incident`` is the number of the incident that it is about, and ``activities`` are the ids of what it added there.
    """

    outcome: OutcomeJson | None
    payload: Any
    idempotencyKey: str | None
    traceId: str | None
    requestId: str | None
    incident: Id | None
    activities: list[Id]
    timeline: list[TimelineEntryJson]


class DeadCommandJson(CommandRowJson):
    """A dead letter. Those with the same ``fingerprint`` have the same type and, apart from ids and numbers, error."""

    diedAt: DateTime
    fingerprint: str


class DeadGroupJson(TypedDict):
    """The dead letters with the same fingerprint. ``sample`` is the id of the newest of them."""

    fingerprint: str
    type: str
    error: str
    count: int
    firstAt: DateTime
    lastAt: DateTime
    sample: Uuid


class RequeuePreviewJson(TypedDict):
    """What a requeue would do: the number of commands, and of their subjects."""

    matching: int
    subjects: int


class BulkOperationJson(TypedDict):
    """A bulk requeue. ``diedAgain`` are those of the requeued commands that died again."""

    id: Id
    state: BulkState
    matching: int
    requeued: int
    diedAgain: int
    by: NotRequired[str]
    reason: NotRequired[str]
    detail: NotRequired[str]


class DiscardedJson(TypedDict):
    """How many dead commands were discarded."""

    discarded: int


class DeliveryAttemptJson(TypedDict):
    """An attempt to send a message. ``status`` is the status code of the answer, if there was one."""

    at: DateTime
    status: int | None
    durationMs: int
    error: str | None


class DeliveryEventJson(TypedDict):
    """The event that caused a delivery."""

    id: Uuid | None
    type: str | None


class DeliveryUserJson(TypedDict):
    """The person whom a delivery notifies."""

    id: Id
    username: str
    name: str


class DeliveryJson(TypedDict):
    """A delivery. ``target`` names the recipient or the destination, without secrets; ``incident`` is a number."""

    id: Uuid
    channel: Channel
    organization: str
    incident: Id | None
    user: DeliveryUserJson | None
    target: str | None
    event: DeliveryEventJson
    state: DeliveryState
    attempts: list[DeliveryAttemptJson]
    dueAt: DateTime | None
    heldBy: HeldByJson | None
    detail: str | None


class SeriesJson(TypedDict):
    """Numbers per minute, oldest first. A minute for which nothing was recorded is null."""

    start: DateTime
    stepSeconds: int
    series: dict[str, list[float | None]]


class AuditEntryJson(TypedDict):
    """What an operator did: to what, why, and the state before and after. Releases by time are by ``tocsin``."""

    id: Id
    at: DateTime
    by: str
    action: str
    target: str
    before: Any
    after: Any
    reason: str


def hold_json(hold: Any, *, waiting: int) -> HoldJson:
    """Serialize a hold from its row."""
    return {
        "id": str(hold.id),
        "scope": HoldScope(hold.scope),
        "target": hold.target,
        "reason": hold.reason,
        "by": hold.held_by,
        "since": iso(hold.since),
        "releaseAt": iso_or_none(hold.release_at),
        "waiting": waiting,
    }


def audit_entry_json(row: Mapping[str, Any]) -> AuditEntryJson:
    """Serialize an entry of the audit log from its row."""
    return {
        "id": str(row["id"]),
        "at": iso(row["at"]),
        "by": row["who"],
        "action": row["action"],
        "target": row["target"],
        "before": row["before"],
        "after": row["after"],
        "reason": row["reason"],
    }
