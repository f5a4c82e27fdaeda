"""What a record's bytes are: an event, or something that is refused as a dead letter, at its place in the log."""

from collections.abc import Callable

from schemas.codec import decode_event, plain_events
from schemas.errors import DecodeError
from schemas.events import Event, Record
from schemas.records import DeadLetter
from streams.epoch import Epoch
from streams.views import Views


class Intake(Views):
    """The part of an engine that reads records."""

    __slots__ = ()
    partition: int
    topic: str
    applied_offset: int
    _decode: Callable[[bytes | None], Event]
    _out: Epoch

    def _read_all(self, records: list[Record]) -> list[Event | None]:
        """Decode records, those that are new."""
        if self._decode is not decode_event:
            return [self._read(record) for record in records]
        events = plain_events([record.value for record in records])
        return [self._read(records[n]) if event is None else event for n, event in enumerate(events)]

    def _read(self, record: Record) -> Event | None:
        """Decode one record; what is no event becomes a dead letter and None."""
        if record.offset <= self.applied_offset:
            return None
        try:
            return self._decode(record.value)
        except DecodeError as error:
            self._refuse(record, error.reason, error.message)
            return None

    def _refuse(self, record: Record, reason: str, message: str) -> None:
        self._out.dead_letters.append(
            DeadLetter(
                self.topic, self.partition, record.offset, reason, message, record.append_ms, record.key, record.value
            )
        )
