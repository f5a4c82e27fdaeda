"""Which of two statuses stands: receipts come late, twice and out of order."""

from itertools import permutations

import pytest

from sinks.channels.receipts import DELIVERY, is_late, later


@pytest.mark.parametrize(
    ("told", "stands"),
    [
        (["accepted", "sent", "delivered"], "delivered"),
        (["accepted", "sent", "sent"], "sent"),
        (["sent", "expired", "delivered"], "delivered"),
        (["accepted", "unknown"], "unknown"),
        (["sent", "undelivered"], "undelivered"),
    ],
)
def test_the_order_in_which_receipts_come_changes_nothing(told: list[str], stands: str) -> None:
    for order in permutations(told):
        known = "requested"
        for status in order:
            known = later(known, status)
        assert known == stands, order


def test_what_is_final_stays_whatever_comes() -> None:
    assert later("delivered", "undelivered") == "delivered" and later("bounced", "delivered") == "bounced"
    for status in DELIVERY:
        assert later(status, "accepted") in (status, "accepted")


def test_a_status_that_nobody_knows_changes_nothing() -> None:
    assert later("sent", "teleported") == "sent" and later("", "sent") == "sent"


def test_a_delivery_after_it_was_given_up_is_late() -> None:
    assert is_late("expired", "delivered") and not is_late("sent", "delivered")
