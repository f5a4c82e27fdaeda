"""One engine worker with the counting double as a process of its own, on the product's loop, for tests to kill.

`python -m tests.agents.engine_process BOOTSTRAP DATA_DIR SESSION_S`; prints `ready` when recovered; ends on SIGTERM.
"""

import asyncio
import os
import signal
import sys
import traceback
from pathlib import Path

from agents.wiring import run_engine_app
from tests.agents.engine_bench import worker
from tidings.loop import quick_loop


async def main() -> None:
    built = worker(sys.argv[1], Path(sys.argv[2]), session_timeout_s=float(sys.argv[3]))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    running = asyncio.create_task(run_engine_app(built, ended))
    while not built.worker.recovered and not running.done():
        await asyncio.sleep(0.02)
    print("ready", flush=True)
    try:
        await running
    except Exception:  # as tidings/worker.py: threads and tasks that hang must not outlive a failure
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=quick_loop()) as runner:
        runner.run(main())
