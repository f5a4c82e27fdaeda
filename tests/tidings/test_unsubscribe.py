"""The unsubscribe address: GET changes nothing, POST acts at once, made-up links do nothing."""

from schemas.unsubscribe import Leaving, sign
from tidings.unsubscribe import answer

SECRET = b"s" * 32
TOKEN = sign(SECRET, Leaving(1, "m1", "email", "marketing", "c" * 32))


def test_get_shows_a_button_and_changes_nothing() -> None:
    got = answer("GET", TOKEN, [SECRET], 5)
    assert got.status == 200 and got.event is None and '<form method="post">' in got.body


def test_post_takes_consent_back() -> None:
    got = answer("POST", TOKEN, [SECRET], 5)
    assert got.status == 200 and got.event is not None
    assert (got.event.type, got.event.member_id, got.event.occurred_at_ms) == ("consent.revoked", "m1", 5)


def test_a_made_up_link_and_another_method_do_nothing() -> None:
    assert (
        answer("POST", TOKEN[:-3], [SECRET], 5).event is None and answer("POST", TOKEN[:-3], [SECRET], 5).status == 404
    )
    assert (
        answer("DELETE", TOKEN, [SECRET], 5) == answer("DELETE", TOKEN, [SECRET], 6)
        and answer("DELETE", TOKEN, [SECRET], 5).status == 405
    )
