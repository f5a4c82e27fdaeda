"""What the worker needs of an engine."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from schemas.events import Record
from streams.breaker import Breaker
from streams.epoch import Epoch
from tables.store import StateStore


class Engine(Protocol):
    """What the worker needs of `streams.engine.PartitionEngine`.

    `breathe`: called now and then in a long `run`, when a mass of timers is due at once.
    """

    breathe: Callable[[], None]

    @property
    def next_fire_ms(self) -> int | None:
        """Clock value at which the earliest pending timer fires, lateness included."""

    @property
    def clock_ms(self) -> int:
        """The partition's clock."""

    @property
    def applied_offset(self) -> int:
        """Offset of the last record applied; -1 before the first."""

    @property
    def breaker(self) -> Breaker:
        """Which campaigns fail too often."""

    def run(self, records: Sequence[Record]) -> Epoch:
        """Apply records in log order."""

    def written(self, epoch: Epoch) -> None:
        """Learn that an epoch is in the store."""

    def member_view(self, member_id: str) -> dict[str, Any] | None:
        """Describe one member."""

    def campaigns_view(self) -> list[dict[str, Any]]:
        """Describe the campaigns this partition runs."""


EngineFactory = Callable[[int, StateStore], Engine]
