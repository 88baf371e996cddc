"""Sending over SMTP: connections, TLS, logins, refusals, and servers that hang."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.delivery.email.servers import HANG_UP, SILENCE, Catcher, Certificates, ScriptedServer
from workers.deliver.channel import AttemptResult, Verdict
from workers.deliver.channels.email.smtp import MAX_CONNECTIONS, SmtpPool
from workers.settings import SmtpServer

SENDER = "tocsin@example.test"
MESSAGE = b"Subject: Hello\r\n\r\n.A line\r\nThe last line\r\n"


def test_a_server_receives_exactly_the_given_bytes_for_one_recipient() -> None:
    catcher = Catcher()

    async def scenario() -> AttemptResult:
        async with catcher.running() as server, opened(server) as pool:
            return await pool.send(SENDER, "ana@example.test", MESSAGE)

    result = asyncio.run(scenario())

    assert result == AttemptResult(Verdict.DELIVERED, status=250)
    [mail] = catcher.mails
    assert (mail.sender, mail.recipients, mail.message) == (SENDER, ["ana@example.test"], MESSAGE)


def test_a_server_without_8bitmime_receives_the_same_bytes() -> None:
    script = ScriptedServer({"EHLO": "250 mail.example.test"})

    send_one(script)

    # A line that begins with a dot has two on the way.
    assert script.contents == [MESSAGE.replace(b"\r\n.", b"\r\n..") + b".\r\n"]


def test_a_server_that_knows_only_helo_receives_the_mail() -> None:
    script = ScriptedServer({"EHLO": "500 What?", "HELO": "250 mail.example.test"})

    assert send_one(script).verdict is Verdict.DELIVERED


def test_several_mails_share_a_connection() -> None:
    script = ScriptedServer()

    async def scenario() -> None:
        async with script.running() as server, opened(server) as pool:
            for name in ("ana", "ben", "cem"):
                await pool.send(SENDER, f"{name}@example.test", MESSAGE)

    asyncio.run(scenario())

    assert script.connections == 1
    assert [each for each in script.commands if each.startswith("RCPT")] == [
        "RCPT TO:<ana@example.test>",
        "RCPT TO:<ben@example.test>",
        "RCPT TO:<cem@example.test>",
    ]
    assert script.commands[-1] == "QUIT"


def test_a_pool_opens_a_limited_number_of_connections() -> None:
    script = ScriptedServer()

    async def scenario() -> list[AttemptResult]:
        async with script.running() as server, opened(server) as pool:
            sending = [pool.send(SENDER, f"user-{n}@example.test", MESSAGE) for n in range(3 * MAX_CONNECTIONS)]
            return await asyncio.gather(*sending)

    results = asyncio.run(scenario())

    assert {each.verdict for each in results} == {Verdict.DELIVERED}
    assert script.connections <= MAX_CONNECTIONS


PASSING_FAULT = (Verdict.PASSING, True)
PASSING = (Verdict.PASSING, False)
PERMANENT = (Verdict.PERMANENT, False)

REFUSALS = {
    "GREETING": dict.fromkeys((421, 451, 452, 550, 552, 554), PASSING_FAULT),
    "MAIL": dict.fromkeys((421, 451, 452, 530, 550, 554), PASSING_FAULT) | {552: PERMANENT},
    "RCPT": {421: PASSING_FAULT, 450: PASSING, 451: PASSING, 452: PASSING, 530: PASSING_FAULT}
    | dict.fromkeys((550, 551, 552, 553, 554), PERMANENT),
    "DATA": {421: PASSING_FAULT, 451: PASSING, 452: PASSING} | dict.fromkeys((550, 552, 554), PERMANENT),
    "CONTENT": {421: PASSING_FAULT, 451: PASSING, 452: PASSING} | dict.fromkeys((550, 552, 554), PERMANENT),
}
TABLE = [(verb, code, *meaning) for verb, codes in REFUSALS.items() for code, meaning in codes.items()]


@pytest.mark.parametrize(("verb", "code", "verdict", "is_target_fault"), TABLE)
def test_a_refusal_means_what_its_code_and_its_command_say(
    verb: str, code: int, verdict: Verdict, is_target_fault: bool
) -> None:
    result = send_one(ScriptedServer({verb: f"{code} 1.2.3 Because"}))

    assert (result.verdict, result.is_target_fault, result.status) == (verdict, is_target_fault, code)
    assert f"{code} 1.2.3 Because" in (result.error or "")


def test_a_refused_recipient_does_not_affect_the_next_mail() -> None:
    script = ScriptedServer({"RCPT": "550 No such user"})

    async def scenario() -> tuple[AttemptResult, AttemptResult]:
        async with script.running() as server, opened(server) as pool:
            refused = await pool.send(SENDER, "nobody@example.test", MESSAGE)
            del script.replies["RCPT"]
            return refused, await pool.send(SENDER, "ana@example.test", MESSAGE)

    refused, next_one = asyncio.run(scenario())

    assert (refused.verdict, next_one.verdict) == (Verdict.PERMANENT, Verdict.DELIVERED)
    assert (script.connections, script.commands.count("RSET")) == (1, 1)


@pytest.mark.parametrize("verb", ["GREETING", "EHLO", "MAIL", "RCPT", "DATA", "CONTENT"])
@pytest.mark.parametrize("reply", [SILENCE, HANG_UP])
def test_a_server_that_hangs_or_hangs_up_is_a_passing_fault_of_the_server(verb: str, reply: str) -> None:
    result = send_one(ScriptedServer({verb: reply}), answer_seconds=0.2)

    assert (result.verdict, result.status, result.is_target_fault) == (Verdict.PASSING, None, True)


def test_a_server_that_is_not_there_is_a_passing_fault() -> None:
    async def scenario() -> AttemptResult:
        async with ScriptedServer().running() as server:
            pass
        async with opened(server) as pool:
            return await pool.send(SENDER, "ana@example.test", MESSAGE)

    result = asyncio.run(scenario())

    assert (result.verdict, result.is_target_fault) == (Verdict.PASSING, True)


def test_a_hanging_connection_does_not_delay_the_mails_on_other_connections() -> None:
    script = ScriptedServer(first={"CONTENT": SILENCE})

    async def scenario() -> AttemptResult:
        async with script.running() as server, opened(server) as pool:
            hanging = asyncio.create_task(pool.send(SENDER, "ana@example.test", MESSAGE))
            await until(lambda: script.contents)
            result = await pool.send(SENDER, "ben@example.test", MESSAGE)
            assert not hanging.done()
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)
            return result

    assert asyncio.run(scenario()).verdict is Verdict.DELIVERED


def test_after_a_cancelled_mail_its_connection_is_closed_and_the_next_mail_uses_another() -> None:
    script = ScriptedServer(first={"CONTENT": SILENCE})

    async def scenario() -> AttemptResult:
        async with script.running() as server, opened(server) as pool:
            cancelled = asyncio.create_task(pool.send(SENDER, "ana@example.test", MESSAGE))
            await until(lambda: script.contents)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            await until(lambda: script.open == 0)
            return await pool.send(SENDER, "ben@example.test", MESSAGE)

    assert asyncio.run(scenario()).verdict is Verdict.DELIVERED
    assert script.connections == 2


def test_a_server_that_never_answers_quit_has_received_the_mail_and_holds_up_nothing() -> None:
    script = ScriptedServer({"QUIT": SILENCE})

    async def scenario() -> AttemptResult:
        async with script.running() as server, opened(server) as pool:
            result = await pool.send(SENDER, "ana@example.test", MESSAGE)
            assert "QUIT" not in script.commands
            return result

    assert asyncio.run(scenario()).verdict is Verdict.DELIVERED
    assert script.commands[-1] == "QUIT"


@pytest.mark.parametrize("reply", [HANG_UP, "421 Idle for too long"])
def test_a_mail_is_sent_again_at_once_if_the_server_had_closed_the_pooled_connection(reply: str) -> None:
    script = ScriptedServer()

    async def scenario() -> AttemptResult:
        async with script.running() as server, opened(server) as pool:
            await pool.send(SENDER, "ana@example.test", MESSAGE)
            script.first["MAIL"] = reply
            return await pool.send(SENDER, "ben@example.test", MESSAGE)

    result = asyncio.run(scenario())

    assert result.verdict is Verdict.DELIVERED
    assert script.connections == 2
    assert len(script.contents) == 2


def test_a_mail_that_a_pooled_connection_may_have_transferred_is_not_sent_again_at_once() -> None:
    script = ScriptedServer()

    async def scenario() -> AttemptResult:
        async with script.running() as server, opened(server) as pool:
            await pool.send(SENDER, "ana@example.test", MESSAGE)
            script.replies["CONTENT"] = HANG_UP
            return await pool.send(SENDER, "ben@example.test", MESSAGE)

    result = asyncio.run(scenario())

    assert (result.verdict, script.connections, len(script.contents)) == (Verdict.PASSING, 1, 2)


# --- TLS and login ---------------------------------------------------------------------------------------------------


def test_starttls_is_used_if_the_server_offers_it() -> None:
    catcher, certificates = Catcher(), Certificates()

    async def scenario() -> AttemptResult:
        async with (
            catcher.running(tls_context=certificates.server(), require_starttls=True) as server,
            opened(server, tls=certificates.client()) as pool,
        ):
            return await pool.send(SENDER, "ana@example.test", MESSAGE)

    assert asyncio.run(scenario()).verdict is Verdict.DELIVERED
    assert len(catcher.mails) == 1


def test_a_login_is_sent_over_starttls() -> None:
    catcher, certificates = Catcher(), Certificates()

    async def scenario() -> AttemptResult:
        async with catcher.running(
            tls_context=certificates.server(), auth_required=True, authenticator=catcher.authenticate
        ) as server:
            server = server._replace(user="tocsin", password="s3cret")
            async with opened(server, tls=certificates.client()) as pool:
                return await pool.send(SENDER, "ana@example.test", MESSAGE)

    assert asyncio.run(scenario()).verdict is Verdict.DELIVERED
    assert catcher.logins == [("tocsin", "s3cret")]


def test_a_refused_login_is_a_passing_fault_that_does_not_name_the_password() -> None:
    catcher, certificates = Catcher(), Certificates()

    async def scenario() -> AttemptResult:
        async with catcher.running(
            tls_context=certificates.server(), auth_required=True, authenticator=catcher.authenticate
        ) as server:
            server = server._replace(user="tocsin", password="wr0ng")
            async with opened(server, tls=certificates.client()) as pool:
                return await pool.send(SENDER, "ana@example.test", MESSAGE)

    result = asyncio.run(scenario())

    assert (result.verdict, result.status, result.is_target_fault) == (Verdict.PASSING, 535, True)
    assert "wr0ng" not in (result.error or "")


def test_tls_from_the_beginning_is_used_for_smtps() -> None:
    catcher, certificates = Catcher(), Certificates()

    async def scenario() -> AttemptResult:
        async with (
            catcher.running(tls=certificates.server()) as server,
            opened(server, tls=certificates.client()) as pool,
        ):
            return await pool.send(SENDER, "ana@example.test", MESSAGE)

    assert asyncio.run(scenario()).verdict is Verdict.DELIVERED


@pytest.mark.parametrize("is_smtps", [True, False])
def test_a_certificate_of_an_unknown_authority_is_a_passing_fault_and_nothing_is_sent(is_smtps: bool) -> None:
    catcher, own, other = Catcher(), Certificates(), Certificates()
    options: dict[str, Any] = {"tls": own.server()} if is_smtps else {"tls_context": own.server()}

    async def scenario() -> AttemptResult:
        async with catcher.running(**options) as server, opened(server, tls=other.client()) as pool:
            return await pool.send(SENDER, "ana@example.test", MESSAGE)

    result = asyncio.run(scenario())

    assert (result.verdict, result.is_target_fault) == (Verdict.PASSING, True)
    assert "certificate" in (result.error or "").lower()
    assert catcher.mails == []


def test_a_certificate_for_another_name_is_a_passing_fault() -> None:
    catcher, certificates = Catcher(), Certificates()

    async def scenario() -> AttemptResult:
        async with (
            catcher.running(tls=certificates.server("mail.example.test")) as server,
            opened(server, tls=certificates.client()) as pool,
        ):
            return await pool.send(SENDER, "ana@example.test", MESSAGE)

    assert (asyncio.run(scenario()).verdict, catcher.mails) == (Verdict.PASSING, [])


def test_a_login_is_never_sent_without_tls_to_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ScriptedServer({"EHLO": "250-mail.example.test\n250 AUTH PLAIN LOGIN", "AUTH": "235 Welcome"})
    # The server is on loopback; the pool is told otherwise.
    monkeypatch.setattr(SmtpServer, "is_loopback", False)

    async def scenario() -> AttemptResult:
        async with (
            script.running() as server,
            opened(server._replace(user="tocsin", password="s3cret")) as pool,
        ):
            return await pool.send(SENDER, "ana@example.test", MESSAGE)

    result = asyncio.run(scenario())

    assert (result.verdict, result.is_target_fault) == (Verdict.PASSING, True)
    assert "STARTTLS" in (result.error or "")
    assert not any(each.startswith("AUTH") for each in script.commands)


# --- addresses -------------------------------------------------------------------------------------------------------


def test_an_address_beyond_ascii_is_sent_to_a_server_with_smtputf8() -> None:
    catcher = Catcher()

    async def scenario() -> AttemptResult:
        async with catcher.running() as server, opened(server) as pool:
            return await pool.send(SENDER, "jörg@example.test", MESSAGE, utf8=True)

    assert asyncio.run(scenario()).verdict is Verdict.DELIVERED
    assert catcher.mails[0].recipients == ["jörg@example.test"]
    assert "SMTPUTF8" in catcher.mails[0].options


def test_an_address_beyond_ascii_is_a_permanent_failure_at_a_server_without_smtputf8() -> None:
    script = ScriptedServer()

    async def scenario() -> tuple[AttemptResult, AttemptResult]:
        async with script.running() as server, opened(server) as pool:
            refused = await pool.send(SENDER, "jörg@example.test", MESSAGE, utf8=True)
            return refused, await pool.send(SENDER, "ana@example.test", MESSAGE)

    refused, next_one = asyncio.run(scenario())

    assert (refused.verdict, next_one.verdict) == (Verdict.PERMANENT, Verdict.DELIVERED)
    assert "beyond ASCII" in (refused.error or "")


def test_the_size_is_announced_to_a_server_that_asks_for_it() -> None:
    script = ScriptedServer({"EHLO": "250-mail.example.test\n250 SIZE 1000000"})

    send_one(script)

    assert f"MAIL FROM:<{SENDER}> SIZE={len(MESSAGE)}" in script.commands


# --- helpers ---------------------------------------------------------------------------------------------------------


class opened:  # noqa: N801 - used as a context manager
    """A pool for the block."""

    def __init__(self, server: SmtpServer, **options: Any) -> None:
        self._pool = SmtpPool(server, **{"answer_seconds": 30.0} | options)

    async def __aenter__(self) -> SmtpPool:
        return self._pool

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()


def send_one(script: ScriptedServer, *, answer_seconds: float = 30) -> AttemptResult:
    async def scenario() -> AttemptResult:
        async with script.running() as server, opened(server, answer_seconds=answer_seconds) as pool:
            return await pool.send(SENDER, "ana@example.test", MESSAGE)

    return asyncio.run(scenario())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the server under test has no events
            await asyncio.sleep(0.005)
