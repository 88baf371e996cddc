"""The baseline: FastAPI, an ORM session per request, and one Celery task and transaction per command.

This is what a good engineer could write in a day with the same libraries. It has tables of its own, and does the same
work as tocsin for a comment that mentions people, but gives fewer guarantees. No row is stored before the 202 response,
so if the broker loses a message, the command is lost. Commands are not applied in order.

Run ``python -m bench.baseline_api api --port N`` and ``worker --processes N``, with ``BENCH_DATABASE_URL`` and
``BENCH_BROKER_URL`` in the environment.
"""

# No postponed annotations here: FastAPI could not resolve names from an enclosing function in them.

import argparse
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated

import uvicorn
from celery import Celery
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import create_engine, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, joinedload, sessionmaker

from bench.baseline_worker import (
    NEEDED_SCOPES,
    TASK,
    WRITE_SCOPES,
    Base,
    Incident,
    Member,
    Organization,
    Project,
    Team,
    Token,
    User,
    create_celery,
    run_worker,
)


class NewComment(BaseModel):
    """The request body for a new comment."""

    comment: str = Field(min_length=1, max_length=65536)
    mentions: list[str] = []


def create_api(engine: Engine, celery: Celery) -> FastAPI:
    """Create the web application. It checks whether the member may post a comment, and sends the Celery task."""
    api = FastAPI()
    sessions = sessionmaker(engine, expire_on_commit=False)

    def session() -> Iterator[Session]:
        with sessions() as opened:
            yield opened

    def member(
        organization: str, authorization: Annotated[str, Header()], database: Annotated[Session, Depends(session)]
    ) -> Member:
        digest = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).digest()
        token = database.scalar(select(Token).options(joinedload(Token.user)).where(Token.hash == digest))
        if token is None or token.revoked_at is not None or not token.user.is_active:
            raise HTTPException(401, "Invalid token")
        found = database.scalar(
            select(Member)
            .join(Member.organization)
            .options(joinedload(Member.organization))
            .where(Organization.slug == organization, Member.user_id == token.user_id)
        )
        if found is None:
            raise HTTPException(403, "You do not have permission to perform this action.")
        if not found.organization.has_incidents:
            raise HTTPException(404, "The requested resource does not exist")
        if WRITE_SCOPES[found.role].isdisjoint(NEEDED_SCOPES):
            raise HTTPException(403, "You do not have permission to perform this action.")
        return found

    @api.post("/api/0/organizations/{organization}/incidents/{incident}/comments/", status_code=202)
    def post_comment(incident: int, body: NewComment, author: Annotated[Member, Depends(member)]) -> dict[str, str]:
        command = str(uuid.uuid4())
        celery.send_task(
            TASK,
            task_id=command,
            kwargs={
                "command": command,
                "organization": author.organization_id,
                "user": author.user_id,
                "incident": incident,
                "comment": body.comment,
                "mentions": body.mentions,
                "accepted_at": datetime.now(UTC).isoformat(),
            },
        )
        return {"id": command, "status": "accepted"}

    @api.get("/livez")
    def livez() -> dict[str, str]:
        return {"status": "ok"}

    return api


# --- data ----------------------------------------------------------------------------------------------------


def create_tables(
    engine: Engine, *, organization: str, tokens: Iterable[str], people: Iterable[int], incidents: int
) -> None:
    """Create the tables, an organization with one project whose team includes everyone in ``people``, and incidents.

    The incidents are numbered from 1.
    """
    Base.metadata.create_all(engine)
    with Session(engine) as database, database.begin():
        acme = Organization(slug=organization, has_incidents=True, open_membership=True)
        database.add(acme)
        database.flush()
        team = Team(organization_id=acme.id, slug="t1")
        project = Project(organization_id=acme.id, slug="p1", teams=[team])
        users = [User(id=id_, username=f"u{id_}", name=f"User {id_}", email=f"u{id_}@x.test") for id_ in people]
        database.add_all([team, project, *users])
        database.flush()
        database.add_all(
            Member(organization_id=acme.id, user_id=user.id, role="member", teams=[team]) for user in users
        )
        database.add_all(
            Token(hash=hashlib.sha256(token.encode()).digest(), user_id=user.id)
            for token, user in zip(tokens, users, strict=False)
        )
        database.add_all(
            Incident(organization_id=acme.id, identifier=number, title=f"Incident {number}", projects=[project])
            for number in range(1, incidents + 1)
        )


def main() -> None:
    """Run the web application or the worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("process", choices=["api", "worker"])
    parser.add_argument("--port", type=int, default=8401)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    database_url, broker_url = os.environ["BENCH_DATABASE_URL"], os.environ["BENCH_BROKER_URL"]
    if options.process == "worker":
        run_worker(database_url, broker_url, options.processes)
        return
    engine = create_engine(database_url, pool_size=20, max_overflow=20)
    api = create_api(engine, create_celery(broker_url))
    uvicorn.run(api, host="127.0.0.1", port=options.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
