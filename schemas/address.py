"""Addresses in one spelling, and their digests: two spellings of one mailbox or number are one address."""

import unicodedata

from schemas.ids import h128

DIGEST_DIGITS = 16
_PHONES = frozenset({"sms", "viber", "call", "voice", "whatsapp"})


def normalise(channel: str, address: str) -> str:
    """Spell an address in the one way we compare: mail in lower case, phones as digits; others without outer blanks.

    Mail providers' own rules (dots, `+tag`) are not known here: such addresses stay different.
    """
    text = unicodedata.normalize("NFKC", address).strip()
    if channel == "email":
        return text.casefold()
    if channel in _PHONES:
        digits = "".join(c for c in text if c.isascii() and c.isdigit())
        return digits.removeprefix("00") if not text.startswith("+") else digits
    return text


def address_digest(channel: str, address: str) -> str:
    """Name an address without spelling it: for receipts, which must not carry addresses."""
    return h128("address", channel, normalise(channel, address))[:DIGEST_DIGITS]
