"""Brokers: in memory, a local Kafka, or any cluster; one setting chooses; the product sees an address."""

from types import TracebackType
from typing import Protocol

from agents.topics import TOPICS, partitions_of
from schemas.errors import OperatorError
from tidings.brokers.local import LocalBroker, running
from tidings.brokers.memory import MemoryBroker
from tidings.config import Settings

__all__ = ["AttachedBroker", "Broker", "LocalBroker", "MemoryBroker", "attach", "open_broker"]


class Broker(Protocol):
    """A broker that runs, and is stopped by whoever started it. A context manager."""

    @property
    def kind(self) -> str:
        """`memory`, `local` or `cluster`."""

    @property
    def keeps(self) -> bool:
        """Whether what is in it is there after `stop` and a new start."""

    @property
    def note(self) -> str:
        """One line for people: what is kept, and where."""

    @property
    def bootstrap(self) -> str:
        """`host:port,…`."""

    def stop(self) -> None:
        """Stop what this object started. Idempotent."""

    def __enter__(self) -> "Broker":
        """Return the running broker."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""


class AttachedBroker:
    """A broker that somebody else runs; stopping is not ours."""

    def __init__(self, kind: str, bootstrap: str) -> None:
        self.kind = kind
        self.bootstrap = bootstrap
        self.keeps = kind != "memory"
        self.note = "in memory: nothing is kept after exit" if kind == "memory" else f"at {bootstrap}"

    def stop(self) -> None:
        """Leave it running."""

    def __enter__(self) -> "AttachedBroker":
        """Return it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave it running."""


def open_broker(settings: Settings) -> Broker:
    """Start the broker that `settings.broker` names, or attach to it if it is an address.

    Then use `settings.with_broker(broker.bootstrap)`. On the memory broker all topics exist at once; elsewhere
    `admin.create_topics` makes them.

    Raises:
        OperatorError: it cannot be started; says why and names the alternatives.
    """
    if settings.broker == "memory":
        return MemoryBroker({spec.name: partitions_of(spec, settings.partitions) for spec in TOPICS})
    if settings.broker == "local":
        return LocalBroker(
            settings.data_dir,
            settings.cache_dir,
            port=settings.kafka_port,
            heap_mb=settings.kafka_heap_mb,
            partitions=settings.partitions,
        )
    return AttachedBroker(settings.broker_kind, settings.bootstrap)


def attach(settings: Settings) -> Settings:
    """Return settings that point at a broker that already runs, for commands beside `up`.

    Raises:
        OperatorError: none runs, or it is the memory broker of another process and its address was not given.
    """
    if settings.broker == "local":
        address = running(settings.data_dir)
        if address is None:
            raise OperatorError(
                f"{settings.data_dir / 'kafka'}: no local broker runs on this data (got none);"
                " start it with 'python -m tidings up', or set TIDINGS_BROKER to host:port",
                exit_code=3,
            )
        return settings.with_broker(address)
    if settings.broker == "memory":
        raise OperatorError(
            "TIDINGS_BROKER: the memory broker lives inside the process that started it (got 'memory', no address);"
            " set TIDINGS_BROKER=memory://host:port as 'up' and 'demo' print it, or use local or host:port",
            exit_code=3,
        )
    return settings
