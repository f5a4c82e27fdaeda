"""One sink as a process of its own, that kills itself at a chosen insert.

Arguments: bootstrap, chDB directory, insert to die at, `before` or `after`, records expected.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from agents.records import Limits, RecordSink
from sinks.clickhouse import Target, Warehouse


class Fatal(Warehouse):
    """Dies with SIGKILL at the n-th insert, before or after it is done; 0: never."""

    left = int(sys.argv[3])
    when = sys.argv[4]

    def insert(self, table: str, columns: list[list[Any]], token: str) -> None:
        self.left -= 1
        if self.left == 0 and self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        super().insert(table, columns, token)
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    warehouse = Fatal(Target(path=Path(sys.argv[2])))
    warehouse.migrate()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    config = {"bootstrap.servers": sys.argv[1], "session.timeout.ms": 6000}
    sink = RecordSink(config, warehouse, topics=("events",), limits=Limits(rows=2_000, age_ms=100), report_seconds=0.2)
    thread = threading.Thread(target=sink.run, args=(stop,))
    thread.start()
    wanted = int(sys.argv[5])
    seen = 0
    while thread.is_alive() and not stop.is_set():
        thread.join(0.1)
        if sink.counters.records != seen:
            seen = sink.counters.records
            print(f"records {seen} of {wanted}", flush=True)
    thread.join()
    warehouse.close()


if __name__ == "__main__":
    main()
