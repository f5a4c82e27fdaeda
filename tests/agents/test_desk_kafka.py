"""A desk on Apache Kafka: written by one worker and read by another, restarted, after the log has lost its start."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from agents.inbox_desk import InboxDesk
from agents.topics import INBOX
from schemas.inbox import READ, InboxItem, read_inbox
from schemas.references import reference_of
from tests.agents.delivery_lab import send_command, until
from tests.agents.engine_bench import kafka_topics
from tidings.brokers.local import LocalBroker

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
FAR = 9_000_000_000_000


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    cache = Path(__file__).parents[2] / ".cache"
    with LocalBroker(tmp_path_factory.mktemp("kafka"), cache) as running, kafka_topics(running.bootstrap):
        yield running.bootstrap


def desk(bootstrap: str, path: Path) -> InboxDesk:
    made = InboxDesk({"bootstrap.servers": bootstrap}, path, lambda: 1)
    made.begin()
    return made


def item(n: int, member: str) -> InboxItem:
    return InboxItem(1, reference_of(send_command(n, member_id=member)), "", 1, FAR, f"T{n}", "text")


def titles(made: InboxDesk, member: str) -> list[str]:
    return [] if made.replica is None else [
        one.item.title for one in read_inbox(made.replica.get(member.encode()), 1)
    ]  # fmt: skip


async def test_what_one_worker_writes_another_reads_and_both_again_after_a_restart(
    bootstrap: str, tmp_path: Path
) -> None:
    one, two = desk(bootstrap, tmp_path / "one"), desk(bootstrap, tmp_path / "two")
    for n in range(20):
        await one.keep("site", item(n, f"m{n % 4}"))
    await until(lambda: all(len(titles(two, f"m{n}")) == 5 for n in range(4)))
    assert two.replica is not None
    (newest, *_) = read_inbox(two.replica.get(b"m1"), 1)
    await two.mark(newest, READ)
    await until(lambda: one.replica is not None and read_inbox(one.replica.get(b"m1"), 1)[0].read_ms == 1)
    await one.close()
    await two.keep("site", item(30, "m1"))
    again = desk(bootstrap, tmp_path / "one")
    await until(lambda: titles(again, "m1")[:1] == ["T30"])
    assert len(titles(again, "m1")) == 6 and titles(again, "m1") == titles(two, "m1")
    await again.close()
    await two.close()


async def test_a_log_that_lost_its_start_is_read_from_where_it_begins(bootstrap: str, tmp_path: Path) -> None:
    one = desk(bootstrap, tmp_path / "one")
    await one.keep("site", item(1, "gone"))
    await until(lambda: titles(one, "gone") == ["T1"])
    admin = AdminClient({"bootstrap.servers": bootstrap})
    count = len(admin.list_topics(INBOX, timeout=30).topics[INBOX].partitions)
    ends = [TopicPartition(INBOX, number, -1) for number in range(count)]
    for found in admin.delete_records(ends).values():
        found.result(30)
    await one.keep("site", item(2, "kept"))
    fresh = desk(bootstrap, tmp_path / "fresh")
    await until(lambda: titles(fresh, "kept") == ["T2"])
    assert titles(fresh, "gone") == [] and titles(one, "gone") == ["T1"]
    await fresh.close()
    await one.close()
