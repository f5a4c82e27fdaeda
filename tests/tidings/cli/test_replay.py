import gc
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from schemas.errors import CampaignError, OperatorError
from tests.oracle.evaluate import firings
from tests.oracle.generate import case
from tidings.cli.replay import replay

FIELDS = (
    "campaign", "member_id", "anchor", "correlation", "due", "completed_by", "fired_at", "instance_id", "command_id",
)  # fmt: skip
ABSENCE = "campaign: browse\npattern: catalog.product.viewed as v then no order.created for 1m, same product_id\n"
REES46 = (
    "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
    "2019-10-01 00:00:00 UTC,view,1,2,shoes,acme,10.5,7,s\n"
    "2019-10-01 00:00:10 UTC,look,1,2,shoes,acme,10.5,7,s\n"
    "2019-10-01 00:01:10 UTC,view,2,2,shoes,acme,10.5,7,s\n"
)


def event(event_id: str, at: int, type_: str = "catalog.product.viewed", **more) -> dict:
    row = {"event_id": event_id, "type": type_, "member_id": "m1", "occurred_at": 1_760_000_000_000 + at}
    return {**row, "data": {"product_id": "p1"}, **more}


def tick(at: int) -> dict:
    return {"type": "tick", "member_id": None, "occurred_at": 1_760_000_000_000 + at}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "browse.yaml").write_text(ABSENCE)
    return tmp_path


