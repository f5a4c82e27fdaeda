"""SMPP: PDUs of a command, statuses, receipts, and a session with a server that speaks real PDUs."""

import asyncio
import datetime
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import smpp34
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from schemas.errors import OperatorError
from schemas.references import Reference
from sinks.channels import gsm
from sinks.channels.base import AddressError, ContentError
from sinks.channels.kinds import check_spec, open_provider
from sinks.channels.receipts import Told
from sinks.channels.smpp import (
    Smpp,
    SmppRequest,
    SmppSettings,
    read_receipt,
    receipt_key,
    relative_time,
    status_outcome,
)
from sinks.channels.smpp_transport import SmppTransport
from sinks.outcome import Outcome, ProviderDown
from sinks.templates import Content
from tests.sinks.channels.samples import ID, dispatch, spec
from tests.sinks.channels.smsc import DELIVERED, Smsc, receipt_text


def settings(**changes: Any) -> SmppSettings:
    return SmppSettings(**({"url": "smpp://h:1", "system_id": "shop", "password": "p", "sender": "Shop"} | changes))


def pdus(text: str, **changes: Any) -> list[smpp34.SubmitSm]:
    request = Smpp(settings(**changes)).request(dispatch(Content(text)))
    decoded = [smpp34.decode(raw) for raw in request.parts]
    assert all(isinstance(one, smpp34.SubmitSm) for one in decoded)
    return decoded  # type: ignore[return-value]


# ---------------------------------------------------------------- the pure half


def test_a_short_message_is_one_pdu_in_the_gsm_alphabet_that_asks_for_a_receipt() -> None:
    (pdu,) = pdus("Grüße: 5 €")
    assert (pdu.source_addr, pdu.source_addr_ton, pdu.source_addr_npi) == ("Shop", 5, 0)
    assert (pdu.destination_addr, pdu.dest_addr_ton, pdu.dest_addr_npi) == ("4915112345678", 1, 1)
    assert (pdu.data_coding, pdu.esm_class, pdu.registered_delivery) == (0, 0, 1)
    assert gsm.decode_gsm(pdu.short_message) == "Grüße: 5 €" and pdu.validity_period == "000000010000000R"


def test_a_long_text_is_cut_into_parts_that_name_one_another() -> None:
    text = "Я" * 150
    parts = pdus(text)
    assert [one.data_coding for one in parts] == [8] * 3 and {one.esm_class for one in parts} == {0x40}
    heads = [one.short_message[:6] for one in parts]
    assert heads == [gsm.header(heads[0][3], 3, at) for at in (1, 2, 3)]
    assert "".join(one.short_message[6:].decode("utf-16-be") for one in parts) == text
    assert all(len(one.short_message) <= 140 for one in parts)
    assert [one.registered_delivery for one in parts] == [2, 2, 1]


def test_a_second_send_of_a_command_has_the_same_bytes() -> None:
    first, second = (Smpp(settings()).request(dispatch(Content("x" * 300))) for _ in range(2))
    assert first == second
    assert first != Smpp(settings()).request(dispatch(Content("x" * 300), command_id="f" * 32))


def test_a_provider_may_cut_the_text_itself() -> None:
    (pdu,) = pdus("y" * 400, parts="payload")
    assert pdu.short_message == b"" and [(t.tag, t.value) for t in pdu.tlvs] == [(0x424, b"y" * 400)]


def test_too_many_parts_and_what_is_no_number_are_refused() -> None:
    with pytest.raises(ContentError, match="too_many_parts"):
        pdus("x" * 400, parts_max=2)
    with pytest.raises(AddressError):
        Smpp(settings()).request(dispatch(address="a@b.example"))


@pytest.mark.parametrize(
    ("seconds", "spelled"),
    [(1, "000000000001000R"), (90_061, "000001010101000R"), (10**9, "000030000000000R")],
)
def test_a_lifetime_is_spelled_as_a_relative_time(seconds: int, spelled: str) -> None:
    assert relative_time(seconds) == spelled


@pytest.mark.parametrize(
    ("sender", "ton"), [("Shop", 5), ("+4930123456", 1), ("4930123456", 1), ("12345", 3), ("24Shop", 5)]
)
def test_the_senders_type_follows_from_its_form(sender: str, ton: int) -> None:
    assert pdus("hi", sender=sender)[0].source_addr_ton == ton


