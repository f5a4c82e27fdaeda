"""kill -9 in the middle, then a restart with the same disk, and one with an empty disk: same commands, same state."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agents.topics import COMMANDS
from tests.agents.engine_bench import (
    applied,
    command_ids,
    expected_ids,
    in_thread,
    produce,
    read_all,
    start_broker,
    until,
    worker,
)
from tests.agents.test_engine_worker import events, folded_changelog, running, stored_members

SESSION_S = 2.0


@asynccontextmanager
async def process(bootstrap: str, data_dir: Path, session_s: float = SESSION_S) -> AsyncIterator[Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.agents.engine_process", bootstrap, str(data_dir), str(session_s),
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    try:
        if child.stdout is None:
            raise RuntimeError("no stdout")
        while await child.stdout.readline() not in (b"ready\n", b""):
            pass
        yield child
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGKILL)
        await child.wait()


@pytest.mark.parametrize("disk", ["kept", "lost"])
async def test_killed_worker_loses_nothing_and_repeats_only_equal_ids(tmp_path: Path, disk: str) -> None:
    log = events(12_000, members=300)
    with start_broker() as broker:
        before = 0
        for round_ in range(3):
            async with process(broker.bootstrap, tmp_path / f"{0 if disk == 'kept' else round_}"):
                part = log[round_ * 4_000 : (round_ + 1) * 4_000]
                producing = asyncio.create_task(asyncio.to_thread(produce, broker.bootstrap, part))
                deadline = asyncio.get_running_loop().time() + 20
                while len(await in_thread(read_all, broker.bootstrap, COMMANDS)) <= before:
                    assert asyncio.get_running_loop().time() < deadline
                await producing  # the process is killed on leaving, most likely in the middle of its epochs
            before = len(await in_thread(read_all, broker.bootstrap, COMMANDS))
        last = tmp_path / ("0" if disk == "kept" else "9")
        async with running(worker(broker.bootstrap, last, session_timeout_s=SESSION_S)) as built:
            await until(lambda: applied(built) == len(log), "rest applied", 30)
        assert set(await in_thread(command_ids, broker.bootstrap)) == expected_ids(log)
        assert stored_members(last) == folded_changelog(broker.bootstrap)
