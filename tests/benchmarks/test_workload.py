"""The benchmarks' events: the same from the same seed, in the shares they claim."""

from collections import Counter

from benchmarks.workload import (
    CART_SHARE,
    EVENTS_PER_VISITOR,
    START_MS,
    VIEW_SHARE,
    W_SHARES,
    W_SPAN_MS,
    ndjson,
    registrations,
    shop,
    w,
)
from schemas.codec import decode_event

COUNT = 20_000


def test_same_seed_gives_the_same_log_byte_for_byte_and_another_seed_another() -> None:
    for made in (lambda seed: w(seed, 500), lambda seed: shop(seed, 500), lambda seed: registrations(seed, 500)):
        first = b"".join(ndjson(made(1)))
        assert first == b"".join(ndjson(made(1)))
        assert first != b"".join(ndjson(made(2)))


def test_w_has_its_shares_of_types() -> None:
    counts = Counter(event.type for event in w(1, COUNT))
    for kind, share in W_SHARES:
        assert abs(counts[kind] / COUNT - share) < 0.01
    assert sum(counts.values()) == COUNT


def test_w_is_in_order_of_time_over_four_hours_and_ids_never_repeat() -> None:
    events = list(w(1, COUNT))
    times = [event.occurred_at_ms for event in events]
    assert times == sorted(times)
    assert times[0] == START_MS
    assert times[-1] < START_MS + W_SPAN_MS
    assert len({event.event_id for event in events}) == COUNT


def test_w_has_no_more_members_than_asked_for() -> None:
    assert len({event.member_id for event in w(1, COUNT, members=50)}) == 50


def test_shop_has_the_shares_of_the_real_shop_and_a_few_busy_visitors() -> None:
    events = list(shop(1, COUNT))
    counts = Counter(event.type for event in events)
    assert abs(counts["catalog.product.viewed"] / COUNT - VIEW_SHARE) < 0.01
    assert abs(counts["cart.item.added"] / COUNT - CART_SHARE) < 0.01
    visits = Counter(event.member_id for event in events)
    assert len(visits) <= COUNT / EVENTS_PER_VISITOR
    assert visits.most_common(1)[0][1] > 20 * COUNT / len(visits)


def test_one_registered_member_in_six_gives_no_consent() -> None:
    members = list(registrations(1, 6_000))
    refused = sum(not event.data["consent"]["email"] for event in members)
    assert abs(refused / 6_000 - 1 / 6) < 0.02
    assert {event.member_id for event in members} == {f"m{number}" for number in range(1, 6_001)}


def test_lines_are_events_that_the_codec_reads_back() -> None:
    assert [decode_event(line.strip()) for line in ndjson(w(1, 100))] == list(w(1, 100))
