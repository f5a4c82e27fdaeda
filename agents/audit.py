"""Comparisons that find out when the logs and the state do not fit: after a recovery, and at each write.

The epoch audit: nobody but the partition's owner writes to its changelog, so the offsets that the broker gives our
records have no gap. A gap is the late write of a worker that had the partition before. Its records are older than our
state and would win a compaction and every later recovery: what it wrote is read, and ours is written again after it.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import aiokafka
import structlog
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from schemas.errors import StateError
from tables.store import StateStore

READ_S = 30.0
META_PREFIX = b"\x00"

Changes = dict[bytes, bytes | None]

log = structlog.get_logger(__name__)


class ChangelogPlace:
    """Where our own next record of one changelog partition must land. None while nobody knows."""

    def __init__(self, last_offset: int | None) -> None:
        self.next: int | None = None if last_offset is None else last_offset + 1

    def wrote(self, last_offset: int | None, count: int) -> tuple[int, int] | None:
        """Note `count` records that ended at `last_offset` (None: the broker could not tell).

        Returns:
            The offsets [first, end) among which are records that are not ours; None when all are.
        """
        expected, self.next = self.next, None if last_offset is None else last_offset + 1
        if last_offset is None:
            self.next = None if expected is None else expected + count
            return None
        if expected is None or last_offset + 1 - count <= expected:
            return None
        return expected, last_offset + 1


def to_repair(found: Changes, store: StateStore) -> Changes:
    """Pick what must be written again: keys whose last value in the changelog is not the store's."""
    members = [key for key in found if not key.startswith(META_PREFIX)]
    ours: Changes = dict(zip(members, store.get_many(members), strict=True))
    meta = store.meta()
    ours |= {key: meta.get(key) for key in found if key.startswith(META_PREFIX)}
    return {key: value for key, value in ours.items() if found[key] != value}


async def read_changelog(app: Any, topic: str, partition: int, first: int, end: int) -> Changes:
    """Read offsets [first, end) of a changelog partition: the last value of each key.

    Raises:
        TimeoutError: the broker did not answer for READ_S.
    """
    conf, place = app.conf, aiokafka.TopicPartition(topic, partition)
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=driver.server_list(app.transport.url, app.transport.default_port),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        **driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
    )
    found: Changes = {}
    await consumer.start()
    try:
        consumer.assign([place])
        consumer.seek(place, first)
        async with asyncio.timeout(READ_S):
            while await consumer.position(place) < end:
                for records in (await consumer.getmany(place, timeout_ms=500)).values():
                    found |= {record.key: record.value for record in records if record.offset < end}
    finally:
        await consumer.stop()
    return found


def require_whole(ends: Mapping[TP, int | None], read: Mapping[TP, int | None]) -> None:
    """Refuse to begin on records that were not read to the changelog's end. `read`: last offsets, -1 for none.

    Faust goes on where asking for the ends took too long, and a worker that lost the partition may still have written.

    Raises:
        StateError: an end lies behind what was read, or before it.
    """
    for tp, end in sorted(ends.items()):
        last = read.get(tp)
        if end is not None and last is not None and last >= end:  # Faust does not look where the end is 0 or 1
            raise changelog_too_short(tp.topic, f"end {end} of partition {tp.partition}, stored {last}")
        if end is not None and (-1 if last is None else last) + 1 < end:
            raise StateError(
                f"{tp.topic}, partition {tp.partition}: not read to its end (got {last} of {end - 1}): the broker"
                " answered late, or a worker that had the partition before wrote to it; start this worker again"
            )


def changelog_too_short(topic: str, got: str) -> StateError:
    """Say that a local store is ahead of the changelog."""
    return StateError(
        f"topic {topic}: ends before what a local store holds (got {' '.join(got.split())}): the topic was made anew or"
        " lost its tail; bring it back, or take what it still has: python -m tidings tables rebuild"
    )


def require_log(topic: str, changelog: str, begin: int, end: int, partition: int, applied: int) -> int:
    """Compare what is applied with the log.

    Returns:
        How many records were deleted before they were applied.

    Raises:
        StateError: the log ends before what is applied: new records would be skipped as already applied.
    """
    if applied >= end:
        raise StateError(
            f"{topic}, partition {partition}: ends before what is applied (got end {end}, applied {applied}): the topic"
            " was made anew or lost its tail, and its next records would be taken for old ones; bring the log back, or"
            f" start over without the state: delete topic {changelog}, then python -m tidings topics create and"
            " python -m tidings tables rebuild"
        )
    return max(0, begin - applied - 1) if applied >= 0 else 0
