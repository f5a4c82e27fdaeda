"""DKIM signatures (RFC 6376, RSA with SHA-256 as RFC 8301 wants) on the mails that `sinks.mime` builds.

The library for it, dkimpy, computes RSA in Python, some 15 times as slow as `cryptography`. So the arithmetic is of
the latter, and the rest, some 40 lines for mails of our own making, stands here; tests verify by dkimpy.

Both canonicalizations are `relaxed`: servers on the way rewrap headers and cut trailing spaces. The signature is a
function of the mail and of the time it is told, as the mail is one of its command.
"""

import base64
import hashlib
import re
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from schemas.errors import OperatorError

MIN_BITS = 1_024  # RFC 8301 §3.2; it asks for 2048
MAX_KEY_BYTES = 65_536
# What is signed where it is there. RFC 8058 §4 wants both List-Unsubscribe headers, Google the Feedback-ID.
SIGNED = (
    "from", "to", "subject", "date", "message-id", "mime-version", "content-type", "content-transfer-encoding",
    "list-unsubscribe", "list-unsubscribe-post", "feedback-id", "auto-submitted",
)  # fmt: skip
# Signed once more than they are there: nobody can add a second one that a reader would show (RFC 6376 §8.15).
SEALED = ("from", "to", "cc", "reply-to", "subject", "date")
WANTED = frozenset((*SIGNED, *SEALED))
_SELECTOR = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9][A-Za-z0-9-]{0,62})*")
_HEADER_END = re.compile(rb"\r\n(?![ \t])")
_LINE = 72


class DkimSigner:
    """Signs for one domain with one key.

    Args:
        domain: that vouches; the `d=` tag.
        selector: names the key: its public half stands in DNS at `<selector>._domainkey.<domain>`.
        pem: the private key.

    Raises:
        OperatorError: the selector is none, or the key is no RSA key of at least MIN_BITS.
    """

    def __init__(self, domain: str, selector: str, pem: bytes) -> None:
        if not _SELECTOR.fullmatch(selector):
            raise OperatorError(f"TIDINGS_DKIM_SELECTOR: no name in DNS (got {selector!r}); set e.g. s2026")
        self.domain = domain.lower()
        self.selector = selector
        self._key = _key(pem)

    @classmethod
    def read(cls, path: Path, selector: str, domain: str, sender_domain: str) -> "DkimSigner":
        """Read the key. `domain` empty: the sender's own.

        Raises:
            OperatorError: there is no such key, or the domain is not the sender's: no receiver (DMARC) would count it.
        """
        chosen = (domain or sender_domain).lower()
        if not f".{sender_domain.lower()}".endswith(f".{chosen}"):
            raise OperatorError(
                f"TIDINGS_DKIM_DOMAIN: must be the sender's domain or one above it (got {chosen!r}, and mail from"
                f" {sender_domain!r}); receivers do not count another's signature"
            )
        try:
            with path.open("rb") as file:
                pem = file.read(MAX_KEY_BYTES)
        except OSError as error:
            raise OperatorError(
                f"TIDINGS_DKIM_KEY: not readable (got {str(path)!r}: {error.strerror}); set the private key's PEM file"
            ) from None
        return cls(chosen, selector, pem)

    def sign(self, content: bytes, at_s: int) -> bytes:
        """Put the signature in front of a mail with CRLF line ends; `at_s`: seconds since the epoch, its `t=`."""
        head, _, body = content.partition(b"\r\n\r\n")
        fields = _fields(head)
        names = [name for name in SIGNED if name in fields for _ in fields[name]]
        names += SEALED
        bh = base64.b64encode(hashlib.sha256(relaxed_body(body)).digest()).decode()
        # Folded by us, at spaces alone: relaxed, a fold is a space.
        tags = (
            f"v=1; a=rsa-sha256; c=relaxed/relaxed; d={self.domain}; s={self.selector};\r\n t={at_s};\r\n"
            f" h={_listed(tuple(names))};\r\n bh={bh};\r\n b="
        )
        own = relaxed_header("dkim-signature", tags.encode()).removesuffix(b"\r\n")
        signed = _chosen(fields, names) + own
        raw = self._key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        return f"DKIM-Signature: {tags}{_fold(base64.b64encode(raw).decode())}\r\n".encode() + content


def relaxed_header(name: str, value: bytes) -> bytes:
    """Write a header in the relaxed form (RFC 6376 §3.4.2); `name`: in lower case."""
    return b"%b:%b\r\n" % (name.encode(), _spaced(value.replace(b"\r\n", b"")).strip())


def relaxed_body(body: bytes) -> bytes:
    """Write a body in the relaxed form (RFC 6376 §3.4.4)."""
    body = _spaced(body).replace(b" \r\n", b"\r\n")
    end = len(body.rstrip(b" "))
    while body.endswith(b"\r\n", 0, end):
        end -= 2
    return body[:end] + b"\r\n" if end else b""


def _spaced(text: bytes) -> bytes:
    """Make one space of each run of spaces and tabs; a pattern takes 30 times as long."""
    text = text.replace(b"\t", b" ")
    while b"  " in text:
        text = text.replace(b"  ", b" ")
    return text


def _fields(head: bytes) -> dict[str, list[bytes]]:
    """Collect the relaxed headers that may be signed by lower-case name, in order."""
    found: dict[str, list[bytes]] = {}
    for line in _HEADER_END.split(head):
        name, _, value = line.partition(b":")
        key = name.decode("ascii", "replace").lower().strip()
        if key in WANTED:
            found.setdefault(key, []).append(relaxed_header(key, value))
    return found


def _chosen(fields: dict[str, list[bytes]], names: list[str]) -> bytes:
    """Join the headers that `names` lists, of several the last one first (RFC 6376 §5.4.2); one too many is nothing."""
    left = {name: list(lines) for name, lines in fields.items()}
    return b"".join(left[name].pop() for name in names if left.get(name))


@lru_cache(maxsize=64)  # mails have one of a few sets of headers
def _listed(names: tuple[str, ...]) -> str:
    return _fold(":".join(names), ":")


def _fold(text: str, at: str = "") -> str:
    """Break a long text into lines, after `at` if given."""
    words = (
        [f"{word}{at}" for word in text.split(at)] if at else [text[i : i + _LINE] for i in range(0, len(text), _LINE)]
    )
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > _LINE:
            lines.append("")
        lines[-1] += word
    return "\r\n ".join(lines).removesuffix(at) if at else "\r\n ".join(lines)


def _key(pem: bytes) -> RSAPrivateKey:
    problem = "no private key in PEM without a password"
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, RSAPrivateKey) and key.key_size >= MIN_BITS:
        return key
    if isinstance(key, RSAPrivateKey):
        problem = f"a key of {key.key_size} bits"
    elif key is not None:
        problem = "another kind of key"
    raise OperatorError(f"TIDINGS_DKIM_KEY: must be an RSA key in PEM (got {problem}); make one of 2048 bits")
