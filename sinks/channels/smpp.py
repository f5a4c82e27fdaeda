"""SMS over SMPP 3.4 and 5.0, the pure half: PDUs of a command, the meaning of statuses, the reading of receipts.

`submit_sm` and `deliver_sm` are spelled by the library `smpp34`. A text of several parts goes as several `submit_sm`
with a user data header, or whole in `message_payload`. Its reference number is made of the command's id, so that a
phone puts a second send together with the first. A receipt is asked for the last part, and for others if they fail.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
import smpp34

from schemas.ids import h128
from schemas.references import Reference, reference_of
from sinks.channels import gsm
from sinks.channels.base import AddressError, Dispatch, Needs
from sinks.channels.receipts import Told
from sinks.channels.twilio import PHONE, check_parts
from sinks.channels.verdicts import GONE, OURS, REFUSED, THROTTLED, TROUBLE, Verdict, judged
from sinks.outcome import Outcome

INTERNATIONAL, NETWORK, ALPHANUMERIC, ISDN = 1, 3, 5, 1  # type of number and numbering plan, SMPP 3.4 §5.2.5, §5.2.6
DATA_CODING = {gsm.GSM7: 0, gsm.UCS2: 8}
HAS_HEADER = 0x40  # esm_class: the text begins with a user data header
RECEIPT, RECEIPT_OF_FAILURE = 1, 2  # registered_delivery
KINDS_OF_DELIVER, IS_RECEIPT = 0x3C, 0x04  # esm_class of deliver_sm
# Optional parameters, SMPP 3.4 §5.3.2; the library has them, its types do not.
TLV_RECEIPTED_MESSAGE_ID, TLV_NETWORK_ERROR_CODE, TLV_MESSAGE_PAYLOAD, TLV_MESSAGE_STATE = 0x1E, 0x423, 0x424, 0x427
VALIDITY_MAX_S = 30 * 86_400
THROTTLED_MS = 1_000
# SMPP 3.4 §5.1.3, 5.0 §4.7.6. What is not here is about this one message.
VERDICTS: Mapping[int, Verdict] = {
    0x04: TROUBLE,  # the session is not bound
    0x08: TROUBLE,
    0x0A: OURS,  # the sender's address
    0x0B: GONE,
    0x14: THROTTLED,
    0x45: Verdict("deferred", "submit_failed"),
    0x48: OURS,  # the type of the sender's number
    0x49: OURS,
    0x58: THROTTLED,
    0x64: Verdict("deferred", "provider_error"),
    0x88: TROUBLE,  # congestion
    0xFE: Verdict("deferred", "submit_failed"),
    0xFF: TROUBLE,
    **dict.fromkeys(range(0x100, 0x107), OURS),  # services that our account may not use
}
STATES: Mapping[int, str] = {
    2: "delivered", 3: "expired", 4: "cancelled", 5: "undelivered", 7: "unknown", 8: "rejected", 9: "rejected",
}  # fmt: skip
STATS: Mapping[str, str] = {
    "DELIVRD": "delivered", "EXPIRED": "expired", "DELETED": "cancelled", "UNDELIV": "undelivered",
    "UNKNOWN": "unknown", "REJECTD": "rejected",
}  # fmt: skip
_ID = re.compile(r"\bid:\s*([^\s:]{1,65})", re.IGNORECASE)
_STAT = re.compile(r"\bstat:\s*([A-Z]{3,10})", re.IGNORECASE)
_ERR = re.compile(r"\berr:\s*([0-9A-Za-z]{1,8})", re.IGNORECASE)


class SmppSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`url`: `smpp://host:port`, or `smpps://` for TLS; `ca`: PEM of the server's authority; empty: the system's.

    `sender`: a number or a name. `parts`: `udh` cuts a long text here, `payload` lets the provider do it. `receipts`:
    ask for them; `receipt_ids`: `decimal` where receipts spell in decimal the id that was answered in hex.
    """

    url: str
    system_id: str
    password: str
    sender: str
    system_type: str = ""
    version: Literal["3.4", "5.0"] = "3.4"
    parts: Literal["udh", "payload"] = "udh"
    parts_max: int = 6
    receipts: bool = True
    receipt_ids: Literal["same", "decimal"] = "same"
    ca: str = ""
    enquire_s: float = 30.0


