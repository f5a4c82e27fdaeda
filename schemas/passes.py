"""Passes: a signed token that lets somebody in for a while. Form: `schemas/tokens.py`.

One kind opens a member's inbox, for the page of the shop that shows it; one is an operator's seat at the call centre.
"""

from collections.abc import Sequence

import msgspec

from schemas.tokens import Signing, TokenError

FORMAT = 1
MAX_TOKEN = 500


class Pass(msgspec.Struct, frozen=True, array_like=True):
    """Who it is for, and until when. Fields are only added at the end."""

    format: int
    name: str
    until_ms: int


CALLS = Signing(Pass, "calls", b"tidings calls v1\0", MAX_TOKEN)
INBOX = Signing(Pass, "inbox", b"tidings inbox v1\0", MAX_TOKEN)


def sign_pass(kind: Signing[Pass], secret: bytes, name: str, until_ms: int) -> str:
    """Make a pass. `secret`: at least 16 bytes."""
    return kind.sign(secret, Pass(FORMAT, name, until_ms))


def read_pass(kind: Signing[Pass], secrets: Sequence[bytes], token: str, now_ms: int) -> Pass:
    """Read a pass signed with any of `secrets`.

    Raises:
        TokenError: it is not ours, whatever it is, or it is over.
    """
    found = kind.read(secrets, token)
    if found.format != FORMAT:
        raise kind.other_format()
    if found.until_ms <= now_ms:
        raise TokenError("pass: is over")
    return found
