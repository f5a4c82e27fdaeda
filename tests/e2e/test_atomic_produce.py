import json
import time

import pytest
from confluent_kafka import Consumer, TopicPartition

from agents.topics import EVENTS
from schemas.errors import OperatorError
from tests.e2e.product import Product, now_ms, until
from tidings.brokers.admin import create_topics
from tidings.config import Settings
from tidings.producing import ATOMIC_MS, Sender

pytestmark = pytest.mark.kafka


CAMPAIGN = """\
campaign: carts
pattern: cart.item.added as c then no order.created for 2s
send: {channel: email, template: cart_reminder, data: {name: c.name}}
"""


def event(number: int, kind: str, **data: object) -> bytes:
    row = {"event_id": f"e{number}", "type": kind, "member_id": "m1", "occurred_at": now_ms(), "data": data}
    return json.dumps(row).encode()


def read_committed(settings: Settings, seconds: float) -> list[bytes]:
    """What a reader of committed records sees: until there are any, at most for `seconds`."""
    consumer = Consumer(
        {"bootstrap.servers": settings.bootstrap, "group.id": "t", "isolation.level": "read_committed", "log_level": 0}
    )
    consumer.assign([TopicPartition(EVENTS, partition, 0) for partition in range(settings.partitions)])
    found: list[bytes] = []
    end = time.monotonic() + seconds
    while not found and time.monotonic() < end:
        found += [message.value() or b"" for message in consumer.consume(100, 0.5) if message.error() is None]
    consumer.close()
    return found


def test_records_of_an_atomic_sender_are_seen_from_its_commit_on_and_not_before(fresh):
    create_topics(fresh)
    sender = Sender(fresh, EVENTS, atomic_ms=ATOMIC_MS)
    for number in range(100):
        sender.send(b"%d" % number, b"m1")
    sender.flush()
    assert sender.taken == 100
    assert read_committed(fresh, 3) == []
    sender.commit()
    assert sender.trouble() == ""
    assert read_committed(fresh, 60)[:3] == [b"0", b"1", b"2"]


def test_more_time_than_the_brokers_allow_is_refused_with_the_setting_to_change(fresh):
    create_topics(fresh)
    with pytest.raises(
        OperatorError, match=r"no transaction of 16m .*INVALID_TRANSACTION_TIMEOUT.*transaction\.max\.tim"
    ) as told:
        Sender(fresh, EVENTS, atomic_ms=16 * 60_000)
    assert told.value.exit_code == 3


def test_of_an_atomic_sender_with_a_record_that_was_not_taken_nothing_is_seen(fresh):
    create_topics(fresh)
    sender = Sender(fresh, EVENTS, atomic_ms=ATOMIC_MS)
    sender.send(b"good", b"m1")
    sender.send(b"x" * (50 << 20), b"m1")
    sender.commit()
    assert (sender.taken, sender.failed) == (0, 2)
    assert "MSG_SIZE_TOO_LARGE" in sender.trouble()
    follower = Sender(fresh, EVENTS)
    follower.send(b"after", b"m1")
    follower.flush()
    assert read_committed(fresh, 60) == [b"after"]


def test_what_a_transaction_took_back_decides_nothing_and_its_end_holds_up_no_timer(fresh):
    with Product(fresh) as product:
        product.publish("carts", CAMPAIGN)
        product.send(event(0, "member.registered", email="m1@shop.example", consent={"email": True}))
        taken_back = Sender(fresh, EVENTS, atomic_ms=ATOMIC_MS)
        taken_back.send(event(1, "cart.item.added", name="Kettle"), b"m1")
        taken_back.abort()
        committed = Sender(fresh, EVENTS, atomic_ms=ATOMIC_MS)
        committed.send(event(2, "cart.item.added", name="Lamp"), b"m1")
        committed.commit()
        assert committed.trouble() == ""
        until(lambda: product.smtp.received, "the mail of the committed cart came", 120)
        log = product.drain(120)
    assert [command.data["name"] for command in log.commands.values()] == ["Lamp"]
