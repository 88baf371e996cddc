"""The tables of the baseline (:mod:`bench.baseline_api`), and its worker, which opens an ORM session per task."""

import enum
import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from celery import Celery, signals
from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    Table,
    UniqueConstraint,
    create_engine,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, insert
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
    sessionmaker,
)

QUEUE: Final = "baseline"
TASK: Final = "baseline.post_comment"
WRITE_SCOPES: Final = {
    "member": {"org:read", "project:read", "project:write", "alerts:read", "alerts:write"},
    "owner": {"org:read", "org:write", "project:read", "project:write", "alerts:read", "alerts:write"},
}
NEEDED_SCOPES: Final = {"project:write", "org:write", "alerts:write"}


# --- tables ----------------------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    """Base class of the baseline's tables."""

    type_annotation_map = {int: BigInteger, datetime: TIMESTAMP(timezone=True), dict[str, Any]: JSONB}  # noqa: RUF012


team_members = Table(
    "team_members",
    Base.metadata,
    Column("team_id", ForeignKey("teams.id"), primary_key=True),
    Column("member_id", ForeignKey("members.id"), primary_key=True, index=True),
)
project_teams = Table(
    "project_teams",
    Base.metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("team_id", ForeignKey("teams.id"), primary_key=True),
)
incident_projects = Table(
    "incident_projects",
    Base.metadata,
    Column("incident_id", ForeignKey("incidents.id"), primary_key=True),
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
)


class Organization(Base):
    """A tenant."""

    __tablename__ = "organizations"
    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    has_incidents: Mapped[bool]
    open_membership: Mapped[bool]


class User(Base):
    """A person."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    email: Mapped[str]
    is_active: Mapped[bool] = mapped_column(default=True)


class Token(Base):
    """A person's credential, stored as a SHA-256 hash."""

    __tablename__ = "tokens"
    id: Mapped[int] = mapped_column(primary_key=True)
    hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    revoked_at: Mapped[datetime | None]
    user: Mapped[User] = relationship()


class Team(Base):
    """A team in an organization."""

    __tablename__ = "teams"
    id: Mapped[int] = mapped_column(primary_key=True)
    organization_id: Mapped[int] = mapped_column(ForeignKey("organizations.id"))
    slug: Mapped[str]


