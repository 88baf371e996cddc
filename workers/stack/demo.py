"""What `tocsin up --demo` adds to a stack: people, projects, and incidents that someone can talk about."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import select

from models.base import new_id
from models.command import NewCommand, accept
from models.directory import organizations, token_hash, tokens
from models.roster import import_directory, read_document
from models.session import make_engine
from models.settings import with_driver
from models.vocabulary import Lane
from tasks.catalog import CATALOG
from tasks.commands import OpenIncident
from workers.stack.up import Stack

DIRECTORY: Final = Path(__file__).with_name("demo.json")
"""Who exists in the demo; its tokens are for play."""

INCIDENTS: Final = tuple(
    OpenIncident.model_validate({"title": title, "projects": [project], "status": status, "dedupKey": key})
    for title, project, status, key in (
        ("Checkout answers slowly", "p1", 10, "demo-checkout"),
        ("Card payments fail", "p2", 20, "demo-payments"),
        ("Search index is a day old", "p1", 1, "demo-search"),
    )
)
"""What is wrong in the demo: opened by its bot, once, since each has a key."""


def prepare(stack: Stack) -> None:
    """Import who exists and ask for the incidents; the workers open them as soon as they run."""
    engine = make_engine(with_driver(stack.environment["DATABASE_URL"]), application="tocsin-demo", pool_size=1)
    with engine.begin() as connection:
        import_directory(connection, read_document(DIRECTORY.read_text()))
        acme = connection.execute(select(organizations.c.id).where(organizations.c.slug == "acme")).scalar_one()
        bot = connection.execute(select(tokens.c.id).where(tokens.c.hash == token_hash("dev-bot"))).scalar_one()
        accept(
            connection,
            [
                NewCommand(
                    id=new_id(),
                    type=ask.name,
                    subject=CATALOG[ask.name].subject_of(ask, acme, None),
                    lane=Lane.COMMANDS,
                    organization_id=acme,
                    token_id=bot,
                    user_id=None,
                    caller=f"service:{acme}:bot",
                    payload=ask.model_dump_json(exclude_none=True),
                )
                for ask in INCIDENTS
            ],
        )
    engine.dispose()


def greet(stack: Stack) -> list[str]:
    """Two lines to paste: Mem tells Ana, and Ana looks into her inbox."""
    acme = f"{stack.url}/api/0/organizations/acme"
    body = '{"comment": "Ana, can you look?", "mentions": ["user:12"]}'
    post = f"curl -X POST {acme}/incidents/1/comments/ -H 'Authorization: Bearer dev-mem'"
    return [
        "try it: Mem mentions Ana, then Ana looks into her inbox",
        f"  {post} -H 'Content-Type: application/json' -d '{body}'",
        f"  curl {acme}/notifications/ -H 'Authorization: Bearer dev-ana'",
    ]
