"""Bounces and complaints as mail servers write them, and as somebody who means harm does."""

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.references import read_reference, reference_of
from schemas.tokens import TokenError
from sinks.mime import Sender, build
from sinks.reports import HEADER, MAX_BYTES, Report, bounce_kind, read_report, reference_header, told
from tests.sinks.test_mime import COMMAND, RENDERED, URL

SECRET = b"s" * 32
MAIL = build(
    COMMAND, RENDERED, Sender.parse("Shop <news@shop.example>"), URL, None, {HEADER: reference_header(SECRET, COMMAND)}
).content
HEADERS = MAIL.partition(b"\r\n\r\n")[0] + b"\r\n"
FAILED = b"""Final-Recipient: rfc822; ivan@mail.example\r
Original-Recipient: rfc822;ivan@mail.example\r
Action: failed\r
Status: 5.1.1\r
Remote-MTA: dns; mx.mail.example\r
Diagnostic-Code: smtp; 550 5.1.1 <ivan@mail.example>: Recipient address\r
    rejected: User unknown, call +49 151 12345678\r
"""


def dsn(recipients: bytes = FAILED, returned: bytes = MAIL, kind: bytes = b"message/rfc822") -> bytes:
    """Write a bounce in the way of RFC 3464, as Postfix and Exchange do."""
    return b"\r\n".join(
        [
            b"From: MAILER-DAEMON@mx.shop.example (Mail Delivery System)",
            b"Subject: Undelivered Mail Returned to Sender",
            b"To: news@shop.example",
            b"Date: Wed, 15 Nov 2023 08:00:00 +0100",
            b"Auto-Submitted: auto-replied",
            b"MIME-Version: 1.0",
            b"Content-Type: multipart/report; report-type=delivery-status;",
            b'\tboundary="4F1/mx.shop.example"',
            b"",
            b"This is a MIME-encapsulated message.",
            b"",
            b"--4F1/mx.shop.example",
            b"Content-Type: text/plain; charset=us-ascii",
            b"",
            b"I'm sorry to have to inform you",
            b"",
            b"--4F1/mx.shop.example",
            b"Content-Type: message/delivery-status",
            b"",
            b"Reporting-MTA: dns; mx.shop.example",
            b"Arrival-Date: Wed, 15 Nov 2023 07:59:00 +0100 (CET)",
            b"",
            recipients,
            b"--4F1/mx.shop.example",
            b"Content-Type: " + kind,
            b"",
            returned,
            b"--4F1/mx.shop.example--",
            b"",
        ]
    )


def arf(kind: bytes = b"abuse", returned: bytes = MAIL) -> bytes:
    """Write a complaint in the way of RFC 5965."""
    return (
        b"From: <abusedesk@example.com>\r\nDate: Wed, 15 Nov 2023 08:00:00 +0100\r\nSubject: FW: Earn money\r\n"
        b"To: <abuse@example.net>\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: multipart/report; report-type=feedback-report;\r\n"
        b' boundary="part1_13d.2e68ed54_boundary"\r\n\r\n'
        b'--part1_13d.2e68ed54_boundary\r\nContent-Type: text/plain; charset="US-ASCII"\r\n\r\nAn abuse report\r\n'
        b"--part1_13d.2e68ed54_boundary\r\nContent-Type: message/feedback-report\r\n\r\n"
        b"Feedback-Type: " + kind + b"\r\nUser-Agent: SomeGenerator/1.0\r\nVersion: 1\r\n\r\n"
        b"--part1_13d.2e68ed54_boundary\r\nContent-Type: message/rfc822\r\nContent-Disposition: inline\r\n\r\n"
        + returned
        + b"\r\n--part1_13d.2e68ed54_boundary--\r\n"
    )


def read(raw: bytes) -> Report:
    report = read_report(raw)
    assert report is not None
    return report


@pytest.mark.parametrize(
    ("returned", "kind"),
    [
        (MAIL, b"message/rfc822"),
        (HEADERS, b"text/rfc822-headers"),
        (HEADERS, b"message/rfc822-headers"),
        (HEADERS.replace(b"X-Tidings-Reference: ", b"X-Tidings-Reference:\r\n\t"), b"text/rfc822-headers; charset=x"),
        (b"Received: by mx.mail.example\r\n" + HEADERS + b"\r\n", b"message/rfc822"),
    ],
)
def test_a_bounce_names_the_command_whose_mail_came_back(returned: bytes, kind: bytes) -> None:
    for raw in (dsn(returned=returned, kind=kind), dsn(returned=returned, kind=kind).replace(b"\r\n", b"\n")):
        report = read(raw)
        assert (report.axis, report.status, report.kind, report.code) == ("delivery", "bounced", "hard", "5.1.1")
        assert read_reference([SECRET], report.token) == reference_of(COMMAND)
        assert report.command == COMMAND.command_id and report.at_ms == 1_700_031_600_000


