import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.e2e.product import until
from tidings.brokers import LocalBroker
from tidings.config import Settings

PARTITIONS = 3
SESSION_MS = 6_000


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a local Kafka that all tests of this package share."""
    settings = Settings()
    with LocalBroker(tmp_path_factory.mktemp("kafka"), settings.cache_dir, heap_mb=256) as broker:
        yield broker.bootstrap


@pytest.fixture
def fresh(kafka: str, tmp_path: Path) -> Settings:
    """Settings of that Kafka, without topics and groups of the test before, with a data directory of one's own."""
    admin = AdminClient({"bootstrap.servers": kafka})
    if names := topics_of(admin):
        for future in admin.delete_topics(names, operation_timeout=20).values():
            future.result()
        until(lambda: not topics_of(admin), "the broker has forgotten the topics of the test before", 60, 0.1)
    until(lambda: not remaining_groups(admin), "the groups of the test before are gone", 3 * SESSION_MS / 1_000, 0.3)
    return Settings.from_env(
        {
            "TIDINGS_BROKER": kafka,
            "TIDINGS_DATA_DIR": str(tmp_path / "data"),
            "TIDINGS_PARTITIONS": str(PARTITIONS),
            "TIDINGS_SESSION_TIMEOUT_MS": str(SESSION_MS),
        }
    )


def topics_of(admin: AdminClient) -> list[str]:
    """List topics but the broker's own."""
    return [name for name in admin.list_topics(timeout=10).topics if not name.startswith("__")]


def remaining_groups(admin: AdminClient) -> list[str]:
    """Delete groups; static members stay until their session times out."""
    groups = [group.group_id for group in admin.list_consumer_groups().result().valid or []]
    for future in (admin.delete_consumer_groups(groups) if groups else {}).values():
        with contextlib.suppress(KafkaException):
            future.result()
    return groups
