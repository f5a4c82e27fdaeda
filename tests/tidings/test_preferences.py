"""The preference centre: looking changes nothing, what is chosen becomes events, what is made up does nothing."""

import pytest

from schemas.unsubscribe import Leaving, sign
from tidings.preferences import choices
from tidings.unsubscribe import answer

SECRET = b"s" * 32
TOKEN = sign(SECRET, Leaving(1, "m1", "email", "marketing", "c" * 32))
CHANNELS = ("email", "sms", "shop<'>")


def post(body: bytes, token: str = TOKEN, now_ms: int = 5):
    return choices("POST", token, [SECRET], CHANNELS, body, now_ms)


def test_looking_shows_each_channel_as_it_is_and_changes_nothing() -> None:
    got = choices("GET", TOKEN, [SECRET], CHANNELS, b"", 5)
    assert got.status == 200 and got.events == () and got.body.count(" checked>") == 3
    assert "<legend>SMS</legend>" in got.body and "shop<" not in got.body and "m1" not in got.body


def test_what_is_chosen_becomes_events_in_order_and_the_rest_stays() -> None:
    got = post(b"sms=yes&email=no")
    assert got.status == 200
    assert [(event.type, event.member_id, event.data["channel"]) for event in got.events] == [
        ("consent.revoked", "m1", "email"),
        ("consent.granted", "m1", "sms"),
    ]
    assert all(event.data["source"] == "preference-centre" and event.data["proof"] == "c" * 32 for event in got.events)
    assert post(b"email=keep&sms=keep").events == ()


def test_a_choice_made_anew_counts_anew() -> None:
    ids = [post(b"sms=" + word, now_ms=at).events[0].event_id for at, word in enumerate((b"yes", b"no", b"yes"))]
    assert len(set(ids)) == 3


@pytest.mark.parametrize("body", [b"", b"\xff", b"x=yes", b"sms=maybe", b"&" * 4_000, b"a=b&" * 60, b"fax=yes&m=no"])
def test_what_is_no_choice_changes_nothing(body: bytes) -> None:
    got = post(body)
    assert got.status in (200, 400) and got.events == () and "are kept" not in got.body


def test_a_made_up_link_and_another_method_do_nothing() -> None:
    assert post(b"sms=yes", TOKEN[:-3]).status == 404 and post(b"sms=yes", TOKEN[:-3]).events == ()
    got = choices("DELETE", TOKEN, [SECRET], CHANNELS, b"sms=yes", 5)
    assert (got.status, got.events) == (405, ())


def test_the_unsubscribe_page_leads_to_it() -> None:
    assert f'<a href="{TOKEN}/choices">' in answer("GET", TOKEN, [SECRET], 5).body
