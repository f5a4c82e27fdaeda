"""Delivery's outbox."""

import asyncio

import pytest
from confluent_kafka import Consumer, TopicPartition

from agents.delivery_state import SENT_TOPIC
from agents.send_log import Outbox
from tidings.brokers.memory import MemoryBroker


async def test_settled_waits_for_a_record_whose_sender_was_called_off() -> None:
    """A revoke calls senders off; the restore that follows must find what they wrote."""
    broker = MemoryBroker({SENT_TOPIC: 1})
    kafka = {"bootstrap.servers": broker.bootstrap, "log_level": 0}
    outbox = Outbox(kafka)
    reader = Consumer({**kafka, "group.id": "reader"})
    try:
        sender = asyncio.create_task(outbox.send(SENT_TOPIC, b"id", b"sent", 0))
        await asyncio.sleep(0)
        sender.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sender
        await asyncio.wait_for(outbox.settled(), 20)
        assert reader.get_watermark_offsets(TopicPartition(SENT_TOPIC, 0), timeout=5)[1] == 1
    finally:
        reader.close()
        await asyncio.to_thread(outbox.close)
        broker.stop()
