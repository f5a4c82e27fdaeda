"""What mail servers and mailbox providers report by mail: bounces (RFC 3464) and complaints (RFC 5965). Pure.

Anybody can send us such a mail, and make it as they like. So nothing of it is believed but the token that we signed
into the header `X-Tidings-Reference` of the mail it is about; sizes and nesting are bounded before anything is parsed;
and what cannot be read is no report.
"""

import re
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from email.policy import compat32
from email.utils import parsedate_to_datetime

from schemas.commands import SendMessage
from schemas.events import Event
from schemas.ids import h128
from schemas.references import Reference, reference_of, sign_reference, told_event
from sinks.outcome import redact

HEADER = "X-Tidings-Reference"
PROVIDER = "mail-report"
MAX_BYTES = 1 << 20  # more is not read: reports stand in front of what they return
# A report has three parts, and the mail it returns a few. The parser's time is lines × depth.
MAX_PARTS = 40
_NESTING = re.compile(rb"boundary|message/rfc822", re.IGNORECASE)
_STATUS = re.compile(r"\b([245])\.(\d{1,3})\.(\d{1,3})\b")
_IDENT = re.compile(r"<?([A-Za-z0-9._-]{1,128})@")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")

# Enhanced status codes (RFC 3463) that end with class 5 and yet say nothing bad about the mailbox for good.
_BLOCK = frozenset({"1.7", "1.8", "2.3", "3.4"})  # our address is refused; the message is too large
_SOFT = frozenset({"2.2"})  # the mailbox is full
_BLOCK_SUBJECTS = frozenset({"6", "7"})  # the content; policy and security
_SOFT_SUBJECTS = frozenset({"3", "4", "5"})  # the system, the network, the protocol
COMPLAINTS = frozenset({"abuse", "fraud", "other", "opt-out"})


@dataclass(frozen=True, slots=True)
class Report:
    """One report. `status` empty: it says nothing that we did not know (delayed, relayed, "not spam").

    `token` and `command` are of the mail it is about: what it claims, not yet verified; empty if it does not say.
    """

    axis: str
    status: str
    token: str
    command: str = ""
    kind: str = ""
    code: str = ""
    detail: str = ""
    at_ms: int | None = None


def reference_header(secret: bytes, command: SendMessage) -> str:
    """Make the value of `HEADER` for a mail."""
    return sign_reference(secret, reference_of(command))


def read_report(raw: bytes) -> Report | None:
    """Read one mail; None: it is no report, or none that can be read."""
    raw = raw[:MAX_BYTES]
    if len(_NESTING.findall(raw)) > MAX_PARTS:
        return None
    try:
        return _report(message_from_bytes(raw, policy=compat32))
    except Exception:  # the library promises nothing about what somebody made up
        return None


def told(report: Report, reference: Reference, at_ms: int) -> tuple[Event, ...]:
    """Make the events of a report about a message of ours. The same report read again makes the same ids.

    A complaint takes consent back, too, as pressing Unsubscribe does, and under the same id.
    """
    if not report.status:
        return ()
    bounce = {"code": report.code, "detail": report.detail, "reason": "told_by_provider"}
    more = bounce if report.axis == "delivery" else {}
    more |= {"kind": report.kind} if report.kind else {}
    event = told_event(reference, report.axis, report.status, PROVIDER, at_ms, more)
    if report.status != "complained":
        return (event,)
    revoked = Event(
        type="consent.revoked",
        occurred_at_ms=at_ms,
        event_id=h128("consent.revoked", reference.command_id, reference.channel),
        member_id=reference.member_id,
        data={"channel": reference.channel, "source": "complaint"},
        source="tidings-receipts",
        causation_id=reference.command_id,
    )
    return event, revoked


def bounce_kind(status: str) -> str:
    """Sort a status code: `hard`, `soft` or `block`; one that cannot be read is `soft`, which forbids nothing."""
    found = _STATUS.search(status)
    if found is None or found[1] != "5":
        return "soft"
    detail = f"{found[2]}.{found[3]}"
    if found[2] in _BLOCK_SUBJECTS or detail in _BLOCK:
        return "block"
    return "soft" if found[2] in _SOFT_SUBJECTS or detail in _SOFT else "hard"


def _report(mail: Message) -> Report | None:
    if mail.get_content_type() != "multipart/report":
        return None
    parts = mail.get_payload()
    if not isinstance(parts, list):
        return None
    found: Report | None = None
    token = command = ""
    for part in (one for one in parts[:MAX_PARTS] if isinstance(one, Message)):
        kind = part.get_content_type()
        if kind == "message/delivery-status":
            found = _bounce(part)
        elif kind == "message/feedback-report":
            found = _complaint(part)
        elif kind in ("message/rfc822", "text/rfc822-headers", "message/rfc822-headers"):
            token, command = _original(part)
    if found is None:
        return None
    return Report(
        found.axis, found.status, token, command, found.kind, found.code, found.detail, _date(mail.get("Date"))
    )


def _bounce(part: Message) -> Report:
    best = Report("delivery", "", "")
    # First a block about the message, then one for each recipient; a mail of ours has one.
    for block in _blocks(part)[1:MAX_PARTS]:
        action = _text(block.get("Action")).lower()
        if action == "failed":
            status = _STATUS.search(_text(block.get("Status")))
            code = status[0] if status else ""
            detail = _text(block.get("Diagnostic-Code")).partition(";")[2] or _text(block.get("Diagnostic-Code"))
            return Report("delivery", "bounced", "", "", bounce_kind(code), code, _redacted(detail))
        if action == "delivered":
            best = Report("delivery", "delivered", "")
    return best


def _complaint(part: Message) -> Report:
    for block in _blocks(part):
        if _text(block.get("Feedback-Type")).lower() in COMPLAINTS:
            return Report("engagement", "complained", "")
    return Report("engagement", "", "")


def _blocks(part: Message) -> list[Message]:
    """List the blocks of fields of a part. The library splits those of a delivery status; of others it gives text."""
    payload = part.get_payload()
    if isinstance(payload, list):
        return [block for block in payload if isinstance(block, Message)]
    return [message_from_bytes(text, policy=compat32) for text in re.split(rb"\r?\n\r?\n", _bytes(part))[:MAX_PARTS]]


def _original(part: Message) -> tuple[str, str]:
    payload = part.get_payload()
    mail = payload[0] if isinstance(payload, list) and payload else message_from_bytes(_bytes(part), policy=compat32)
    if not isinstance(mail, Message):
        return "", ""
    ident = _IDENT.match(_text(mail.get("Message-ID")))
    return "".join(_text(mail.get(HEADER)).split()), ident[1] if ident else ""


def _bytes(part: Message) -> bytes:
    decoded = part.get_payload(decode=True)
    return decoded if isinstance(decoded, bytes) else b""


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _redacted(text: str) -> str:
    return " ".join(_UNPRINTABLE.sub(" ", redact(text[:2_000])).split())


def _date(value: object) -> int | None:
    try:
        return int(parsedate_to_datetime(_text(value)).timestamp() * 1000)
    except (ValueError, OverflowError, TypeError):
        return None
