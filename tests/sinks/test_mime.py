"""The bytes of a mail: headers that no value can break, the same bytes for the same command."""

import email
import email.policy
from email.message import EmailMessage
from typing import Any

import msgspec
import pytest

from schemas.commands import SendMessage
from schemas.errors import OperatorError
from sinks.mime import AddressError, Sender, build, checked_address, message_id
from sinks.templates import Rendered

COMMAND = SendMessage(
    command_id="c" * 32,
    member_id="m1",
    campaign="cart",
    version="v1",
    instance_id="i1",
    step="send",
    channel="email",
    template="x",
    address="ivan@mail.example",
    decided_at_ms=1_700_000_000_000,
    caused_at_ms=1,
    expires_at_ms=2,
    anchor="e1",
)
RENDERED = Rendered(("Ваш товар ждёт вас, загляните", "Привет\n.\nFrom here\n", "<p>Привет</p>"))
SENDER = Sender.parse("Магазин у дома <news@shop.example>")
URL = "https://shop.example/unsubscribe/" + "t" * 180


def made(command: SendMessage = COMMAND, rendered: Rendered = RENDERED, **kwargs: Any) -> EmailMessage:
    parsed = email.message_from_bytes(
        build(command, rendered, SENDER, URL, **kwargs).content, policy=email.policy.default
    )
    assert isinstance(parsed, EmailMessage)
    return parsed


def test_a_mail_reads_back_as_it_was_meant() -> None:
    mail = made()
    assert mail["Subject"] == RENDERED.subject
    assert (
        mail["From"].addresses[0].display_name == "Магазин у дома"
        and mail["From"].addresses[0].addr_spec == "news@shop.example"
    )
    assert mail["To"] == "ivan@mail.example"
    assert mail["Message-ID"] == f"<{'c' * 32}@shop.example>" and mail["X-Tidings-Command-Id"] == "c" * 32
    assert mail["Date"].datetime.timestamp() == 1_700_000_000
    assert mail["Feedback-ID"] == "cart:marketing:email:tidings" and mail["Auto-Submitted"] == "auto-generated"
    assert [part.get_content_type() for part in mail.walk()] == ["multipart/alternative", "text/plain", "text/html"]
    parts = {part.get_content_type(): part.get_content().replace("\r\n", "\n") for part in mail.iter_parts()}
    assert parts == {"text/plain": RENDERED.text, "text/html": "<p>Привет</p>\n"}
    assert not mail.defects


def test_one_click_headers_are_plain_text_and_for_marketing_only() -> None:
    raw = build(COMMAND, RENDERED, SENDER, URL, "leave@shop.example").content
    assert f"List-Unsubscribe: <{URL}>,\r\n <mailto:leave@shop.example?subject=".encode() in raw
    assert b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in raw
    transactional = msgspec.structs.replace(COMMAND, category="transactional")
    assert b"List-Unsubscribe" not in build(transactional, RENDERED, SENDER, URL).content


def test_the_same_command_gives_the_same_bytes() -> None:
    assert build(COMMAND, RENDERED, SENDER, URL) == build(COMMAND, RENDERED, SENDER, URL)


def test_the_wire_form_is_ascii_with_crlf_and_short_lines() -> None:
    raw = build(COMMAND, Rendered((RENDERED.subject, "x" * 5_000, "<b>" + "ы" * 5_000)), SENDER, URL).content
    assert raw.isascii() and b"\n" not in raw.replace(b"\r\n", b"")
    assert max(map(len, raw.split(b"\r\n"))) < 998


def test_every_line_ends_in_crlf_whatever_ends_the_lines_of_a_text() -> None:
    text = "a\nb\rc\r\nd\n\n" + "word " * 40 + "\ttail \n.\n"
    content = build(COMMAND, Rendered(("s", text, f"<p>{text}</p>")), SENDER, URL).content
    assert content.count(b"\n") == content.count(b"\r") == content.count(b"\r\n")
    parts = [part.get_content() for part in made(rendered=Rendered(("s", text, f"<p>{text}</p>"))).iter_parts()]
    assert [part.splitlines() for part in parts] == [text.splitlines(), f"<p>{text}</p>".splitlines()]


@pytest.mark.parametrize(
    "address",
    [
        "a@b.example\r\nBcc: x@y.example",
        "a@b.example>, <x@y.example",
        "a b@c.example",
        "a@b.example\n",
        "<a@b.example>",
        "a@@b",
        "",
        "a",
        "@b",
        "a@",
        '"a b"@c.example',
        "a@b..c",
        "a@-b.example",
        "ы@b.example",
        "a@b.example RCPT",
        "a" * 65 + "@b.example",
        "a@" + "b" * 64 + ".example",
        ".a@b.example",
        "a..b@c.example",
        "a@b,c@d",
        "a@b.example\x00",
    ],
)
def test_what_is_no_address_gets_no_mail(address: str) -> None:
    with pytest.raises(AddressError) as caught:
        build(msgspec.structs.replace(COMMAND, address=address), RENDERED, SENDER, URL)
    assert not address or address not in str(caught.value) or len(address) < 2


def test_a_domain_of_letters_goes_out_in_idna() -> None:
    assert checked_address("a@почта.рф") == "a@xn--80a1acny.xn--p1ai"


@pytest.mark.parametrize("value", ["x\r\nBcc: y@z.example", "x\ny", "x\x00"])
def test_no_value_can_start_another_header(value: str) -> None:
    for command in (
        msgspec.structs.replace(COMMAND, campaign=value),
        msgspec.structs.replace(COMMAND, command_id=value),
        msgspec.structs.replace(COMMAND, category=value),
    ):
        assert "Bcc" not in made(command) or pytest.fail("a header was injected")
    with pytest.raises(ValueError, match="Subject"):
        made(rendered=Rendered((value, "t", None)))
    with pytest.raises(ValueError, match="unsubscribe_url"):
        build(COMMAND, RENDERED, SENDER, "https://shop.example/" + value)


def test_a_subject_that_looks_encoded_stays_as_it_is() -> None:
    text = "=?utf-8?b?0J/RgNC40LLQtdGC?= there"
    assert made(rendered=Rendered((text, "t", None)))["Subject"] == text


def test_a_long_subject_is_folded_and_reads_back() -> None:
    text = "word " * 39 + "end"
    assert made(rendered=Rendered((text, "t", None)))["Subject"] == text


def test_a_command_id_that_is_no_word_is_hashed() -> None:
    assert message_id("a b", "shop.example").partition("@")[0] not in ("a b", "")
    assert message_id("c" * 32, "d") == "c" * 32 + "@d"


@pytest.mark.parametrize("text", ["", "Shop", "Shop <a@b>\r\nBcc: x@y", "Shop <a b@c>", "Shop <>"])
def test_a_sender_that_is_none_is_refused_at_start(text: str) -> None:
    with pytest.raises(OperatorError):
        Sender.parse(text)
