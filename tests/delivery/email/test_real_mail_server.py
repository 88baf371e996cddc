"""Mails that went through Postfix, as other programs read them."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import Iterator
from uuid import UUID

import pytest
import trustme

from models.notifications.mailbox import Mailbox, make_mailbox
from tests.delivery.email.mails import ANA, MAIL_ID, SENDER, a_mail, an_update, incident_updates, raw_field
from tests.delivery.email.postfix import Postfix, running_postfix
from tests.delivery.email.readers import Notmuch, dkim_verifies, read_with_perl
from tests.delivery.email.test_dkim import a_key, dns_record, signer
from tests.delivery.node_packages import NodePackages
from workers.deliver.channel import AttemptResult, Verdict
from workers.deliver.channels.email.message import IncidentUpdates, Mail, render
from workers.deliver.channels.email.smtp import SmtpPool

pytestmark = [pytest.mark.xdist_group("postfix"), pytest.mark.slow]

LONG_URL = "https://alerts.example.test/unsubscribe/" + "0123456789abcdef" * 40 + "/"
AUTHORITY = trustme.CA()


@pytest.fixture(scope="module")
def server() -> Iterator[Postfix]:
    certificate = AUTHORITY.issue_cert("127.0.0.1")
    chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
    with running_postfix(certificate.private_key_pem.bytes() + chain) as postfix:
        yield postfix


@pytest.fixture
def postfix(server: Postfix) -> Postfix:
    """Postfix, with empty folders."""
    for folder in server.directory.glob("mail/*/new"):
        shutil.rmtree(folder.parent)
    return server


def test_mails_arrive_as_they_were_rendered_and_are_read_alike_by_three_programs(
    postfix: Postfix, node: NodePackages
) -> None:
    comment = "Süd **voll**\n.\nFrom here\n\n    code\n\ndeploy.sh " + "ü" * 1500
    incident = incident_updates(an_update(comment), title="Überlauf =?utf-8?q?hi?=", unsubscribe_url=LONG_URL)
    message = render(a_mail(incident))

    results = send(postfix, message)

    assert [each.verdict for each in results] == [Verdict.DELIVERED]
    [received] = postfix.wait_for_mails("ana", 1)
    # Postfix adds fields at the top, and stores lines with the line ends of this system.
    assert received.endswith(message.replace(b"\r\n", b"\n"))
    by_perl = read_with_perl(received)
    assert by_perl["headers"]["subject"] == "Activity on Alert Überlauf =?utf-8?q?hi?= (#7)"
    assert by_perl["headers"]["list-unsubscribe"] == f"<{LONG_URL}>"
    assert comment in by_perl["parts"]["text/plain"].replace("\r\n", "\n")
    by_node = node.read_mail(received)
    assert by_node["subject"] == "Activity on Alert Überlauf =?utf-8?q?hi?= (#7)"
    assert by_node["list"]["unsubscribe"]["url"] == LONG_URL
    assert comment in by_node["text"].replace("\r\n", "\n")
    assert "<strong>voll</strong>" in by_node["html"]
    [[mail]] = Notmuch(postfix.maildir("ana")).threads()
    assert mail["headers"]["Subject"] == "Activity on Alert Überlauf =?utf-8?q?hi?= (#7)"
    assert mail["headers"]["From"] == "tocsin@example.test"
    text, html = mail["body"][0]["content"]
    assert comment in text["content"]
    assert "<strong>voll</strong>" in html["content"]


def test_mails_about_one_incident_are_one_thread(postfix: Postfix) -> None:
    other = incident_updates(identifier=8)
    mails = [(incident_updates(), 1), (other, 2), (incident_updates(an_update("Second")), 3)]

    send(postfix, *(render(numbered(incident, number)) for incident, number in mails))

    postfix.wait_for_mails("ana", 3)
    threads = Notmuch(postfix.maildir("ana")).threads()
    assert sorted(sorted(mail["id"] for mail in thread) for thread in threads) == [
        [f"{mail_id(1)}@example.test", f"{mail_id(3)}@example.test"],
        [f"{mail_id(2)}@example.test"],
    ]


def test_a_signature_survives_the_way(postfix: Postfix) -> None:
    key = a_key("rsa")
    message = signer(key).sign(render(a_mail(incident_updates(unsubscribe_url=LONG_URL))), a_mail().date)

    send(postfix, message)

    [received] = postfix.wait_for_mails("ana", 1)
    assert dkim_verifies(received, dns_record(key))


def test_the_refusal_of_a_recipient_is_permanent_and_the_next_mail_arrives(postfix: Postfix) -> None:
    nobody = make_mailbox("", "nobody@example.test")

    async def scenario() -> list[AttemptResult]:
        pool = open_pool(postfix)
        results = [await pool.send(SENDER.address, each.address, render(a_mail())) for each in (nobody, ANA)]
        await pool.close()
        return results

    refused, accepted = asyncio.run(scenario())

    assert (refused.verdict, refused.status, refused.is_target_fault) == (Verdict.PERMANENT, 550, False)
    assert "nobody@example.test" in (refused.error or "")
    assert accepted.verdict is Verdict.DELIVERED
    postfix.wait_for_mails("ana", 1)


def test_a_mail_that_is_too_large_is_refused_for_good(postfix: Postfix) -> None:
    message = render(a_mail(incident_updates(an_update("x" * 150_000))))

    [result] = send(postfix, message)

    assert (result.verdict, result.status) == (Verdict.PERMANENT, 552)


def test_an_international_domain_is_reached(postfix: Postfix) -> None:
    recipient = make_mailbox("Jörg", "j@bücher.example")

    [result] = send(postfix, render(a_mail(recipient=recipient)), to=recipient)

    assert result.verdict is Verdict.DELIVERED
    [received] = postfix.wait_for_mails("ana", 1)
    assert raw_field(received.replace(b"\n", b"\r\n"), "To").endswith("<j@xn--bcher-kva.example>")


# --- helpers ---------------------------------------------------------------------------------------------------------


def open_pool(postfix: Postfix) -> SmtpPool:
    tls = ssl.create_default_context()
    AUTHORITY.configure_trust(tls)
    return SmtpPool(postfix.server, tls=tls)


def send(postfix: Postfix, *messages: bytes, to: Mailbox = ANA) -> list[AttemptResult]:
    async def scenario() -> list[AttemptResult]:
        pool = open_pool(postfix)
        results = [await pool.send(SENDER.address, to.address, message) for message in messages]
        await pool.close()
        return results

    return asyncio.run(scenario())


def mail_id(number: int) -> UUID:
    return UUID(int=MAIL_ID.int + number)


def numbered(incident: IncidentUpdates, number: int) -> Mail:
    return a_mail(incident, id=mail_id(number))