def test_a_bounce_becomes_a_receipt_without_address_and_number() -> None:
    report = read(dsn())
    (event,) = told(report, reference_of(COMMAND), 5)
    assert (event.type, event.member_id, event.occurred_at_ms) == ("delivery.bounced", "m1", 5)
    wanted = {
        "command_id": COMMAND.command_id,
        "campaign": "cart",
        "kind": "hard",
        "code": "5.1.1",
        "status": "bounced",
    }
    assert wanted.items() <= event.data.items()
    assert "550 5.1.1" in event.data["detail"] and "ivan" not in str(event) and "12345678" not in str(event)
    assert told(report, reference_of(COMMAND), 6)[0].event_id == event.event_id


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("5.1.1", "hard"), ("5.1.10", "hard"), ("5.2.1", "hard"), ("5.0.0", "hard"), ("5.1.8", "block"),
        ("5.2.2", "soft"), ("5.2.3", "block"), ("5.3.4", "block"), ("5.3.0", "soft"), ("5.4.4", "soft"),
        ("5.6.0", "block"), ("5.7.1", "block"), ("5.7.26", "block"), ("4.4.7", "soft"), ("4.2.2", "soft"),
        ("", "soft"), ("5", "soft"), ("9.1.1", "soft"),
    ],
)  # fmt: skip
def test_what_a_status_code_says_about_the_mailbox(status: str, kind: str) -> None:
    assert bounce_kind(status) == kind
    assert read(dsn(FAILED.replace(b"5.1.1\r\nRemote", status.encode() + b"\r\nRemote"))).kind == kind


@pytest.mark.parametrize(
    ("action", "status"),
    [("delayed", ""), ("relayed", ""), ("expanded", ""), ("Delivered", "delivered"), ("FAILED", "bounced")],
)
def test_only_what_is_final_is_told(action: str, status: str) -> None:
    report = read(dsn(FAILED.replace(b"failed", action.encode())))
    assert report.status == status and len(told(report, reference_of(COMMAND), 1)) == bool(status)


def test_a_complaint_is_a_receipt_and_takes_consent_back() -> None:
    report = read(arf())
    complained, revoked = told(report, read_reference([SECRET], report.token), 7)
    assert (complained.type, complained.data["command_id"]) == ("engagement.complained", COMMAND.command_id)
    assert (revoked.type, revoked.member_id, revoked.data) == (
        "consent.revoked", "m1", {"channel": "email", "source": "complaint"},
    )  # fmt: skip
    assert told(read(arf(b"not-spam")), reference_of(COMMAND), 7) == ()
    assert told(read(arf(b"virus")), reference_of(COMMAND), 7) == ()


@pytest.mark.parametrize("make", [dsn, arf])
def test_a_report_about_a_mail_that_is_not_ours_has_no_token_of_ours(make) -> None:
    forged = b"X-Tidings-Reference: " + reference_header(b"x" * 32, COMMAND).encode() + b"\r\nSubject: x\r\n\r\nx"
    for returned in (b"", b"Subject: x\r\n\r\nx", forged, b"\xff\xfe\x00"):
        with pytest.raises(TokenError):
            read_reference([SECRET], read(make(returned=returned)).token)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"\x00" * 100, b"Subject: hello\r\n\r\nhello", MAIL, b"Content-Type: multipart/report\r\n\r\nx",
        b"Content-Type: multipart/report; boundary=a\r\n\r\n--a\r\n\r\nx\r\n--a--\r\n",
    ],
)  # fmt: skip
def test_what_is_no_report_is_none(raw: bytes) -> None:
    assert read_report(raw) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"".join(b"Content-Type: multipart/report; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(20_000)),
        b"Content-Type: message/rfc822\r\n\r\n" * 30_000,
        b"Content-Type: multipart/report; boundary=a\r\n\r\n" + b"--a\r\n\r\n" * 120_000,
        b"X: y\r\n" * 170_000,
        b"Content-Type: multipart/report" + b"; boundary*0=a" * 30,
        dsn(b"Action: failed\r\n\r\n" * 50_000),
        dsn(b"Action: failed\r\nDiagnostic-Code: smtp; " + b"a@" * 400_000 + b"\r\n"),
        dsn(returned=b"X-Tidings-Reference: " + b"A " * 400_000),
    ],
)
def test_a_mail_made_to_be_slow_or_deep_is_read_in_bounded_time(raw: bytes) -> None:
    began = time.process_time()
    read_report(raw)
    assert time.process_time() - began < 10  # what it is to prevent takes minutes, or the whole stack


def test_what_is_beyond_the_bound_is_not_read() -> None:
    assert read_report(b"X: " + b"y" * MAX_BYTES + b"\r\n" + dsn()) is None


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([dsn(), arf()]), st.lists(st.tuples(st.integers(0, 2_000), st.binary(max_size=8)), max_size=6))
def test_no_change_of_bytes_raises_or_changes_whose_mail_it_is(raw: bytes, changes: list[tuple[int, bytes]]) -> None:
    for at, what in changes:
        raw = raw[:at] + what + raw[at + len(what) :]
    report = read_report(raw)
    if report is not None:
        with contextlib.suppress(TokenError):
            assert read_reference([SECRET], report.token) == reference_of(COMMAND)
