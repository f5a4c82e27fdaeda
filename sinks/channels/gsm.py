"""How many parts a short message has, and their bytes: GSM 03.38 (3GPP TS 23.038) or UCS-2, concatenated by a header.

A message of one part holds 160 septets or 70 UTF-16 units. Beyond that every part gives 6 of its 140 bytes to a header
that says which part it is (3GPP TS 23.040 §9.2.3.24.1, 8-bit reference), and holds 153 or 67. A character of the
extension table takes two septets, one outside the basic plane two units, and neither is cut in two.
"""

from dataclasses import dataclass

GSM7, UCS2 = "gsm7", "ucs2"
SINGLE = {GSM7: 160, UCS2: 70}
PART = {GSM7: 153, UCS2: 67}
PARTS_MAX = 255  # one byte of the header

_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = {
    "\f": 0x0A, "^": 0x14, "{": 0x28, "}": 0x29, "\\": 0x2F, "[": 0x3C, "~": 0x3D, "]": 0x3E, "|": 0x40, "€": 0x65,
}  # fmt: skip
_ESCAPE = "\x1b"
_SEPTETS: dict[str, bytes] = {letter: bytes([at]) for at, letter in enumerate(_BASIC) if letter != _ESCAPE}
_SEPTETS |= {letter: bytes([0x1B, at]) for letter, at in _EXTENSION.items()}
_LETTERS = {raw: letter for letter, raw in _SEPTETS.items()}


@dataclass(frozen=True, slots=True)
class SmsPlan:
    """One short message: its encoding, its length in septets or UTF-16 units, and the text of each part."""

    encoding: str
    units: int
    parts: tuple[str, ...]


def plan(text: str) -> SmsPlan:
    """Choose the encoding, GSM where every character has a place in it, and cut the text into parts."""
    encoding = GSM7 if fits_gsm(text) else UCS2
    widths = [_width(letter, encoding) for letter in text]
    units = sum(widths)
    if units <= SINGLE[encoding]:
        return SmsPlan(encoding, units, (text,))
    parts: list[str] = []
    start, filled = 0, 0
    for at, width in enumerate(widths):
        if filled + width > PART[encoding]:
            parts.append(text[start:at])
            start, filled = at, 0
        filled += width
    parts.append(text[start:])
    return SmsPlan(encoding, units, tuple(parts))


def plain(text: str) -> str:
    """Write spaces that do not break as plain ones: a phone breaks where it likes, and one of them makes all UCS-2."""
    return text.replace("\u00a0", " ").replace("\u202f", " ")


def fits_gsm(text: str) -> bool:
    """Tell whether every character is in the GSM alphabet or its extension."""
    return all(letter in _SEPTETS for letter in text)


def foreign(text: str) -> str:
    """Return the characters, each once, that make a text UCS-2."""
    return "".join(dict.fromkeys(letter for letter in text if letter not in _SEPTETS))


def encode(text: str, encoding: str) -> bytes:
    """Spell one part's text as SMPP carries it: a septet in each byte, or UTF-16 big-endian."""
    if encoding == UCS2:
        return text.encode("utf-16-be", "replace")
    return b"".join([_SEPTETS[letter] for letter in text])


def decode_gsm(raw: bytes) -> str:
    """Read septets in bytes; what has no letter becomes a space, as TS 23.038 §6.2.1.1 wants."""
    found, at = [], 0
    while at < len(raw):
        size = 2 if raw[at] == 0x1B else 1
        found.append(_LETTERS.get(raw[at : at + size], " "))
        at += size
    return "".join(found)


def header(reference: int, total: int, number: int) -> bytes:
    """Make the user data header of part `number` (from 1) of `total`."""
    return bytes([5, 0, 3, reference & 0xFF, total, number])


def _width(letter: str, encoding: str) -> int:
    if encoding == UCS2:
        return 2 if ord(letter) > 0xFFFF else 1
    return len(_SEPTETS[letter])
