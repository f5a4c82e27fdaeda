"""A send command and its rendered parts become the bytes of one mail: a pure function, equal bytes for equal input.

The `Date` is the time of the decision, not of the attempt: a second attempt after an unknown outcome then is the same
mail byte for byte, with the same Message-ID, and a receiving system that drops duplicates can do so.
"""

import email.policy
import re
from binascii import b2a_qp
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.generator import BytesGenerator
from email.header import Header
from email.message import Message
from email.utils import format_datetime, parseaddr
from functools import lru_cache
from io import BytesIO
from typing import Any

from schemas.commands import SendMessage
from schemas.errors import OperatorError
from schemas.ids import h128
from sinks.templates import Rendered

LINE = 78  # RFC 5322 §2.1.1: should; 998 is the must
MAX_ADDRESS = 254  # RFC 5321 §4.5.3.1.3, less the angle brackets
MAX_LOCAL = 64  # RFC 5321 §4.5.3.1.1
# RFC 5321 dot-string and domain. Quoted local parts and non-ASCII ones (RFC 6531) are refused: few providers take them.
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")
_URL = re.compile(r"https?://[\x21-\x3b\x3d\x3f-\x7e]{1,800}")
_NOT_WORD = re.compile(r"[^A-Za-z0-9._-]+")


class AddressError(ValueError):
    """An address that no mail can go to. The text does not quote it."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who mail is from: display name (may be empty) and address."""

    name: str
    address: str

    @property
    def domain(self) -> str:
        """The domain, which also ends every Message-ID."""
        return self.address.rpartition("@")[2]

    @classmethod
    def parse(cls, text: str) -> "Sender":
        """Read `Shop <news@shop.example>` or a bare address.

        Raises:
            OperatorError: it is no sender.
        """
        name, address = parseaddr(text)
        try:
            if _UNSAFE.search(text):
                raise AddressError("control characters")
            return cls(name, checked_address(address))
        except AddressError:
            raise OperatorError(f"from: no sender (got {text!r}); set e.g. 'Shop <news@shop.example>'") from None


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail, ready for SMTP: envelope, Message-ID without brackets, and the bytes."""

    sender: str
    recipient: str
    message_id: str
    content: bytes


class WirePolicy(email.policy.EmailPolicy):
    """Headers go out as we wrote them, folded at spaces only.

    The library's own policy turns a long `List-Unsubscribe` URL into an encoded word, which no mail client reads as a
    URL, and spends most of a mail's time on parsing headers that we have just made.
    """

    def header_store_parse(self, name: str, value: str) -> tuple[str, str]:
        """Keep a header as text; refuse what would start another one."""
        text = str(value)
        if not text.isprintable() and _UNSAFE.search(text):
            raise ValueError(f"header {name}: holds a control character")
        return name, text

    def header_fetch_parse(self, name: str, value: str) -> str:
        """Give a header back as it was stored."""
        return value

    def header_max_count(self, name: str) -> None:
        """Allow any number; `build` writes each once, and asking the library makes a class for every header."""

    def fold(self, name: str, value: str) -> str:
        """Write a header with CRLF, in lines of up to 78 characters where it has spaces."""
        # A subject that looks like an encoded word would be decoded by the reader: it is encoded to stay as it is.
        if value.isascii() and not (name == "Subject" and "=?" in value):
            if len(name) + 2 + len(value) <= LINE:  # most are short
                return f"{name}: {value}{self.linesep}"
        else:
            value = Header(value, "utf-8", maxlinelen=LINE - 2, header_name=name).encode()
            return f"{name}: {value}\n".replace("\n", self.linesep)
        lines = [f"{name}:"]
        for word in value.split(" "):
            if len(lines[-1]) + 1 + len(word) > LINE and word and len(lines[-1]) > len(name) + 1:
                lines.append("")
            lines[-1] += f" {word}"
        return self.linesep.join(lines) + self.linesep

    def fold_binary(self, name: str, value: str) -> bytes:
        """See `fold`."""
        return self.fold(name, value).encode("ascii")

    def clone(self, **changes: Any) -> "WirePolicy":
        """Make another one, if it is to be another: the generator asks for a copy with each part's own line end."""
        same = all(getattr(self, name) == value for name, value in changes.items())
        return self if same else super().clone(**changes)


POLICY = WirePolicy(linesep="\r\n", cte_type="7bit")


class WireMessage(Message):
    """A message that knows its type: the library reads it in the header, a dozen times for each mail."""

    def __init__(self, kind: str, boundary: str = "") -> None:
        super().__init__(POLICY)
        self._kind = kind
        self._boundary = boundary

    def get_content_type(self) -> str:
        """Return the type that `Content-Type` has."""
        return self._kind

    def get_boundary(self, failobj: object = None) -> str:
        """Return the boundary that `Content-Type` has."""
        return self._boundary


class WireGenerator(BytesGenerator):
    """Writes text as it stands, its line ends being CRLF already: line by line it is a third of a mail's time."""

    def _write_lines(self, lines: str) -> None:
        self.write(lines)


