"""What delivery adds to mails: signatures of the domain, and what their bounces are known by."""

import asyncio

from agents.send_page import MailExtras
from schemas.references import read_reference, reference_of
from sinks.reports import read_report
from tests.agents.delivery_lab import Lab, send_command, until
from tests.sinks.test_dkim import SIGNER, verifies
from tests.sinks.test_reports import dsn
from tidings.smtp_server import DROP_AFTER


async def test_mails_are_signed_and_a_second_attempt_is_the_same_mail(lab: Lab) -> None:
    answers = iter([DROP_AFTER])
    lab.smtp.rule = lambda recipient, ident: next(answers, None)
    lab.write(send_command(1))
    async with lab.running(extras=MailExtras(SIGNER)):
        await until(lambda: lab.lag() == 0)
    first, second = (mail.content for mail in lab.smtp.mails)
    assert first == second and await asyncio.to_thread(verifies, first)


async def test_without_a_key_mails_bear_no_signature(lab: Lab) -> None:
    lab.write(send_command(1))
    async with lab.running():
        await until(lambda: lab.smtp.received == 1)
    assert b"DKIM-Signature" not in lab.smtp.mails[0].content


async def test_a_mail_carries_what_its_bounce_is_known_by(lab: Lab) -> None:
    command = send_command(1)
    lab.write(command)
    async with lab.running():
        await until(lambda: lab.smtp.received == 1)
    report = read_report(dsn(returned=lab.smtp.mails[0].content))
    assert report is not None and read_reference([b"s" * 32], report.token) == reference_of(command)
