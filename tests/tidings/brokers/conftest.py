from collections.abc import Iterator
from pathlib import Path

import pytest

from tidings.brokers import open_broker
from tidings.config import Settings


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a local Kafka that all tests of this package share."""
    place: Path = tmp_path_factory.mktemp("kafka")
    env = {"TIDINGS_DATA_DIR": str(place), "TIDINGS_PARTITIONS": "3", "TIDINGS_KAFKA_PORT": "0"}
    settings = Settings.from_env({"TIDINGS_BROKER": "local", **env})
    with open_broker(settings) as broker:
        yield settings.with_broker(broker.bootstrap)