@dataclass(frozen=True, slots=True)
class SmppRequest:
    """The PDUs of one message, without sequence numbers, and what its receipts will be about."""

    reference: Reference
    parts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Smpp:
    """The pure half."""

    settings: SmppSettings
    needs: Needs = Needs(("txt",))

    def accepts(self, address: str) -> bool:
        """Take a telephone number in E.164."""
        return bool(PHONE.fullmatch(address))

    def request(self, dispatch: Dispatch) -> SmppRequest:
        """Make the PDUs; see `Adapter`."""
        command, text = dispatch.command, gsm.plain(dispatch.content.text)
        if not self.accepts(command.address):
            raise AddressError("no telephone number")
        check_parts(text, self.settings.parts_max)
        plan = gsm.plan(text)
        lasts_s = max(1, (command.expires_at_ms - dispatch.at_ms) // 1000)
        if self.settings.parts == "payload":
            pdus = [self._pdu(command.address, plan.encoding, lasts_s, gsm.encode(text, plan.encoding), payload=True)]
            return SmppRequest(reference_of(command), tuple(pdus))
        number = int(h128(command.command_id)[:2], 16)
        total = len(plan.parts)
        pdus = []
        for at, part in enumerate(plan.parts, 1):
            head = gsm.header(number, total, at) if total > 1 else b""
            raw = head + gsm.encode(part, plan.encoding)
            pdus.append(self._pdu(command.address, plan.encoding, lasts_s, raw, headed=bool(head), last=at == total))
        return SmppRequest(reference_of(command), tuple(pdus))

    def _pdu(
        self, to: str, encoding: str, lasts_s: int, raw: bytes, headed: bool = False, last: bool = True,
        payload: bool = False,
    ) -> bytes:  # fmt: skip
        ton, npi = sender_type(self.settings.sender)
        return smpp34.SubmitSm(
            self.settings.sender.removeprefix("+"),
            to.removeprefix("+"),
            b"" if payload else raw,
            source_addr_ton=ton,
            source_addr_npi=npi,
            dest_addr_ton=INTERNATIONAL,
            dest_addr_npi=ISDN,
            esm_class=HAS_HEADER if headed else 0,
            data_coding=DATA_CODING[encoding],
            validity_period=relative_time(lasts_s),
            registered_delivery=(RECEIPT if last else RECEIPT_OF_FAILURE) if self.settings.receipts else 0,
            tlvs=[smpp34.Tlv(TLV_MESSAGE_PAYLOAD, raw)] if payload else [],
        ).encode()


def sender_type(sender: str) -> tuple[int, int]:
    """Name the type and plan of a sender: an international number, a short one, or a name."""
    digits = sender.removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        return ALPHANUMERIC, 0
    return (INTERNATIONAL, ISDN) if len(digits) >= 7 else (NETWORK, 0)


def relative_time(seconds: int) -> str:
    """Spell a span as SMPP does, §7.1.1: YYMMDDhhmmsstnnR."""
    minutes, second = divmod(min(seconds, VALIDITY_MAX_S), 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    return f"0000{day:02}{hour:02}{minute:02}{second:02}000R"


def status_outcome(status: int) -> Outcome:
    """Read the status of a `submit_sm_resp` that is no success; throttled: ask again in a second."""
    verdict = VERDICTS.get(status, REFUSED)
    return judged(verdict, status, f"smpp 0x{status:08x}", THROTTLED_MS if verdict is THROTTLED else 0)


def receipt_key(ident: str, receipt_ids: str, answered: bool = False) -> str:
    """Spell a message id the way both its answer and its receipt can be brought to."""
    plain = ident.strip().lower()
    if receipt_ids == "decimal":
        try:
            return str(int(plain, 16 if answered else 10))
        except ValueError:
            return plain
    return plain


def read_receipt(pdu: smpp34.DeliverSm, receipt_ids: str = "same") -> Told | None:
    """Read a receipt: by its parameters where there are such, else by its text; None: it is none.

    Statuses that say less than an end (ENROUTE, ACCEPTD) are read to an empty one.
    """
    if pdu.esm_class & KINDS_OF_DELIVER != IS_RECEIPT:
        return None
    given = {tlv.tag: tlv for tlv in pdu.tlvs}
    payload = given.get(TLV_MESSAGE_PAYLOAD)
    text = (pdu.short_message or (payload.value if payload else b"")).decode("latin-1")
    ident, state = given.get(TLV_RECEIPTED_MESSAGE_ID), given.get(TLV_MESSAGE_STATE)
    named, stat, err = _ID.search(text), _STAT.search(text), _ERR.search(text)
    key = ident.value.rstrip(b"\0").decode("latin-1") if ident else named[1] if named else ""
    if not key:
        return None
    status = STATES.get(state.value[0], "") if state and state.value else STATS.get(stat[1].upper(), "") if stat else ""
    network = given.get(TLV_NETWORK_ERROR_CODE)
    code = err[1] if err else str(int.from_bytes(network.value[1:3], "big")) if network else ""
    return Told(status, receipt_key(key, receipt_ids), "" if code.strip("0") == "" else code)
