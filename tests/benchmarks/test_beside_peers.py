"""The comparison with other engines: ours and plain Faust on a real Kafka; the rest only where a person asks for it."""

import re
from pathlib import Path

import pytest

from agents.topics import EVENTS
from benchmarks import beside_peers
from benchmarks.beside_peers import failed, fill, measure
from benchmarks.peer_homes import HERE, PEERS
from benchmarks.workload import w
from tidings.brokers import LocalBroker
from tidings.config import Settings


@pytest.mark.kafka
@pytest.mark.slow
def test_ours_and_plain_faust_give_the_definitions_commands(tmp_path: Path) -> None:
    with LocalBroker(tmp_path, Settings().cache_dir) as broker:
        log = fill(broker.bootstrap, EVENTS, list(w(5, 300, 30)), 30)
        assert len(log.due) > 100
        for engine in (None, PEERS[0]):
            taken = measure(broker.bootstrap, log, engine, {EVENTS})
            assert taken.differing == 0
            assert taken.cpu_s > 0


@pytest.mark.parametrize("name", sorted({peer.home for peer in PEERS if peer.home}))
def test_a_peers_lock_pins_every_package_by_hash_and_names_no_host(name: str) -> None:
    text = (HERE / f"{name}.lock").read_text()
    packages = re.findall(r"^[\w.\[\]-]+==\S+", text, re.M)
    assert packages
    assert all(re.search(rf"^{re.escape(package)} .*\\\n\s+--hash=sha256:", text, re.M) for package in packages)
    assert "://" not in text


def test_an_engine_that_fails_is_named_with_its_root_cause_and_its_log_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside_peers, "HOMES", homes := tmp_path / "not" / "there")
    (said := tmp_path / "out.log").write_text("Job failed\nCaused by: outer\nCaused by: no zstd\n\tat some.place\n")
    error = str(failed("Flink SQL (PyFlink)", "it ended by itself", said))
    assert error.startswith("Flink SQL (PyFlink): it ended by itself (it said: Caused by: no zstd)")
    assert (homes / "flink-sql-pyflink.log").read_text() == said.read_text()
    said.write_text("")
    assert "(it said: )" in str(failed("Tidings", "no command came in 900 s", said))
