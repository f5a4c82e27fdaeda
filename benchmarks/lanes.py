"""How soon does a transactional message leave while 200,000 bulk messages are being sent?"""

import time
from collections.abc import Callable

from agents.topics import COMMANDS_OF
from benchmarks.delivery_rate import TOPICS, WAIT_S, command, delivering, producer_on
from benchmarks.harness import Row, Scale, quantile
from benchmarks.smtp_sink import Sink
from schemas.codec import encode_command
from schemas.commands import BULK, TRANSACTIONAL, lane_of
from schemas.errors import StateError
from tidings.brokers.memory import MemoryBroker

NAME = "lanes"
QUESTION = "How soon does a transactional message leave while 200,000 bulk messages are being sent?"
BULK_COUNT = 200_000
ALONE_COUNT = 200
EVERY_S = 0.2
METHOD = (
    "One delivery process with all lanes, as in `delivery_rate`; the bulk commands are appended before it starts to "
    f"send. Then one transactional command every {EVERY_S:g} s, until the last bulk mail has arrived. Measured is from "
    "right before the command is handed to a producer (linger 0, connected) until the SMTP server reads DATA, by the "
    "wall clock of one machine; one run. `alone`: without bulk. All mails are counted at the end: one for each command."
)


def run(scale: Scale) -> list[Row]:
    """Measure."""
    count = scale.of(BULK_COUNT)
    return [
        measure("alone", 0, scale, lambda at: scale.progress(0.05 * at, "alone")),
        measure(f"beside {count:,} bulk", count, scale, lambda at: scale.progress(0.05 + 0.95 * at, "beside bulk")),
    ]


def measure(case: str, bulk: int, scale: Scale, note: Callable[[float], None]) -> Row:
    """Send transactional messages beside so many bulk ones.

    Raises:
        StateError: mails are missing, or there are too many.
    """
    with Sink(watch="t") as sink, MemoryBroker(TOPICS) as broker, delivering(broker, sink) as process:
        producer = producer_on(broker)
        for number in range(bulk):
            one = command(number, lane=BULK)
            producer.produce(COMMANDS_OF[lane_of(one)], encode_command(one), one.member_id)
            if number % 1_000 == 0:
                producer.poll(0)
        producer.flush(WAIT_S)
        process.used(0)
        left = _pace(sink, bulk, scale.of(ALONE_COUNT, least=20), broker, note)
        used = process.used(bulk + len(left))
        taken, timed = sink.mails(), sink.timed()
    if taken != bulk + len(left) or timed.keys() != left.keys():
        raise StateError(f"lanes: other mails than commands (got {taken} of {bulk + len(left)}); run it again")
    delays = sorted((timed[name] - at) / 1e6 for name, at in left.items())
    row = Row(case=case, unit="message", items=len(left), runs=1, peak_mb=used["peak_mb"])
    row.more = {"p50 ms": round(quantile(delays, 0.5), 1), "p99 ms": round(quantile(delays, 0.99), 1)}
    first = next(iter(left))  # compiles the template and opens the lane's first connection
    row.more |= {"most ms": round(delays[-1], 1), "first ms": round((timed[first] - left[first]) / 1e6, 1)}
    if bulk:
        row.more |= {"mails per s": round(taken / used["wall_s"]), "seconds": round(used["wall_s"])}
    return row


def _pace(sink: Sink, bulk: int, least: int, broker: MemoryBroker, note: Callable[[float], None]) -> dict[str, int]:
    """Append a transactional command every `EVERY_S` until the bulk is through; when each was, by name."""
    producer = producer_on(broker, linger_ms=0)
    left: dict[str, int] = {}
    producer.list_topics(timeout=WAIT_S)
    began = time.monotonic()
    while len(left) < least or sink.mails() < bulk:
        one = command(len(left), "t", category=TRANSACTIONAL)
        topic, value = COMMANDS_OF[lane_of(one)], encode_command(one)
        left[one.member_id] = time.time_ns()
        producer.produce(topic, value, one.member_id)
        producer.flush(WAIT_S)
        note(min(1.0, sink.mails() / bulk if bulk else len(left) / least))
        time.sleep(max(0.0, began + len(left) * EVERY_S - time.monotonic()))
    return left
