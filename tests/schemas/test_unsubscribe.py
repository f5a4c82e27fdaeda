"""Unsubscribe tokens: only ours are read, each names one member's one message."""

import pytest

from schemas.tokens import TokenError
from schemas.unsubscribe import Leaving, revocation, sign, unsubscribe_url, verify

SECRET, OLD = b"s" * 32, b"o" * 32
LEAVING = Leaving(1, "m1", "email", "marketing", "c" * 32)


def test_a_token_reads_back_and_holds_for_older_secrets() -> None:
    assert verify([SECRET], sign(SECRET, LEAVING)) == LEAVING
    assert verify([SECRET, OLD], sign(OLD, LEAVING)) == LEAVING
    assert (
        unsubscribe_url("https://shop.example/u/", SECRET, LEAVING) == f"https://shop.example/u/{sign(SECRET, LEAVING)}"
    )


def test_every_changed_character_is_noticed() -> None:
    token = sign(SECRET, LEAVING)
    for at in range(len(token) - 1):  # the last one may hold bits that do not count
        other = "A" if token[at] != "A" else "B"
        with pytest.raises(TokenError):
            verify([SECRET], token[:at] + other + token[at + 1 :])


@pytest.mark.parametrize("token", ["", ".", "a.b", "a.b.c", "é.é", "x" * 10_000, "%%%.%%%", "\x00.\x00"])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(TokenError):
        verify([SECRET], token)


def test_another_secret_signs_nothing_here() -> None:
    with pytest.raises(TokenError):
        verify([SECRET], sign(OLD, LEAVING))
    with pytest.raises(ValueError, match="16 bytes"):
        sign(b"short", LEAVING)


def test_the_longest_member_id_makes_a_token_that_is_read() -> None:
    long = Leaving(1, "m" * 256, "email", "marketing", "c" * 32)
    assert verify([SECRET], sign(SECRET, long)) == long


def test_pressing_twice_is_one_event() -> None:
    first, second = revocation(LEAVING, 1), revocation(LEAVING, 2)
    assert first.event_id == second.event_id and first.type == "consent.revoked"
    assert first.member_id == "m1" and first.data["channel"] == "email"
