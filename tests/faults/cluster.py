"""Three brokers, each a controller as well: what is acknowledged is on two of them, so that any one may go."""

import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.faults.load import Spoilt
from tidings.brokers import LocalBroker
from tidings.brokers.local import HOST, _free_port

NODES = 3
HEAP_MB = 256
WHOLE_S = 180.0  # until all copies are in step again; seconds on an idle machine
SAFE = """
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
log.cleaner.backoff.ms=200
"""


class Cluster:
    """Nodes are counted from 1, as Kafka's ids. A node that went comes back on its own data and ports."""

    def __init__(self, home: Path, cache: Path) -> None:
        self._home, self._cache = home, cache
        self._ports = {number: _free_port(0) for number in range(1, NODES + 1)}
        self._controllers = {number: _free_port(0) for number in self._ports}
        self._cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode().replace("-", "x", 1)
        self._nodes: dict[int, LocalBroker] = {}
        self.bootstrap = ",".join(f"{HOST}:{port}" for port in self._ports.values())
        with ThreadPoolExecutor(NODES) as pool:  # none is ready before two are there
            list(pool.map(self.start, self._ports))

    def start(self, number: int) -> None:
        """Start a node that does not run."""
        voters = ",".join(f"{other}@{HOST}:{port}" for other, port in self._controllers.items())
        own = f"{HOST}:{self._ports[number]}"
        more = [
            f"node.id={number}",
            f"controller.quorum.voters={voters}",
            f"listeners=PLAINTEXT://{own},CONTROLLER://{HOST}:{self._controllers[number]}",
            f"advertised.listeners=PLAINTEXT://{own}",
            SAFE,
        ]
        self._nodes[number] = LocalBroker(
            self._home / f"node-{number}", self._cache,
            port=self._ports[number], heap_mb=HEAP_MB, more="\n".join(more), cluster_id=self._cluster_id,
        )  # fmt: skip
        if self._nodes[number].bootstrap != own:
            raise Spoilt("another program took Kafka's port; run the seed again")

    def leader(self, topic: str, partition: int) -> int:
        """Return the node that leads a partition."""
        return int(self._partitions(topic)[partition].leader)

    def replace(self, number: int, away_s: float, end: Callable[[LocalBroker], None]) -> None:
        """End a node, have it away for a while, and wait until every copy is in step again."""
        end(self._nodes[number])
        time.sleep(away_s)
        self.start(number)
        deadline = time.monotonic() + WHOLE_S
        while not self._whole():
            if time.monotonic() > deadline:
                raise RuntimeError(f"node {number} is back, but not all copies are in step after {WHOLE_S:.0f} s")
            time.sleep(0.2)

    def close(self) -> None:
        """Kill all nodes."""
        for node in self._nodes.values():
            node.kill()

    def _whole(self) -> bool:
        try:
            metadata: Any = self._admin().list_topics(timeout=5)
        except KafkaException:
            return False
        partitions = [p for topic in metadata.topics.values() for p in topic.partitions.values()]
        return bool(partitions) and all(len(p.isrs) == len(p.replicas) and p.leader > 0 for p in partitions)

    def _partitions(self, topic: str) -> dict[int, Any]:
        metadata: Any = self._admin().list_topics(topic, timeout=30)
        return dict(metadata.topics[topic].partitions)

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
