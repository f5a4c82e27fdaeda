"""Quix Streams: one stateful step on RocksDB with its changelog.

State belongs to a message's key, and nothing wakes a key that is silent. To fire exactly, all members of a partition
share one key here, views stand under the member, and due times in buckets of a second.
"""

import sys

import orjson
from quixstreams import Application, State, message_context
from quixstreams.models import Deserializer

bootstrap, events_name, commands_name, place = sys.argv[1:5]
WITHIN_MS, LATENESS_MS = 7_200_000, 5_000


class SameKey(Deserializer):
    """Gives every record of a partition one key."""

    def __call__(self, value: bytes, ctx: object) -> bytes:
        """Return it."""
        return b"all"


class Bytes(Deserializer):
    """Leaves decoding to the step."""

    def __call__(self, value: bytes, ctx: object) -> object:
        """Decode."""
        return orjson.loads(value)


clocks: dict[int, int] = {}
looked: dict[int, int] = {}


def step(said: dict, _key: object, now_ms: int, _headers: object, state: State) -> list[dict]:
    """Take one event; give the commands that are due."""
    partition = message_context().partition
    clock = clocks[partition] = max(clocks.get(partition, 0), now_ms)
    out: list[dict] = []
    second = (clock - LATENESS_MS) // 1000
    first = looked.get(partition) or state.get("looked", second)
    for bucket in range(first, second):
        for due, member, product, anchor in state.get(f"due/{bucket}", ()):
            views = state.get(f"m/{member}", {})
            if views.get(product) == [due, anchor]:
                del views[product]
                state.set(f"m/{member}", views)
                out.append({"member_id": member, "anchor": anchor})
        state.delete(f"due/{bucket}")
    if second > first:
        state.set("looked", second)
    looked[partition] = max(first, second)
    kind = said["type"]
    if kind == "catalog.product.viewed":
        member, product, due = said["member_id"], said["data"]["product_id"], now_ms + WITHIN_MS
        views = state.get(f"m/{member}", {})
        views[product] = [due, said["event_id"]]
        state.set(f"m/{member}", views)
        bucket = f"due/{due // 1000}"
        state.set(bucket, [*state.get(bucket, []), [due, member, product, said["event_id"]]])
    elif kind == "order.created":
        member = said["member_id"]
        views = state.get(f"m/{member}", {})
        gone = [i["product_id"] for i in said["data"]["items"] if i["product_id"] in views]
        gone = [product for product in gone if now_ms < views[product][0]]
        if gone:
            state.set(f"m/{member}", {product: view for product, view in views.items() if product not in gone})
    return out


app = Application(
    broker_address=bootstrap, consumer_group="quix", auto_offset_reset="earliest", state_dir=place, loglevel="WARNING",
    producer_extra_config={"linger.ms": 5}, consumer_extra_config={"session.timeout.ms": 10000},
)  # fmt: skip
events = app.topic(events_name, key_deserializer=SameKey(), value_deserializer=Bytes())
commands = app.topic(commands_name, key_serializer="bytes", value_serializer="json")
frame = app.dataframe(events)
frame = frame.apply(step, stateful=True, expand=True, metadata=True)
frame = frame.to_topic(commands, key=lambda value: value["member_id"].encode())
app.run()