def log(place: Path, *rows: dict | str, name: str = "log.ndjson") -> str:
    path = place / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def run(*args: str, stdin: bytes | None = None) -> list[dict]:
    result = CliRunner().invoke(replay, [*args, "-o", "ndjson"], input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_each_line_has_exactly_the_fixed_fields_in_order(place):
    events = log(place, event("v1", 0), event("v2", 70_000, data={"product_id": "p2"}))
    (row,) = run(str(place / "browse.yaml"), "--events", events)
    assert tuple(row) == FIELDS
    assert row["anchor"] == "v1"
    assert row["correlation"] == "p1"
    assert (row["due"], row["completed_by"]) == (1_760_000_060_000, None)
    assert row["fired_at"] == 1_760_000_070_000


def test_output_json_and_table_hold_the_same_firing(place):
    events = log(place, event("v1", 0), tick(70_000))
    out = {
        kind: CliRunner().invoke(replay, [str(place), "--events", events, "-o", kind]).stdout
        for kind in ("json", "table")
    }
    assert json.loads(out["json"])[0]["anchor"] == "v1"
    assert "v1" in out["table"]
    assert "command_id" in out["table"]


def test_fifty_random_logs_give_the_firings_of_the_oracle(tmp_path):
    done = 0
    for seed in range(5_000, 5_090):
        campaigns, events = case(seed)
        place = tmp_path / str(seed)
        place.mkdir()
        for number, campaign in enumerate(campaigns):
            (place / f"{number}.yaml").write_text(yaml.safe_dump(campaign))
        try:
            got = run(str(place), "--events", log(place, *events, name="log"))
        except CampaignError:  # the generator also writes what the language refuses, such as 1+
            continue
        want = firings(campaigns, events)
        assert sorted(got, key=json.dumps) == sorted(want, key=json.dumps), seed
        assert [row["fired_at"] for row in got] == [row["fired_at"] for row in want], seed
        done += 1
        if done == 50:
            break
    assert done == 50


def test_a_directory_means_its_campaigns_but_no_cases_and_nothing_hidden(place):
    (place / "browse.cases.yaml").write_text("- not a campaign")
    (place / ".old.yaml").write_text("neither")
    (place / "deep").mkdir()
    (place / "deep" / "other.yml").write_text(ABSENCE.replace("browse", "other"))
    rows = run(str(place), "--events", log(place, event("v1", 0), tick(70_000)))
    assert [row["campaign"] for row in rows] == ["browse", "other"]


def test_hard_errors_of_all_campaigns_are_shown_at_once_and_nothing_runs(place):
    (place / "bad.yaml").write_text("campaign: bad\npattern: catalog.product.viewed then then\n")
    (place / "worse.yaml").write_text("pattern: order.created\n")
    with pytest.raises(CampaignError) as caught:
        run(str(place), "--events", log(place, event("v1", 0)))
    assert {Path(finding.path).name for finding in caught.value.findings} == {"bad.yaml", "worse.yaml"}


def test_what_is_merely_useless_runs_and_warns(place):
    (place / "browse.yaml").write_text("campaign: c\npattern: shop.thing.done\n")
    result = CliRunner().invoke(
        replay, [str(place), "-e", log(place, event("x", 0, "shop.thing.done")), "-o", "ndjson"]
    )
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr.startswith("warning: ")


def test_bad_lines_are_named_counted_and_hold_their_place(place):
    nameless = event("v1", 0)
    del nameless["event_id"]
    events = log(place, nameless, '{"cut', "", '{"type": "order.created"}', tick(70_000))
    result = CliRunner().invoke(replay, [str(place), "-e", events, "-o", "ndjson"], catch_exceptions=False)
    assert json.loads(result.stdout)["anchor"] == "events/0/0"
    assert f"{events}:2: not-json" in result.stderr
    assert f"{events}:4: no-time" in result.stderr
    assert "2 of 5 lines" in result.stderr


def test_several_files_are_one_log_and_faults_name_their_file(place):
    first, second = log(place, event("v1", 0), name="a"), log(place, "{", tick(70_000), name="b")
    result = CliRunner().invoke(replay, [str(place), "-e", first, "-e", second, "-o", "ndjson"])
    assert len(result.stdout.splitlines()) == 1
    assert f"{second}:1: " in result.stderr


def test_gzip_and_standard_input_give_the_same_as_the_file(place):
    events = log(place, event("v1", 0), tick(70_000))
    raw = Path(events).read_bytes()
    (place / "log.gz").write_bytes(gzip.compress(raw))
    plain = run(str(place), "-e", events)
    assert run(str(place), "-e", str(place / "log.gz")) == plain
    assert run(str(place), "-e", "-", stdin=raw) == plain
    assert run(str(place), "-e", "-", stdin=gzip.compress(raw)) == plain


def test_a_damaged_gzip_is_an_error_with_a_remedy(place):
    (place / "log.gz").write_bytes(gzip.compress(json.dumps(event("v1", 0)).encode() * 100)[:-20])
    with pytest.raises(OperatorError, match=r"log.gz: cannot be read to its end"):
        run(str(place), "-e", str(place / "log.gz"))


def test_rees46_rows_are_events_and_a_bad_row_is_named(place):
    (place / "shop.csv").write_text(REES46)
    result = CliRunner().invoke(replay, [str(place), "-e", str(place / "shop.csv"), "-o", "ndjson"])
    (row,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert (row["member_id"], row["correlation"]) == ("7", "1")
    assert "shop.csv:3: row 1: event_type" in result.stderr


def test_a_csv_without_the_columns_is_refused(place):
    (place / "shop.csv").write_text("event_time,what\n1,2\n")
    with pytest.raises(OperatorError, match="columns are missing"):
        run(str(place), "-e", str(place / "shop.csv"))


def test_segment_lines_are_events(place):
    call = {
        "type": "track", "event": "Product Viewed", "messageId": "s1", "userId": "m1",
        "timestamp": "2026-03-02T10:00:00Z", "properties": {"product_id": "p1"},
    }  # fmt: skip
    rows = run(str(place), "-e", log(place, call, {**tick(0), "occurred_at": "2026-03-02T10:02:00Z"}))
    assert [row["anchor"] for row in rows] == ["s1"]


SEND = "send: {channel: email, template: t}\n"


def test_show_prints_the_other_outputs(place):
    (place / "browse.yaml").write_text(ABSENCE + SEND)
    profile = event("r", 0, "member.updated", data={"email": "m1@shop.example", "consent": {"email": True}})
    bought = event("o", 90_000, "order.created", data={"order_id": "A", "total": 5})
    events = log(place, profile, event("v1", 1), tick(80_000), bought, "{")
    shown = {
        name: run(str(place), "-e", events, "--show", name)
        for name in ("commands", "decisions", "attributions", "dead-letters")
    }
    assert [row["type"] for row in shown["commands"]] == ["SendMessage"]
    assert [row["outcome"] for row in shown["decisions"]] == ["eligible"]
    assert shown["attributions"] == []
    assert [row["reason"] for row in shown["dead-letters"]] == ["not-json"]


def control(at: int, text: str) -> dict:
    data = {"campaign": "browse", "version": "x", "yaml": text, "path": "browse.yaml"}
    return {"type": "campaign.published", "occurred_at": 1_760_000_000_000 + at, "data": data}


def test_from_log_runs_what_the_log_publishes(place):
    events = log(place, event("v0", 0), control(1, ABSENCE), event("v1", 2), tick(70_000))
    assert [row["anchor"] for row in run("--from-log", "-e", events)] == ["v1"]
    with pytest.raises(OperatorError, match="got both"):
        run(str(place), "--from-log", "-e", events)


def test_partitions_are_logs_of_their_own_with_their_own_clock_and_offsets(place):
    lines = [
        {**event("v1", 0), "partition": 0, "offset": 40},
        {**event("", 0, member_id="m2"), "partition": 3, "offset": 7},
        {**tick(70_000), "partition": 3, "offset": 9},
    ]
    del lines[1]["event_id"]
    rows = run(str(place), "-e", log(place, *lines), "--partition-field", "partition")
    assert [(row["member_id"], row["anchor"]) for row in rows] == [("m2", "events/3/7")]
    with pytest.raises(OperatorError, match="offsets must rise"):
        run(str(place), "-e", log(place, lines[2], lines[1]), "--partition-field", "partition")
    with pytest.raises(OperatorError, match="'partition' must be a whole number"):
        run(str(place), "-e", log(place, event("v1", 0)), "--partition-field", "partition")


@pytest.mark.parametrize("missing", ["campaign", "events", "empty"])
def test_what_does_not_exist_is_named_with_a_remedy(place, missing):
    (place / "nothing").mkdir()
    events = log(place, event("v1", 0))
    args = {
        "campaign": (str(place / "no.yaml"), "-e", events),
        "events": (str(place), "-e", str(place / "no.ndjson")),
        "empty": (str(place / "nothing"), "-e", events),
    }[missing]
    with pytest.raises(OperatorError, match=r"no\.yaml|no\.ndjson|no campaigns here"):
        run(*args)


def test_the_collector_is_as_it_was_afterwards(place):
    before = gc.get_threshold()
    run(str(place), "-e", log(place, event("v1", 0)))
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_the_module_runs_as_a_process_and_prints_nothing_else(place):
    events = log(place, event("v1", 0), "{", tick(70_000))
    done = subprocess.run(
        [sys.executable, "-m", "tidings", "replay", str(place), "--events", events, "--output", "ndjson"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [tuple(json.loads(line)) for line in done.stdout.splitlines()] == [FIELDS]
    (place / "browse.yaml").write_text("campaign: x\n")
    done = subprocess.run(
        [sys.executable, "-m", "tidings", "replay", str(place), "--events", events],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the key 'pattern' is missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_shows_an_example():
    assert "python -m tidings replay" in CliRunner().invoke(replay, ["--help"]).output