@pytest.mark.parametrize(
    ("status", "outcome", "healthy"),
    [(0x58, "deferred", False), (0x14, "deferred", False), (0x0B, "bounced", True), (0x0A, "deferred", False),
     (0x45, "deferred", True), (0x08, "deferred", False), (0x33, "rejected", True), (0x4FF, "rejected", True)],
)  # fmt: skip
def test_a_status_is_about_the_number_the_message_or_the_provider(status: int, outcome: str, healthy: bool) -> None:
    read = status_outcome(status)
    assert (read.status, read.healthy, read.code) == (outcome, healthy, status)


def deliver(text: str = "", esm_class: int = 4, **tlvs: bytes) -> smpp34.DeliverSm:
    tags = {"ident": 0x1E, "state": 0x427, "error": 0x423, "payload": 0x424, "own": 0x1501}
    given = [smpp34.Tlv(tags[name], value) for name, value in tlvs.items()]
    return smpp34.DeliverSm("49", "Shop", text.encode(), esm_class=esm_class, tlvs=given)


@pytest.mark.parametrize(
    ("stat", "status"),
    [("DELIVRD", "delivered"), ("UNDELIV", "undelivered"), ("EXPIRED", "expired"), ("REJECTD", "rejected"),
     ("DELETED", "cancelled"), ("UNKNOWN", "unknown"), ("ENROUTE", ""), ("ACCEPTD", "")],
)  # fmt: skip
def test_a_receipt_is_read_by_its_text(stat: str, status: str) -> None:
    assert read_receipt(deliver(receipt_text("AB12", stat, "069"))) == Told(status, "ab12", "069")


def test_a_receipt_is_read_by_its_parameters_before_its_text() -> None:
    given = deliver("id:9 stat:UNDELIV", ident=b"77\0", state=b"\x02", own=b"?")
    assert read_receipt(given) == Told("delivered", "77")
    assert read_receipt(deliver(ident=b"77\0", state=b"\x05", error=b"\x03\x00\x21")) == Told("undelivered", "77", "33")
    assert read_receipt(deliver(payload=receipt_text("5", "EXPIRED").encode())) == Told("expired", "5")


def test_a_message_of_a_member_is_no_receipt() -> None:
    assert read_receipt(deliver("STOP", esm_class=0)) is None
    assert read_receipt(deliver("id nobody knows")) is None


def test_ids_answered_in_hex_and_told_in_decimal_meet() -> None:
    assert receipt_key("00AB", "decimal", answered=True) == receipt_key("0000000171", "decimal")
    assert receipt_key("Ab-1 ", "same", answered=True) == receipt_key("aB-1", "same")


