"""The transport against a real SMTP server: what each answer means, kept connections, a server that goes and comes."""

import asyncio
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller

from schemas.errors import OperatorError
from sinks.email import EmailTransport, SmtpServer
from sinks.mime import Mail
from sinks.outcome import Outcome, ProviderDown, redact
from tidings.loop import quick_loop
from tidings.smtp_server import DROP_AFTER, DROP_BEFORE
from tidings.smtp_server import SmtpServer as Server


def mail(n: int, to: str = "") -> Mail:
    content = f"From: a@b.example\r\nMessage-ID: <{n}@b.example>\r\n\r\n.dot\r\nbody\r\n".encode()
    return Mail("a@b.example", to or f"u{n}@mail.example", f"{n}@b.example", content)


@pytest.fixture(params=[True, False], ids=["pipelining", "one by one"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(pipelining=request.param) as running:
        yield running


async def send(transport: EmailTransport, one: Mail) -> Outcome:
    async with transport.link() as link:
        return await link.send(one)


def transport_to(server: Server, size: int = 2) -> EmailTransport:
    return EmailTransport(SmtpServer.parse(server.url), size, timeout_s=2)


async def test_mails_arrive_whole_over_kept_connections(server: Server) -> None:
    transport = transport_to(server, size=3)
    outcomes = await asyncio.gather(*(send(transport, mail(n)) for n in range(50)))
    assert {one.status for one in outcomes} == {"sent"} and server.received == 50 and not server.repeated
    assert server.mails[0].content.endswith(b".dot\r\nbody\r\n")
    assert len(server.transports) <= 3
    await transport.close()


async def test_a_refusal_touches_nobody_else(server: Server) -> None:
    server.rcpt_replies = {
        "no@mail.example": "550 5.1.1 <no@mail.example> unknown",
        "grey@mail.example": "451 4.7.1 later",
    }
    transport = transport_to(server, size=1)
    sent = [await send(transport, mail(n, to)) for n, to in enumerate(("no@mail.example", "", "grey@mail.example", ""))]
    assert [(one.status, one.code) for one in sent] == [
        ("bounced", 550),
        ("sent", 250),
        ("deferred", 451),
        ("sent", 250),
    ]
    assert sent[0].reason == "recipient_refused" and sent[0].detail == "5.1.1 <(address)> unknown"
    await transport.close()


@pytest.mark.parametrize(
    ("told", "status", "reason"),
    [
        ("554 5.7.1 spam", "bounced", "content_refused"),
        ("452 4.3.1 full", "deferred", "content_refused"),
        (DROP_BEFORE, "unknown", "reply_lost"),
        (DROP_AFTER, "unknown", "reply_lost"),
    ],
)
async def test_what_each_end_of_the_content_means(server: Server, told: str, status: str, reason: str) -> None:
    transport = transport_to(server)
    server.rule = lambda recipient, ident: told
    first = await send(transport, mail(1))
    server.rule = None
    assert (first.status, first.reason) == (status, reason)
    assert (await send(transport, mail(2))).status == "sent"
    await transport.close()


async def test_a_kept_connection_that_the_server_closed_costs_nothing(server: Server) -> None:
    transport = transport_to(server)
    await send(transport, mail(1))
    server.stop()
    server.start()
    assert (await send(transport, mail(2))).status == "sent"
    await transport.close()


@pytest.mark.parametrize(
    ("silent_at", "status", "reason"),
    [
        (b"MAIL", "deferred", "connection_lost"),
        (b"DATA", "deferred", "connection_lost"),
        (b".", "unknown", "reply_lost"),
    ],
)
async def test_a_server_that_falls_silent_is_waited_for_in_bounds(silent_at: bytes, status: str, reason: str) -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := (await reader.readline()).strip():
            if line.startswith(silent_at):
                await reader.read()
                break
            writer.write(b"354 go on\r\n" if line == b"DATA" else b"250 ok\r\n")
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport = EmailTransport(SmtpServer.parse(f"smtp://127.0.0.1:{port}"), 1, timeout_s=1)
    content = b".\r\n" if silent_at == b"." else b"x\r\n"
    outcome = await send(transport, Mail("a@b.example", "u@mail.example", "1@b.example", content))
    assert (outcome.status, outcome.reason) == (status, reason)
    await ended.wait()
    await transport.close()
    server.close()


async def test_a_server_that_is_away_is_no_answer_about_a_mail(server: Server) -> None:
    transport = transport_to(server)
    server.stop()
    for _ in range(3):
        with pytest.raises(ProviderDown):
            await send(transport, mail(1))
    assert not transport.up
    server.start()
    for _ in range(100):
        try:
            outcome = await send(transport, mail(1))
            break
        except ProviderDown as down:
            await asyncio.sleep(down.wait_s)
    assert outcome.status == "sent" and transport.up
    await transport.close()


async def test_starttls_is_used_or_nothing_is_sent(server: Server) -> None:
    plain = EmailTransport(SmtpServer("127.0.0.1", server.port, "starttls"), timeout_s=2)
    with pytest.raises(ProviderDown):
        await send(plain, mail(1))
    assert server.received == 0


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, quick_loop()], ids=["asyncio", "uvloop"])
def test_tls_and_login_work_with_a_private_authority(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(tls_and_login(tmp_path))


async def tls_and_login(tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run(
        [*command, "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    logins: list[object] = []

    class Handler:
        async def handle_EHLO(self, server, session, envelope, hostname, responses):  # noqa: N802
            session.host_name = hostname
            return [*responses[:-1], "250-PIPELINING", responses[-1]]

        async def handle_DATA(self, server, session, envelope):  # noqa: N802
            return "250 OK"

    def authenticate(server, session, envelope, mechanism, data):
        from aiosmtpd.smtp import AuthResult

        logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"right")

    controller = Controller(
        Handler(),
        hostname="127.0.0.1",
        port=0,
        tls_context=context,
        require_starttls=True,
        auth_required=True,
        authenticator=authenticate,
    )
    import socket

    with socket.socket() as free:  # Controller does not tell which port the system chose
        free.bind(("127.0.0.1", 0))
        controller.port = free.getsockname()[1]
    controller.start()
    try:
        trust = ssl.create_default_context(cafile=str(cert))
        good = SmtpServer.parse(f"smtp+starttls://me:right@localhost:{controller.port}")
        transport = EmailTransport(good, timeout_s=3, tls_context=trust)
        assert (await send(transport, mail(1))).status == "sent"
        await transport.close()
        assert logins[0] == (b"me", b"right")
        wrong = SmtpServer.parse(f"smtp+starttls://localhost:{controller.port}", "me", "wrong")
        with pytest.raises(ProviderDown):
            await send(EmailTransport(wrong, timeout_s=3, tls_context=trust), mail(1))
        with pytest.raises(ProviderDown):  # the system does not know this authority
            await send(EmailTransport(good, timeout_s=3), mail(1))
    finally:
        controller.stop()


def test_urls_say_how_to_connect_and_hide_the_password() -> None:
    server = SmtpServer.parse("smtps://us%40er:pa%3Ass@mail.example")
    assert (server.host, server.port, server.tls, server.username, server.password) == (
        "mail.example",
        465,
        "tls",
        "us@er",
        "pa:ss",
    )
    assert "pa:ss" not in repr(server)


@pytest.mark.parametrize("url", ["http://x", "smtp://", "", "smtp://u:p@mail.example", "smtp://h:notaport"])
def test_urls_that_are_none_or_send_a_password_in_the_clear_are_refused(url: str) -> None:
    with pytest.raises(OperatorError) as caught:
        SmtpServer.parse(url)
    assert ":p@" not in str(caught.value)


def test_replies_lose_their_addresses() -> None:
    assert (
        redact("550 <ivan.petrov@mail.example>: no such user;\r\n ivan@x") == "550 <(address)>: no such user; (address)"
    )
