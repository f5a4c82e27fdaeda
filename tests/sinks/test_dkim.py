"""Signatures that a verifier of others (dkimpy) accepts, over SMTP too; what a changed mail comes to."""

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from schemas.errors import OperatorError
from sinks.dkim import DkimSigner
from sinks.email import EmailTransport, SmtpServer
from sinks.mime import Mail, Sender, build
from sinks.templates import Rendered
from tests.sinks.test_mime import COMMAND, RENDERED, URL
from tidings.smtp_server import SmtpServer as Server

KEY = rsa.generate_private_key(65_537, 2_048)
SENDER = Sender.parse("Магазин у дома <news@shop.example>")


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


SIGNER = DkimSigner("shop.example", "s2026", pem(KEY))


def dns(name: bytes, timeout: int = 5) -> bytes:
    """Answer as the domain's DNS would."""
    assert name == b"s2026._domainkey.shop.example."
    public = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)


def verifies(content: bytes) -> bool:
    return bool(dkim.verify(content, dnsfunc=dns))


def signed(rendered: Rendered = RENDERED) -> bytes:
    return SIGNER.sign(build(COMMAND, rendered, SENDER, URL).content, 1_700_000_000)


@pytest.mark.parametrize(
    "rendered",
    [
        RENDERED,
        Rendered(("short", "one line", None)),
        Rendered(("", "\n\n  spaces \t at the end  \n.\n..\n\n\n\n", "<p>" + "х " * 3_000 + "</p>\n\n\n")),
        Rendered(("Д" * 190, "\tтекст" * 200, "")),
    ],
)
def test_another_implementation_verifies_what_we_sign(rendered: Rendered) -> None:
    assert verifies(signed(rendered))


@pytest.mark.parametrize(
    "change",
    [
        lambda mail: mail.replace(b"Feedback-ID: cart", b"Feedback-ID: tart"),
        lambda mail: mail.replace(b"List-Unsubscribe-Post: List", b"List-Unsubscribe-Post: Lost"),
        lambda mail: mail.replace(b"List-Unsubscribe: <https://shop", b"List-Unsubscribe: <https://shot"),
        lambda mail: mail.replace(b"\r\n=2E\r\n", b"\r\n,\r\n"),
        lambda mail: b"Subject: another\r\n" + mail,
        lambda mail: b"From: other@evil.example\r\n" + mail,
        lambda mail: mail.replace(b"\r\n\r\n", b"\r\nReply-To: other@evil.example\r\n\r\n", 1),
    ],
)
def test_a_mail_changed_on_its_way_does_not_verify(change: Callable[[bytes], bytes]) -> None:
    mail = signed()
    assert change(mail) != mail
    assert not verifies(change(mail))


def test_servers_on_the_way_may_rewrap_headers_and_cut_trailing_spaces() -> None:
    mail = signed(Rendered(("hello", "text \nmore", None)))
    rewrapped = mail.replace(b"Subject: hello", b"SUBJECT:\r\n   hello ")
    assert rewrapped != mail
    assert verifies(b"Received: from somewhere\r\n" + rewrapped + b"\r\n\r\n")


def test_the_same_mail_signed_again_is_the_same_bytes() -> None:
    assert signed() == signed()


def test_no_line_of_the_signature_is_longer_than_mail_allows() -> None:
    header = signed().partition(b"\r\nFrom:")[0]
    assert max(len(line) for line in header.split(b"\r\n")) <= 100
    assert header.startswith(b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=shop.example; s=s2026;")


async def test_what_a_real_server_receives_verifies() -> None:
    mail = build(COMMAND, RENDERED, SENDER, URL)
    with Server() as server:
        transport = EmailTransport(SmtpServer.parse(server.url), 1, timeout_s=5)
        async with transport.link() as link:
            content = SIGNER.sign(mail.content, 1_700_000_000)
            outcome = await link.send(Mail(mail.sender, mail.recipient, mail.message_id, content))
        await transport.close()
        assert outcome.status == "sent"
        (received,) = server.mails
    assert await asyncio.to_thread(verifies, received.content)


def test_the_key_is_read_from_its_file_and_the_domain_is_the_senders(tmp_path: Path) -> None:
    file = tmp_path / "dkim.pem"
    file.write_bytes(pem(KEY))
    assert DkimSigner.read(file, "s2026", "", "shop.example").domain == "shop.example"
    assert DkimSigner.read(file, "s2026", "Shop.Example", "news.shop.example").domain == "shop.example"
    for domain in ("other.example", "op.example", "news.shop.example"):
        with pytest.raises(OperatorError, match="TIDINGS_DKIM_DOMAIN: must be the sender's domain"):
            DkimSigner.read(file, "s2026", domain, "shop.example")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no private key in PEM"),
        (b"-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n", "no private key in PEM"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "another kind of key"),
    ],
)
def test_what_is_no_key_is_refused_at_the_start_and_not_quoted(content: bytes, told: str, tmp_path: Path) -> None:
    file = tmp_path / "dkim.pem"
    file.write_bytes(content)
    with pytest.raises(OperatorError, match=told) as refused:
        DkimSigner.read(file, "s2026", "", "shop.example")
    assert "MIIE" not in str(refused.value)
    with pytest.raises(OperatorError, match="TIDINGS_DKIM_KEY: not readable"):
        DkimSigner.read(tmp_path / "none.pem", "s2026", "", "shop.example")
    with pytest.raises(OperatorError, match="TIDINGS_DKIM_SELECTOR: no name in DNS"):
        DkimSigner("shop.example", "s 1", pem(KEY))
