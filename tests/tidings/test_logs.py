import io
import json
import logging

import pytest

from tidings import logs


@pytest.fixture
def written():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.set_up("info", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_event_is_one_json_object_with_time_level_and_logger(written):
    logs.get("tidings.worker").info("partition assigned", topic="events", partition=3)
    (line,) = written()
    assert line["event"] == "partition assigned"
    assert (line["topic"], line["partition"], line["level"], line["logger"]) == ("events", 3, "info", "tidings.worker")
    assert line["time"].endswith("Z")


@pytest.mark.parametrize("key", ["email", "phone", "address", "data", "member", "value", "Email", "password"])
def test_value_under_a_personal_key_is_masked_at_any_depth(written, key):
    logs.get("t").info("x", **{key: "Ann", "deep": [{key: {"a": "Ann"}}]})
    assert "Ann" not in json.dumps(written())


def test_member_id_becomes_the_same_short_hash_each_time(written):
    for _ in range(2):
        logs.get("t").info("x", member_id="ann")
    first, second = (line["member_id"] for line in written())
    assert first == second
    assert first.startswith("#")
    assert "ann" not in first


def test_address_or_phone_in_any_text_is_masked(written):
    logs.get("t").warning("refused ann.lee+x@shop.example, call +44 20 7946 0958")
    assert written()[0]["event"] == "refused ***, call ***"


def test_bytes_are_counted_not_shown(written):
    logs.get("t").info("x", record=b"ann")
    assert written()[0]["record"] == "3 bytes"


def test_library_record_and_its_traceback_go_the_same_way(written):
    try:
        raise ValueError("550 <ann@shop.example> unknown")
    except ValueError:
        logging.getLogger("aiokafka.consumer").exception("failed for %s", "bob@shop.example")
    (line,) = written()
    assert line["logger"] == "aiokafka.consumer"
    assert "ValueError: 550" in line["exception"]
    assert "@" not in json.dumps(line)


def test_libraries_speak_from_warning_up_unless_we_debug(written):
    logging.getLogger("faust.worker").info("chatter")
    logging.getLogger("mode.services").warning("trouble")
    assert [line["event"] for line in written()] == ["trouble"]


def test_set_up_twice_writes_each_event_once(written):
    stream = io.StringIO()
    log = logs.get("t")
    log.info("before")
    logs.set_up("info", stream)
    log.info("after")
    assert len(stream.getvalue().splitlines()) == 1


def test_level_below_the_setting_is_silent(written):
    logs.get("t").debug("x")
    assert written() == []
