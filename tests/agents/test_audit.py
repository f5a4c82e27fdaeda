"""State against logs: after a recovery, and at each write to the changelog."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from faust.types import TP

from agents.audit import ChangelogPlace, require_log, require_whole
from agents.topics import CHANGELOG, EVENTS
from agents.wiring import run_engine_app
from schemas.errors import StateError
from tables.rocks import RocksStore
from tests.agents.counting_engine import META
from tests.agents.engine_bench import SMALL, applied, in_thread, produce, start_broker, until, worker
from tests.agents.test_engine_worker import applies, folded_changelog, running, stored_members

TP0 = TP("members", 0)


def test_own_writes_follow_one_another() -> None:
    place = ChangelogPlace(9)
    assert place.wrote(12, 3) is None
    assert place.wrote(13, 1) is None


def test_gap_is_the_write_of_another() -> None:
    place = ChangelogPlace(9)
    assert place.wrote(14, 3) == (10, 15)
    assert place.wrote(16, 2) is None


def test_write_whose_offset_the_broker_no_longer_knows_is_counted() -> None:
    place = ChangelogPlace(9)
    assert place.wrote(None, 3) is None
    assert place.wrote(13, 1) is None
    assert place.wrote(None, 1) is None
    assert place.wrote(16, 1) == (15, 17)


def test_empty_store_finds_its_place_by_its_first_write() -> None:
    place = ChangelogPlace(None)
    assert place.wrote(None, 2) is None
    assert place.wrote(20, 2) is None
    assert place.wrote(25, 2) == (21, 26)


@pytest.mark.parametrize(("end", "read"), [(0, None), (0, -1), (5, 4), (None, None)])
def test_changelog_read_to_its_end_is_whole(end: int | None, read: int | None) -> None:
    require_whole({TP0: end}, {TP0: read})


@pytest.mark.parametrize(("end", "read"), [(1, -1), (1, None), (5, 3)])
def test_changelog_not_read_to_its_end_is_refused(end: int, read: int | None) -> None:
    with pytest.raises(StateError, match="partition 0: not read to its end"):
        require_whole({TP0: end}, {TP0: read})


@pytest.mark.parametrize(("end", "read"), [(0, 0), (1, 1), (5, 9)])
def test_changelog_that_ends_before_what_is_stored_is_refused(end: int, read: int) -> None:
    with pytest.raises(StateError, match="ends before what a local store holds.*tables rebuild"):
        require_whole({TP0: end}, {TP0: read})


@pytest.mark.parametrize(
    ("begin", "end", "applied_", "lost"),
    [(0, 0, -1, 0), (0, 10, 9, 0), (10, 10, 9, 0), (5, 10, 4, 0), (6, 10, 4, 1), (10, 10, 4, 5), (7, 10, -1, 0)],
)
def test_records_deleted_before_they_were_applied_are_counted(begin: int, end: int, applied_: int, lost: int) -> None:
    assert require_log("events", "log", begin, end, 3, applied_) == lost


def test_log_that_ends_before_what_is_applied_is_refused_with_the_remedy() -> None:
    with pytest.raises(
        StateError, match=r"(?s)partition 3: ends before .*got end 9, applied 9.*tidings tables rebuild"
    ):
        require_log("events", "log", 0, 9, 3, 9)


async def test_late_write_of_another_worker_is_found_and_overwritten(tmp_path: Path) -> None:
    with start_broker() as broker:
        async with running(worker(broker.bootstrap, tmp_path)) as built:
            log = [(f"m{n}", b"{}") for n in range(40)]
            await in_thread(produce, broker.bootstrap, log)
            await until(partial(applies, built, 40), "applied")
            before = stored(built)
            stale = Producer({"bootstrap.servers": broker.bootstrap})
            for partition, members in before.items():
                key = next(iter(members))
                stale.produce(CHANGELOG, key=key, value=b"stale", partition=partition)
                stale.produce(CHANGELOG, key=META, value=b"stale", partition=partition)
            stale.flush(5)
            await in_thread(produce, broker.bootstrap, [(f"new{n}", b"{}") for n in range(40)])
            await until(lambda: built.metrics.foreign_writes == 4, "found in each partition")
            await until(partial(applies, built, 80), "the rest applied")
            await in_thread(produce, broker.bootstrap, log)
            await until(partial(applies, built, 120), "goes on")
            assert built.metrics.foreign_writes == 4
            assert built.worker.failure is None
        assert stored_members(tmp_path) == folded_changelog(broker.bootstrap)


def stored(built: Any) -> dict[int, dict[bytes, bytes]]:
    return {p: built.stores.open(p).dump()[0] for p in built.stores.partitions()}


async def test_events_topic_made_anew_is_refused_instead_of_being_skipped(tmp_path: Path) -> None:
    with start_broker() as broker:
        async with running(worker(broker.bootstrap, tmp_path)) as built:
            await in_thread(produce, broker.bootstrap, [(f"m{n}", b"{}") for n in range(40)])
            await until(partial(applies, built, 40), "applied")
            state = {p: built.stores.open(p).dump() for p in built.stores.partitions()}
    with start_broker() as fresh:
        # the changelog was kept, the log was not
        again = Producer({"bootstrap.servers": fresh.bootstrap})
        for partition, (members, meta, _) in state.items():
            for key, value in [*members.items(), *meta.items()]:
                again.produce(CHANGELOG, key=key, value=value, partition=partition)
        again.flush(5)
        built = worker(fresh.bootstrap, tmp_path / "other")
        await built.app.start()
        try:
            await until(lambda: built.app.crash_reason is not None, "refused")
            assert isinstance(built.app.crash_reason, StateError)
            assert f"{EVENTS}, partition" in str(built.app.crash_reason)
            assert applied(built) >= 0
        finally:
            await built.app.stop()


async def test_changelog_that_ends_before_a_local_store_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with start_broker() as broker:
        async with running(worker(broker.bootstrap, tmp_path)) as built:
            await in_thread(produce, broker.bootstrap, [("m1", b"{}")] * 40)
            await until(partial(applies, built, 40), "applied")
            partition = next(p for p in built.stores.partitions() if built.stores.open(p).dump()[0])
    with start_broker() as fresh:
        one_record = Producer({"bootstrap.servers": fresh.bootstrap})
        store = RocksStore(tmp_path / "engine" / f"members-{partition}.db", SMALL)
        store.write({}, {}, [], 1_000)  # far ahead
        store.close()
        one_record.produce(CHANGELOG, key=b"m1", value=b"\x92\x01\xc0", partition=partition)
        one_record.produce(CHANGELOG, key=b"m1", value=b"\x92\x01\xc0", partition=partition)
        one_record.flush(5)
        with pytest.raises(StateError, match="ends before what a local store holds.*tidings tables rebuild"):
            await asyncio.wait_for(run_engine_app(worker(fresh.bootstrap, tmp_path), asyncio.Event()), 30)


@pytest.mark.parametrize("session_s", [6.0, 45.0, 300.0])
def test_what_a_silent_worker_has_handed_over_is_given_up_before_its_session_ends(
    tmp_path: Path, session_s: float
) -> None:
    built = worker("127.0.0.1:9", tmp_path, session_timeout_s=session_s)
    conf = built.app.conf
    waits = conf.producer_request_timeout + conf.producer_linger + built.worker.lease.silent_s
    assert waits <= session_s * 0.75
    assert conf.broker_heartbeat_interval * 2 < built.worker.lease.silent_s
    built.stores.close_all()