@pytest.mark.parametrize("url", ["http://h", "smpp://", "smpp://h:x", "smpp://u:p@h:1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(OperatorError, match="smpp://host:port"):
        check_spec(spec("smpp", url=url))


# ---------------------------------------------------------------- the session


class Notes:
    """A desk that remembers. `safe`: what it answers to receipts."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, str, bool]] = []
        self.told: list[Told] = []
        self.safe = True

    def note(self, provider: str, ident: str, reference: Reference, last: bool) -> None:
        self.noted.append((ident, reference.command_id, last))

    async def tell(self, provider: str, told: Told) -> bool:
        self.told.append(told)
        return self.safe


@pytest.fixture
async def smsc() -> AsyncIterator[Smsc]:
    running = await Smsc().start()
    yield running
    await running.stop()


def opened(smsc: Smsc, notes: Notes | None = None, window: int = 8, **changes: Any) -> SmppTransport:
    given = spec("smpp", url=smsc.url, connections=window, **({"timeout_s": 20} | changes))
    transport = open_provider(given)[1]
    assert isinstance(transport, SmppTransport)
    transport.attach(notes or Notes())
    return transport


def request(text: str = "Your cart waits", n: int = 0) -> SmppRequest:
    return Smpp(settings()).request(dispatch(Content(text), command_id=f"{n:032x}" if n else ID))


async def send(transport: SmppTransport, made: SmppRequest) -> Outcome:
    async with transport.link() as link:
        return await link.send(made)


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_message_is_taken_and_its_id_noted_before_the_session_is_left(smsc: Smsc) -> None:
    notes = Notes()
    transport = opened(smsc, notes, system_type="bulk", version="5.0")
    outcome = await send(transport, request())
    assert (outcome.status, outcome.provider_message_id) == ("sent", "ID1")
    assert notes.noted == [("id1", ID, True)] and smsc.binds == [("shop", "smpp-secret", "bulk", 0x50)]
    await transport.close()
    assert smsc.left == 1


async def test_the_parts_of_a_text_go_in_order_and_each_id_is_noted(smsc: Smsc) -> None:
    notes = Notes()
    transport = opened(smsc, notes)
    outcome = await send(transport, request("x" * 400))
    await transport.close()
    assert outcome.provider_message_id == "ID3" and [one.short_message[5] for one in smsc.taken] == [1, 2, 3]
    assert notes.noted == [("id1", ID, False), ("id2", ID, False), ("id3", ID, True)]


async def test_no_more_messages_are_without_answer_than_the_window_holds(smsc: Smsc) -> None:
    held: list[int] = []
    smsc.answer = lambda pdu: held.append(pdu.sequence_number)
    transport = opened(smsc, window=3)
    sends = [asyncio.create_task(send(transport, request(n=n))) for n in range(1, 6)]
    await until(lambda: len(held) == 3)
    await asyncio.sleep(0.1)
    assert len(held) == 3
    smsc.answer = lambda pdu: (0, "late")
    for sequence in list(held):
        smsc.sessions[0].write(0x80000004, 0, sequence, b"x\0")
    assert {one.status for one in await asyncio.gather(*sends)} == {"sent"}
    await transport.close()


async def test_a_throttled_message_is_deferred_and_the_provider_left_alone_for_a_second(smsc: Smsc) -> None:
    smsc.answer = lambda pdu: (0x58, "")
    transport = opened(smsc)
    outcome = await send(transport, request())
    assert (outcome.status, outcome.reason, outcome.retry_after_ms) == ("deferred", "throttled", 1_000)
    assert 0 < transport.wait_s() <= 1
    with pytest.raises(ProviderDown, match="throttled"):
        await send(transport, request())
    await transport.close()


async def test_a_session_that_breaks_after_a_message_leaves_its_outcome_unknown_and_is_bound_again(smsc: Smsc) -> None:
    def break_off(pdu: smpp34.SubmitSm) -> None:
        smsc.drop()

    smsc.answer = break_off
    transport = opened(smsc)
    outcome = await send(transport, request())
    assert (outcome.status, outcome.reason) == ("unknown", "reply_lost")
    smsc.answer = lambda pdu: (0, "again")
    await until(lambda: len(smsc.binds) == 2 and transport.wait_s() == 0)
    assert (await send(transport, request())).status == "sent"
    await transport.close()


async def test_an_answer_that_does_not_come_is_an_unknown_outcome_and_the_session_goes_on(smsc: Smsc) -> None:
    smsc.answer = lambda pdu: None
    transport = opened(smsc, timeout_s=0.3)
    assert (await send(transport, request())).reason == "no_answer"
    smsc.answer = lambda pdu: (0, "again")
    assert (await send(transport, request())).status == "sent" and len(smsc.binds) == 1
    await transport.close()


async def test_a_provider_that_is_away_takes_nothing_and_is_found_back(smsc: Smsc) -> None:
    await smsc.stop()
    transport = opened(smsc)
    with pytest.raises(ProviderDown):
        await send(transport, request())
    assert transport.wait_s() > 0
    await smsc.start()
    await until(lambda: transport.wait_s() == 0)
    assert (await send(transport, request())).status == "sent"
    await transport.close()


async def test_a_provider_that_sends_us_away_at_once_is_not_asked_again_without_a_pause(smsc: Smsc) -> None:
    smsc.turns_away = True
    transport = opened(smsc)
    await until(lambda: len(smsc.binds) >= 2)
    seen = len(smsc.binds)
    await asyncio.sleep(1)
    assert len(smsc.binds) <= seen + 3 and transport.wait_s() > 0
    smsc.turns_away = False
    await until(lambda: transport.wait_s() == 0)
    assert (await send(transport, request())).status == "sent"
    await transport.close()


async def test_a_refused_bind_says_that_the_credentials_are_wrong(smsc: Smsc) -> None:
    transport = opened(smsc, password="wrong")
    with pytest.raises(ProviderDown, match="credentials_refused"):
        await send(transport, request())
    await transport.close()
    assert not smsc.taken


async def test_a_silent_session_is_asked_and_dropped_when_it_does_not_answer(smsc: Smsc) -> None:
    transport = SmppTransport("p", settings(url=smsc.url, password="smpp-secret", enquire_s=0.05), timeout_s=2)
    transport.attach(Notes())
    await until(lambda: smsc.enquired >= 2)
    assert len(smsc.binds) == 1
    smsc.mute = True
    await until(lambda: transport.wait_s() > 0)
    smsc.mute = False
    await until(lambda: len(smsc.binds) >= 2)
    await transport.close()


async def test_a_receipt_is_answered_when_it_is_safe_and_else_asked_for_again(smsc: Smsc) -> None:
    notes = Notes()
    transport = opened(smsc, notes)
    await send(transport, request())
    assert await smsc.deliver(receipt_text("ID1", "DELIVRD")) == 0
    notes.safe = False
    assert await smsc.deliver(state=DELIVERED, ident="ID1") == 0x64
    assert await smsc.deliver("STOP", esm_class=0) == 0
    assert await smsc.deliver(receipt_text("ID1", "ENROUTE")) == 0
    assert notes.told == [Told("delivered", "id1"), Told("delivered", "id1")]
    await transport.close()


async def test_a_receipt_that_fails_with_us_is_asked_for_again(smsc: Smsc, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()

    async def fail(provider: str, told: Told) -> bool:
        raise RuntimeError("store closed")

    monkeypatch.setattr(notes, "tell", fail)
    transport = opened(smsc, notes)
    await send(transport, request())
    assert await smsc.deliver(receipt_text("ID1", "DELIVRD")) == 0x64
    await transport.close()


async def test_bytes_that_are_no_receipt_and_commands_that_nobody_knows_end_nothing(smsc: Smsc) -> None:
    transport = opened(smsc)
    await send(transport, request())
    assert await smsc.push(b"\0\0") == 0x65
    assert await smsc.push(b"", command=0x0301) == 0x03
    assert (await send(transport, request())).status == "sent" and len(smsc.binds) == 1
    await transport.close()


async def test_tls_is_held_to_the_authority_that_is_named(tmp_path: Path) -> None:
    pem, context = certified(tmp_path)
    smsc = await Smsc(context=context).start()
    stranger, good = opened(smsc), opened(smsc, ca=pem)
    with pytest.raises(ProviderDown, match="SSLCertVerificationError"):
        await send(stranger, request())
    assert (await send(good, request())).status == "sent" and len(smsc.binds) == 1
    await stranger.close()
    await good.close()
    await smsc.stop()


async def test_a_server_of_another_make_takes_our_pdus_and_tells_its_receipts() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = smpp34.Server("127.0.0.1", port, system_id="Other")
    await server.start()
    notes = Notes()
    transport = SmppTransport("p", settings(url=f"smpp://127.0.0.1:{port}"), timeout_s=20)
    transport.attach(notes)
    sending = asyncio.create_task(send(transport, request("x" * 200)))
    esme: smpp34.Esme | None = None
    seen: list[bytes] = []
    while len(seen) < 2:
        event = await asyncio.wait_for(server.next(), 30)
        if isinstance(event, smpp34.Esme):
            esme = event
        elif isinstance(event, smpp34.SubmitSmEvent):
            seen.append(event.short_message[6:])
            event.accept(f"m{len(seen)}")
    assert (await sending).status == "sent" and b"".join(seen) == b"x" * 200 and esme is not None
    answer = await esme.deliver_sm("Shop", receipt_text("m2", "DELIVRD").encode(), source_addr="49", esm_class=4)
    assert answer.is_success and notes.told == [Told("delivered", "m2")]
    await transport.close()
    await server.stop()


def certified(path: Path) -> tuple[str, ssl.SSLContext]:
    """Make a certificate for this machine, its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = made.public_bytes(serialization.Encoding.PEM).decode()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    file = path / "server.pem"
    file.write_text(pem + secret)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return pem, context
