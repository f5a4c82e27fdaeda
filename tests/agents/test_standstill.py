"""A worker that stands still ends itself, on a broker that speaks Kafka's protocol."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agents.fetching import BatchConsumerThread
from agents.watchdog import Limits
from agents.wiring import run_engine_app
from schemas.errors import StateError
from tests.agents.engine_bench import in_thread, produce, start_broker, until, worker
from tests.agents.test_engine_worker import applies, events, running


async def test_worker_whose_epochs_are_not_acked_ends_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start_broker() as broker:
        built = worker(broker.bootstrap, tmp_path, session_timeout_s=60.0, limits=Limits(progress_s=2))
        ended = asyncio.create_task(run_engine_app(built, asyncio.Event()))
        await until(lambda: built.worker.recovered, "ready", 70)
        monkeypatch.setattr(built.worker.outbox, "send_changelog", _never)
        await in_thread(produce, broker.bootstrap, events(50))
        with pytest.raises(StateError, match=r"partition \d stands still \(got records after offset"):
            await asyncio.wait_for(ended, 20)


async def _never(*_: Any) -> None:
    await asyncio.Event().wait()


async def test_worker_whose_recovery_gets_nothing_ends_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = events(200)
    with start_broker() as broker:
        async with running(worker(broker.bootstrap, tmp_path / "one")) as built:
            await in_thread(produce, broker.bootstrap, log)
            await until(partial(applies, built, len(log)), "applied")

        async def nothing(self: Any, *_: Any, **__: Any) -> dict[Any, Any]:
            await asyncio.sleep(0.1)
            return {}

        monkeypatch.setattr(BatchConsumerThread, "_fetch_records", nothing)
        stuck = worker(broker.bootstrap, tmp_path / "two", limits=Limits(recovery_s=2))
        with pytest.raises(StateError, match=r"recovery stands still .got [1-9]\d* changelog records to read"):
            await asyncio.wait_for(run_engine_app(stuck, asyncio.Event()), 30)