def quoted_printable(text: str) -> bytes:
    """Write a text in quoted-printable (RFC 2045 §6.7) with CRLF line ends; the last line has one, too."""
    # By the standard library's C; line ends first, for it takes over the kind that it finds.
    return b2a_qp(b"\r\n".join(text.encode().splitlines()) + b"\r\n")


def checked_address(text: str) -> str:
    """Return the address in the form that SMTP takes: its domain in IDNA.

    Raises:
        AddressError: no address; anything with a space, a bracket or a control character is none.
    """
    local, at, domain = text.rpartition("@")
    try:
        domain = domain if domain.isascii() else domain.encode("idna").decode("ascii")
    except UnicodeError:
        raise AddressError("the domain is none") from None
    good = at and len(local) <= MAX_LOCAL and _LOCAL.fullmatch(local) and _DOMAIN.fullmatch(domain)
    if not good or len(local) + 1 + len(domain) > MAX_ADDRESS:
        raise AddressError("not an address")
    return f"{local}@{domain}"


def message_id(command_id: str, domain: str) -> str:
    """Name a mail by its command, without brackets. An id that cannot stand in a header is hashed."""
    return f"{command_id if _ID.fullmatch(command_id) else h128(command_id)}@{domain}"


def build(
    command: SendMessage,
    rendered: Rendered,
    sender: Sender,
    unsubscribe_url: str,
    unsubscribe_mailto: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Mail:
    """Build the mail of a command.

    Args:
        command: whose message it is.
        rendered: subject, text and HTML.
        sender: the From header and the envelope's sender.
        unsubscribe_url: one-click URL (RFC 8058), for category `marketing` only; at most 800 characters.
        unsubscribe_mailto: an address that takes unsubscriptions, for programs without HTTPS.
        headers: more of them, each in one line.

    Raises:
        AddressError: the command's address is none.
        ValueError: another value cannot stand in a header.
    """
    recipient = checked_address(command.address)
    ident = message_id(command.command_id, sender.domain)
    kind, mark = "text/plain", ""
    if rendered.html is not None:
        # "=_" cannot occur in quoted-printable text, so no content can end a part.
        kind, mark = "multipart/alternative", f"=_{h128('boundary', command.command_id)}"
    mail = WireMessage(kind, mark)
    mail["From"] = _mailbox(sender)
    mail["To"] = recipient
    mail["Subject"] = rendered.subject
    mail["Date"] = _date(command.decided_at_ms // 1000)
    mail["Message-ID"] = f"<{ident}>"
    if command.category == "marketing":
        if not _URL.fullmatch(unsubscribe_url):
            raise ValueError("unsubscribe_url: not a URL of at most 800 printable ASCII characters")
        ways = f"<{unsubscribe_url}>"
        if unsubscribe_mailto:
            ways += f", <mailto:{checked_address(unsubscribe_mailto)}?subject=unsubscribe%20{ident.partition('@')[0]}>"
        mail["List-Unsubscribe"] = ways
        mail["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    mail["X-Tidings-Command-Id"] = ident.partition("@")[0]
    for name, value in (headers or {}).items():
        mail[name] = value
    # Google's Feedback Loop: up to three free identifiers, the last one is the sender's.
    mail["Feedback-ID"] = ":".join(
        (_word(command.campaign), _word(command.category), _word(command.channel), "tidings")
    )
    mail["Auto-Submitted"] = "auto-generated"
    mail["MIME-Version"] = "1.0"
    if rendered.html is None:
        _fill(mail, rendered.text)
    else:
        mail["Content-Type"] = f'{kind}; boundary="{mark}"'
        for part_kind, text in (("text/plain", rendered.text), ("text/html", rendered.html)):
            part = WireMessage(part_kind)
            _fill(part, text)
            mail.attach(part)
    wire = BytesIO()
    WireGenerator(wire, mangle_from_=False, policy=POLICY).flatten(mail)
    return Mail(sender.address, recipient, ident, wire.getvalue())


def _fill(part: WireMessage, text: str) -> None:
    """Give a part its text. Its own `set_content` does the same in Python, at 20 times the time."""
    part["Content-Type"] = f'{part.get_content_type()}; charset="utf-8"'
    part["Content-Transfer-Encoding"] = "quoted-printable"
    part.set_payload(quoted_printable(text).decode("ascii"))


@lru_cache(maxsize=1_024)  # many are decided within the same second
def _date(at_s: int) -> str:
    return format_datetime(datetime.fromtimestamp(at_s, UTC))


@lru_cache(maxsize=1_024)  # of campaigns, categories and channels there are few
def _word(text: str) -> str:
    return _NOT_WORD.sub("-", text)[:40] or "-"


@lru_cache(maxsize=8)  # a process has one
def _mailbox(sender: Sender) -> str:
    if not sender.name:
        return sender.address
    if sender.name.isascii():
        quoted = sender.name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}" <{sender.address}>'
    return f"{Header(sender.name, 'utf-8', maxlinelen=998).encode()} <{sender.address}>"
