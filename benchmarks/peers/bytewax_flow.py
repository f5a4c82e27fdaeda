"""Bytewax: one stateful step per partition, state in memory (its recovery snapshots are off)."""

import heapq
import sys
from collections.abc import Iterable

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.run import cli_main

bootstrap, events_name, commands_name, _place = sys.argv[1:5]
WITHIN_MS, LATENESS_MS = 7_200_000, 5_000


class Partition(StatefulBatchLogic):
    """Open views of all members of one partition."""

    def __init__(self, resumed: object = None) -> None:
        self.clock = 0
        self.views: dict[str, dict[str, tuple[int, str]]] = {}
        self.heap: list[tuple[int, str, str, str]] = []

    def on_batch(self, values: list[KafkaSourceMessage]) -> tuple[Iterable[KafkaSinkMessage], bool]:
        """Take events; give the commands that are due."""
        out: list[KafkaSinkMessage] = []
        heap = self.heap
        for message in values:
            now_ms = message.timestamp[1]
            self.clock = clock = max(self.clock, now_ms)
            while heap and heap[0][0] + LATENESS_MS <= clock:
                due, member, product, anchor = heapq.heappop(heap)
                views = self.views.get(member)
                if views and views.get(product) == (due, anchor):
                    del views[product]
                    out.append(KafkaSinkMessage(member.encode(), orjson.dumps({"member_id": member, "anchor": anchor})))
            said = orjson.loads(message.value)
            kind = said["type"]
            if kind == "catalog.product.viewed":
                member, product, due = said["member_id"], said["data"]["product_id"], now_ms + WITHIN_MS
                self.views.setdefault(member, {})[product] = (due, said["event_id"])
                heapq.heappush(heap, (due, member, product, said["event_id"]))
            elif kind == "order.created" and (views := self.views.get(said["member_id"])):
                for item in said["data"]["items"]:
                    view = views.get(item["product_id"])
                    if view and now_ms < view[0]:
                        del views[item["product_id"]]
        return out, False

    def snapshot(self) -> object:
        """Not asked for without recovery."""
        return None


flow = Dataflow("w")
source = KafkaSource([bootstrap], [events_name], tail=True, batch_size=5_000)
stream = op.input("in", flow, source)
keyed = op.key_on("partition", stream, lambda message: str(message.partition))
fired = op.stateful_batch("views", keyed, Partition)
kop.output("out", op.key_rm("unkey", fired), brokers=[bootstrap], topic=commands_name)

if __name__ == "__main__":
    cli_main(flow)
