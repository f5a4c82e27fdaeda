"""What does reading one event cost, in each format that producers may write?"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from benchmarks.harness import Case, Row, Scale, Work, interleaved
from benchmarks.workload import w
from schemas.avro_codec import encode_event_avro, event_decoder, parse_schema, schema_text
from schemas.codec import decode_event, encode_event
from schemas.errors import StateError
from schemas.events import Event

NAME = "ingest"
QUESTION = "What does decoding one event cost: our JSON, RFC 3339 times, Segment's calls, Avro?"
METHOD = (
    "The same events of workload W in four spellings, decoded one by one as the engine does, checks included. The "
    "decoded type, member and time must be equal in all four. Avro: Confluent's wire format, writer's schema at hand."
)
EVENTS = 100_000
SEGMENT_NAMES = {
    "catalog.product.viewed": "Product Viewed",
    "cart.item.added": "Product Added",
    "order.created": "Order Completed",
}


def rfc3339(at_ms: int) -> str:
    """Spell an instant in UTC with milliseconds."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def with_text_time(event: Event) -> bytes:
    """Spell an event in our envelope, its time as text."""
    fields = orjson.loads(encode_event(event))
    fields["occurred_at"] = rfc3339(event.occurred_at_ms)
    return orjson.dumps(fields)


def as_segment(event: Event) -> bytes:
    """Spell an event as a `track` or `page` call of Segment's."""
    call: dict[str, Any] = {
        "messageId": event.event_id,
        "userId": event.member_id,
        "timestamp": rfc3339(event.occurred_at_ms),
    }
    properties = dict(event.data)
    if event.type in SEGMENT_NAMES:
        if "items" in properties:
            properties["products"] = properties.pop("items")
        call |= {"type": "track", "event": SEGMENT_NAMES[event.type], "properties": properties}
    else:
        call |= {"type": "page", "name": "Home", "properties": properties}
    return orjson.dumps(call)


def run(scale: Scale) -> list[Row]:
    """Measure."""
    events = list(w(3, scale.of(EVENTS)))
    schema = parse_schema(schema_text("event"))
    decode_either = event_decoder(lambda schema_id: schema)
    spelled: dict[str, tuple[list[bytes], Callable[[bytes | None], Event]]] = {
        "JSON, ms": ([encode_event(event) for event in events], decode_event),
        "JSON, RFC 3339": ([with_text_time(event) for event in events], decode_event),
        "Segment": ([as_segment(event) for event in events], decode_event),
        "Avro": ([encode_event_avro(event, 1) for event in events], decode_either),
    }
    wanted = [(event.type, event.member_id, event.occurred_at_ms) for event in events]
    for name, (values, decode) in spelled.items():
        read = map(decode, values)
        if [(event.type, event.member_id, event.occurred_at_ms) for event in read] != wanted:
            raise StateError(f"ingest: {name} reads other events than were written; see the tests of schemas/")

    def bound(values: list[bytes], decode: Callable[[bytes | None], Event]) -> Case:
        def case() -> Work:
            for value in values:
                decode(value)
            return Work(len(values))

        return case

    rows = interleaved({name: bound(*given) for name, given in spelled.items()}, scale, "event")
    for row in rows:
        values = spelled[row.case][0]
        row.more = {"bytes per event": round(sum(map(len, values)) / len(values))}
    return rows
