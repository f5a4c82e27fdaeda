"""Faust as its tutorial has it: one agent, one table on RocksDB, one write per event. Timers: a heap per partition."""

import heapq
import sys
from collections import defaultdict

import faust
import orjson

bootstrap, events_name, commands_name, place = sys.argv[1:5]
WITHIN_MS, LATENESS_MS = 7_200_000, 5_000

app = faust.App(
    "plain", broker=f"kafka://{bootstrap}", store="rocksdb://", datadir=place, topic_partitions=8, web_enabled=False,
    value_serializer="raw", key_serializer="raw", topic_disable_leader=True, consumer_auto_offset_reset="earliest",
    producer_linger_ms=5,
)  # fmt: skip
events = app.topic(events_name, key_type=bytes, value_type=bytes)
commands = app.topic(commands_name, key_type=bytes, value_type=bytes)
table = app.Table("views", partitions=8, options={"driver": "rocksdict"}, key_type=bytes, value_type=bytes)
clocks: dict[int, int] = defaultdict(int)
heaps: dict[int, list[tuple[int, bytes, str]]] = defaultdict(list)


@app.agent(events)
async def watch(stream):  # noqa: ANN001, ANN201 as Faust's own examples
    """Keep the open views of each member in the table."""
    async for event in stream.events():
        message = event.message
        partition, now_ms = message.partition, int(message.timestamp * 1000)
        clock = clocks[partition] = max(clocks[partition], now_ms)
        heap = heaps[partition]
        while heap and heap[0][0] + LATENESS_MS <= clock:
            due, member, anchor = heapq.heappop(heap)
            views = orjson.loads(table.get(member) or b"{}")
            for product, view in views.items():
                if view == [due, anchor]:
                    del views[product]
                    table[member] = orjson.dumps(views)
                    await commands.send(
                        key=member, value=orjson.dumps({"member_id": member.decode(), "anchor": anchor})
                    )
                    break
        said = orjson.loads(event.value)
        member = event.key
        if said["type"] == "catalog.product.viewed":
            views = orjson.loads(table.get(member) or b"{}")
            views[said["data"]["product_id"]] = [now_ms + WITHIN_MS, said["event_id"]]
            table[member] = orjson.dumps(views)
            heapq.heappush(heap, (now_ms + WITHIN_MS, member, said["event_id"]))
        elif said["type"] == "order.created":
            views = orjson.loads(table.get(member) or b"{}")
            for item in said["data"]["items"]:
                if (view := views.get(item["product_id"])) and now_ms < view[0]:
                    del views[item["product_id"]]
            table[member] = orjson.dumps(views)


if __name__ == "__main__":
    sys.argv = ["faust", "worker", "-l", "warn"]
    app.main()
