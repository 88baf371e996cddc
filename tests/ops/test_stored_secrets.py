"""Stored secrets are encrypted anew with a new `TOCSIN_SECRET`, and the doctor finds those that cannot be decrypted."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import event, select
from sqlalchemy.engine import Connection

from models.notifications.chat_destination import chat_destinations
from models.notifications.chat_url import URL_PURPOSE
from models.notifications.webhook import SECRET_PURPOSE, webhooks
from models.operations.audit import list_audit
from models.operations.stored_secrets import check_secrets, rotate_secrets
from models.secrets import SecretBox
from tests.builders import a_chat_destination, a_webhook, an_organization
from tests.conftest import Database
from tests.handlers.test_cli import Tocsin, tocsin
from tests.handlers.test_doctor import broker, check

__all__ = ["broker", "tocsin"]

OLD, NEW, LOST = "the old secret of tests", "the new secret of tests", "a secret that is lost"


def add_secrets(connection: Connection, secret: str = OLD) -> tuple[int, int]:
    """Insert a webhook that is rotating its secret, and a chat destination; return their ids."""
    organization = an_organization(connection)
    box = SecretBox((secret,), SECRET_PURPOSE)
    webhook = a_webhook(connection, organization, "*", secret=box.encrypt("current"))
    connection.exec_driver_sql(
        "UPDATE webhooks SET previous_secret = %s, previous_secret_until = now() + interval '1 hour' WHERE id = %s",
        (box.encrypt("previous"), webhook),
    )
    url = SecretBox((secret,), URL_PURPOSE).encrypt("slack://a/b/c")
    return webhook, a_chat_destination(connection, organization, url=url)


def test_secrets_are_encrypted_with_the_first_one_while_versions_stay(
    tocsin: Tocsin, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.engine.begin() as connection:
        add_secrets(connection)
        before = connection.execute(select(webhooks.c.version, webhooks.c.date_modified)).one()
    monkeypatch.setenv("TOCSIN_SECRET", f"{NEW},{OLD}")

    rotated = json.loads(tocsin("secrets", "rotate", "--json").out)
    again = tocsin("secrets", "rotate").out

    assert [(each["name"], each["readable"], each["unreadable"]) for each in rotated] == [
        ("webhooks.secret", 1, []), ("webhooks.previous_secret", 1, []), ("chat_destinations.url", 1, []),
    ]  # fmt: skip
    assert "webhooks.secret: 1 encrypted anew, 0 unreadable" in again
    with database.engine.connect() as connection:
        webhook = connection.execute(select(webhooks)).one()
        url = connection.execute(select(chat_destinations.c.url)).scalar_one()
        audited = [entry.json["action"] for entry in list_audit(connection).rows]
    assert audited == ["secrets.rotated", "secrets.rotated"]
    box = SecretBox((NEW,), SECRET_PURPOSE)
    assert (box.decrypt(webhook.secret), box.decrypt(webhook.previous_secret)) == ("current", "previous")
    assert SecretBox((NEW,), URL_PURPOSE).decrypt(url) == "slack://a/b/c"
    assert (webhook.version, webhook.date_modified) == tuple(before)


def test_a_secret_that_cannot_be_decrypted_stays_and_is_reported(
    tocsin: Tocsin, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.engine.begin() as connection:
        add_secrets(connection, LOST)
        add_secrets(connection)
        before = connection.execute(select(webhooks.c.secret).order_by(webhooks.c.id)).scalars().first()
    monkeypatch.setenv("TOCSIN_SECRET", f"{NEW},{OLD}")

    ended = tocsin("secrets", "rotate")

    assert "webhooks.secret: 1 encrypted anew, 1 unreadable" in ended.out
    assert ended.code == 1
    with database.engine.connect() as connection:
        assert connection.execute(select(webhooks.c.secret).order_by(webhooks.c.id)).scalars().first() == before


def test_a_secret_that_changes_meanwhile_is_left_alone(database: Database) -> None:
    newest = SecretBox((NEW,), SECRET_PURPOSE).encrypt("newest")
    with database.engine.begin() as connection:
        add_secrets(connection)

    def change(*arguments: object) -> None:
        """Change the secret between the query and the update, as a worker would."""
        if str(arguments[2]).startswith("UPDATE webhooks SET secret=") and not changes:
            changes.append(True)
            with database.engine.begin() as other:
                other.execute(webhooks.update().values(secret=newest))

    changes: list[bool] = []
    with database.engine.begin() as connection:
        event.listen(connection, "before_cursor_execute", change)
        counts = rotate_secrets(connection, (NEW, OLD))

    assert (counts[0].readable, counts[0].changed) == (0, 1)
    with database.engine.connect() as connection:
        assert bytes(connection.execute(select(webhooks.c.secret)).scalar_one()) == newest


def test_a_previous_secret_that_no_longer_signs_does_not_matter(database: Database) -> None:
    with database.engine.begin() as connection:
        add_secrets(connection)
        connection.exec_driver_sql("UPDATE webhooks SET previous_secret = 'x', previous_secret_until = now()")

        found = {each.name: each.unreadable for each in check_secrets(connection, (OLD,))}

    assert found["webhooks.previous_secret"] == ()


def test_without_a_secret_nothing_is_rotated(tocsin: Tocsin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOCSIN_SECRET", raising=False)

    ended = tocsin("secrets", "rotate")

    assert ended.code == 1
    assert "TOCSIN_SECRET is not set" in ended.err


@pytest.mark.parametrize(
    ("setting", "good", "says"),
    [
        (OLD, True, "all 3 stored secrets can be decrypted"),
        (f"{NEW},{OLD}", True, "TOCSIN_SECRET has 2 of at least 16 characters"),
        (NEW, False, "stored secrets cannot be decrypted (webhooks.secret of "),
        (None, False, "add the old secret to TOCSIN_SECRET after the new one"),
    ],
)
def test_the_doctor_says_whether_all_stored_secrets_can_be_decrypted(
    tocsin: Tocsin, database: Database, monkeypatch: pytest.MonkeyPatch, setting: str | None, good: bool, says: str
) -> None:
    with database.engine.begin() as connection:
        add_secrets(connection)
    if setting is None:
        monkeypatch.delenv("TOCSIN_SECRET", raising=False)
    else:
        monkeypatch.setenv("TOCSIN_SECRET", setting)

    result = check(tocsin, "secrets")

    assert result[0] is good
    assert says in result[1]


def test_the_doctor_refuses_a_short_secret(tocsin: Tocsin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_SECRET", "short")

    good, says = check(tocsin, "configuration")

    assert not good
    assert "at least 16 characters" in says