class Member(Base):
    """A person's membership in an organization."""

    __tablename__ = "members"
    __table_args__ = (UniqueConstraint("organization_id", "user_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    organization_id: Mapped[int] = mapped_column(ForeignKey("organizations.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    role: Mapped[str]
    user: Mapped[User] = relationship()
    organization: Mapped[Organization] = relationship()
    teams: Mapped[list[Team]] = relationship(secondary=team_members)


class Project(Base):
    """A project that incidents belong to."""

    __tablename__ = "projects"
    id: Mapped[int] = mapped_column(primary_key=True)
    organization_id: Mapped[int] = mapped_column(ForeignKey("organizations.id"))
    slug: Mapped[str]
    teams: Mapped[list[Team]] = relationship(secondary=project_teams)


class Incident(Base):
    """An incident."""

    __tablename__ = "incidents"
    __table_args__ = (UniqueConstraint("organization_id", "identifier"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    organization_id: Mapped[int] = mapped_column(ForeignKey("organizations.id"))
    identifier: Mapped[int]
    title: Mapped[str]
    version: Mapped[int] = mapped_column(default=1)
    event_sequence: Mapped[int] = mapped_column(default=0)
    projects: Mapped[list[Project]] = relationship(secondary=incident_projects)


class Subscription(Base):
    """A person's subscription to an incident."""

    __tablename__ = "subscriptions"
    incident_id: Mapped[int] = mapped_column(ForeignKey("incidents.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    reason: Mapped[str]


class ActivityType(enum.IntEnum):
    """The kinds of activity."""

    COMMENT = 3


class Activity(Base):
    """A comment on an incident."""

    __tablename__ = "activities"
    __table_args__ = (Index("activities_page_idx", "incident_id", "date_added", "id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    incident_id: Mapped[int] = mapped_column(ForeignKey("incidents.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    type: Mapped[int]
    comment: Mapped[str]
    date_added: Mapped[datetime]


class Event(Base):
    """An outbox row, to be published by another process."""

    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("subject", "sequence"),)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    subject: Mapped[str]
    sequence: Mapped[int]
    type: Mapped[str]
    body: Mapped[dict[str, Any]]
    announced_at: Mapped[datetime | None]


class Notification(Base):
    """An item in a person's inbox."""

    __tablename__ = "notifications"
    __table_args__ = (UniqueConstraint("activity_id", "user_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    incident_id: Mapped[int] = mapped_column(ForeignKey("incidents.id"))
    activity_id: Mapped[int]
    reason: Mapped[str]
    date_created: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Outcome(Base):
    """A command's outcome, for its caller to read."""

    __tablename__ = "outcomes"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    status: Mapped[int]
    body: Mapped[dict[str, Any]]
    finished_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


# --- the worker ------------------------------------------------------------------------------------------------


def create_celery(broker_url: str) -> Celery:
    """Create the Celery application that the web application and the worker use."""
    app = Celery("baseline", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_acks_late=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        task_serializer="json",
        accept_content=["json"],
    )
    return app


class Refused(Exception):
    """Raised when a command is refused. ``status`` is the HTTP status of the command's outcome."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def apply(
    database: Session,
    *,
    command: str,
    organization: int,
    user: int,
    incident: int,
    comment: str,
    mentions: list[str],
    accepted_at: str,
) -> None:
    """Post a comment and store the outcome. If the command is refused, only store the refusal. The caller commits."""
    id_ = uuid.UUID(command)
    if database.get(Outcome, id_) is not None:
        return  # the task was delivered again
    try:
        author = _author(database, organization, user)
        target = _incident(database, author, incident)
        mentioned = _mentioned(database, target, organization, mentions)
    except Refused as refusal:
        database.add(Outcome(id=id_, status=refusal.status, body={"detail": str(refusal)}))
        return
    _subscribe(database, target, author, mentioned)
    at = datetime.fromisoformat(accepted_at)
    activity = Activity(incident_id=target.id, user_id=user, type=ActivityType.COMMENT, comment=comment, date_added=at)
    database.add(activity)
    target.version += 1
    database.flush()
    _emit(database, target, author, "incident.comment_posted", {"activity": activity.id, "comment": comment})
    if mentioned:
        people = [person.user_id for person in mentioned]
        _emit(database, target, author, "incident.mentioned", {"activity": activity.id, "users": people})
    database.add_all(
        Notification(user_id=person.user_id, incident_id=target.id, activity_id=activity.id, reason="mention")
        for person in mentioned
        if person.user_id != user and _may_read(person, target)
    )
    database.add(Outcome(id=id_, status=201, body=_json(activity, author)))


def _author(database: Session, organization: int, user: int) -> Member:
    author = database.scalar(
        select(Member)
        .options(joinedload(Member.user), joinedload(Member.organization), selectinload(Member.teams))
        .where(Member.organization_id == organization, Member.user_id == user)
    )
    if author is None or not author.user.is_active or WRITE_SCOPES[author.role].isdisjoint(NEEDED_SCOPES):
        raise Refused(403, "You do not have permission to perform this action.")
    return author


def _incident(database: Session, author: Member, identifier: int) -> Incident:
    incident = database.scalar(
        select(Incident)
        .options(selectinload(Incident.projects).selectinload(Project.teams))
        .where(Incident.organization_id == author.organization_id, Incident.identifier == identifier)
        .with_for_update()
    )
    if incident is None:
        raise Refused(404, "The requested resource does not exist")
    if not _may_read(author, incident):
        raise Refused(403, "You do not have permission to perform this action.")
    return incident


def _may_read(person: Member, incident: Incident) -> bool:
    return person.organization.open_membership or not _teams_of(incident).isdisjoint(team.id for team in person.teams)


def _teams_of(incident: Incident) -> set[int]:
    return {team.id for project in incident.projects for team in project.teams}


def _mentioned(database: Session, incident: Incident, organization: int, mentions: Iterable[str]) -> list[Member]:
    ids = {int(mention.removeprefix("user:")) for mention in mentions}
    if not ids:
        return []
    found = database.scalars(
        select(Member)
        .options(joinedload(Member.organization), selectinload(Member.teams))
        .where(Member.organization_id == organization, Member.user_id.in_(ids))
    ).all()
    attached = _teams_of(incident)
    if len(found) < len(ids) or any(attached.isdisjoint(team.id for team in person.teams) for person in found):
        raise Refused(400, "Cannot mention a non team member")
    return list(found)


def _subscribe(database: Session, incident: Incident, author: Member, mentioned: Iterable[Member]) -> None:
    reasons = {person.user_id: "mention" for person in mentioned} | {author.user_id: "commented"}
    rows = [{"incident_id": incident.id, "user_id": user, "reason": reason} for user, reason in sorted(reasons.items())]
    database.execute(insert(Subscription).values(rows).on_conflict_do_nothing())


def _emit(database: Session, incident: Incident, author: Member, type_: str, data: dict[str, Any]) -> None:
    incident.event_sequence += 1
    subject = f"incidents/{incident.identifier}"
    facts = {"incident": {"id": incident.id, "title": incident.title}, "actor": {"id": author.user_id}, **data}
    body = {"specversion": "1.0", "type": type_, "subject": subject, "sequence": incident.event_sequence, "data": facts}
    database.add(
        Event(
            id=uuid.uuid4(),
            subject=f"{incident.organization_id}/{subject}",
            sequence=incident.event_sequence,
            type=type_,
            body=body,
        )
    )


def _json(activity: Activity, author: Member) -> dict[str, Any]:
    return {
        "id": str(activity.id),
        "type": activity.type,
        "comment": activity.comment,
        "user": {"id": str(author.user_id), "name": author.user.name, "email": author.user.email},
        "dateCreated": activity.date_added.isoformat(),
    }


def run_worker(database_url: str, broker_url: str, processes: int) -> None:
    """Run a Celery worker until it is stopped. Each child process creates its own engine, after the fork."""
    app = create_celery(broker_url)
    sessions: list[sessionmaker[Session]] = []

    @signals.worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]
    def open_database(**_: Any) -> None:
        sessions.append(sessionmaker(create_engine(database_url, pool_size=1, pool_pre_ping=False)))

    @app.task(name=TASK, shared=False)  # type: ignore[untyped-decorator]
    def post_comment(**command: Any) -> None:
        with sessions[0].begin() as database:
            apply(database, **command)

    options = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    app.worker_main(["worker", f"--concurrency={processes}", "--pool=prefork", "--loglevel=WARNING", *options])
