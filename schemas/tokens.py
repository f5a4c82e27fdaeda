"""Signed tokens: a value of ours in a link or a header that comes back to us from outside, and cannot be made up.

    token = base64url(msgpack of the value) "." base64url(HMAC-SHA256 over context and value, first 16 bytes)

A token holds no address, and does not expire: a link in an old mail must still lead where it led.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from schemas.errors import TidingsError

SIGNATURE_BYTES = 16  # 128 bits, as strong as any id of ours
SECRET_BYTES_MIN = 16

_T = TypeVar("_T", bound=msgspec.Struct)
_encode = msgspec.msgpack.Encoder().encode


class TokenError(TidingsError):
    """A token that we did not sign."""


class Signing(Generic[_T]):
    """Signs and reads one kind of token.

    Args:
        kind: the value, an `array_like` struct; fields are only added at its end.
        what: names the token in errors.
        context: tells this kind from the others that the same secret signs.
        longest: characters; a longer text is refused unread.
    """

    def __init__(self, kind: type[_T], what: str, context: bytes, longest: int) -> None:
        self._what = what
        self._context = context
        self._longest = longest
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def sign(self, secret: bytes, value: _T) -> str:
        """Make the token. `secret`: at least 16 bytes.

        Raises:
            ValueError: the secret is too short.
        """
        if len(secret) < SECRET_BYTES_MIN:
            raise ValueError(f"{self._what} secret: at least {SECRET_BYTES_MIN} bytes")
        body = _encode(value)
        return f"{_text(body)}.{_text(self._signature(secret, body))}"

    def read(self, secrets: Sequence[bytes], token: str) -> _T:
        """Read a token signed with any of `secrets` (the newest first; older ones hold after a change of secret).

        Raises:
            TokenError: it is not ours, whatever it is.
        """
        if len(token) > self._longest or token.count(".") != 1 or not token.isascii():
            raise TokenError(f"{self._what}: not a token of ours")
        try:
            body, signature = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
        except ValueError:
            raise TokenError(f"{self._what}: not a token of ours") from None
        # All are compared, each in constant time: how long it takes tells nothing.
        if not any([hmac.compare_digest(self._signature(secret, body), signature) for secret in secrets]):  # noqa: C419
            raise TokenError(f"{self._what}: not signed by us")
        try:
            return self._decode(body)
        except msgspec.MsgspecError:
            raise self.other_format() from None

    def other_format(self) -> TokenError:
        """Make the error for a token of ours that this build, or this use, cannot read."""
        return TokenError(f"{self._what}: a token of another format")

    def _signature(self, secret: bytes, body: bytes) -> bytes:
        return hmac.digest(secret, self._context + body, hashlib.sha256)[:SIGNATURE_BYTES]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
