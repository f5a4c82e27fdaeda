import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.codec import decode_event
from schemas.errors import OperatorError
from schemas.events import Event
from streams.replay import read_log
from streams.replay import replay as run_log
from tests.tidings.cli.shop import CASES, THANKS
from tidings.brokers import attach
from tidings.cli.campaigns import campaigns, changes, send_everywhere
from tidings.config import Settings
from tidings.producing import Sender

ROOT = Path(__file__).parents[3]


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(campaigns, [str(arg) for arg in args], catch_exceptions=False)


def rows(*args: str | Path) -> list[dict]:
    result = run(*args, "-o", "ndjson")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def log(broker: str, count: int, seconds: float = 10) -> list[tuple[int, Event]]:
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "t", "fetch.wait.max.ms": 20})
    consumer.assign([TopicPartition("events", number, 0) for number in range(3)])
    found: list[tuple[int, Event]] = []
    until = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < until:
        messages = [message for message in consumer.consume(count, timeout=0.1) if message.error() is None]
        found += [(message.partition() or 0, decode_event(message.value())) for message in messages]
    consumer.close()
    return found


def test_publish_sends_one_copy_to_every_partition(place, broker):
    (row,) = rows("publish", place, "--broker", broker)
    assert (row["campaign"], row["partitions"], row["path"]) == ("thanks", 3, "thanks.yaml")
    copies = log(broker, 3)
    assert sorted(partition for partition, _ in copies) == [0, 1, 2]
    assert {event.type for _, event in copies} == {"campaign.published"}
    assert len({event.event_id for _, event in copies}) == 1
    assert copies[0][1].data == {
        "campaign": "thanks", "version": row["version"], "path": "thanks.yaml", "yaml": THANKS,
    }  # fmt: skip


def test_what_is_published_runs_from_the_log(place, broker):
    rows("publish", place, "--broker", broker)
    data = log(broker, 3)[0][1].data
    lines = [
        {"type": "campaign.published", "occurred_at": 1_760_000_000_000, "data": data},
        {"type": "order.created", "member_id": "m", "occurred_at": 1_760_000_000_001, "data": {"total": 100}},
    ]
    epochs = list(run_log(read_log(json.dumps(line).encode() for line in lines), None))
    assert [firing.campaign for epoch in epochs for firing in epoch.firings] == ["thanks"]


@pytest.mark.parametrize("fault", ["text", "case"])
def test_one_error_and_none_is_published(place, broker, fault):
    if fault == "text":
        (place / "bad.yaml").write_text("campaign: bad\npattern: order.craeted\n")
    else:
        (place / "thanks.cases.yaml").write_text(CASES.replace("total: 100", "total: 99"))
    result = run("publish", place, "--broker", broker)
    assert result.exit_code == 1
    assert "error: " in result.stderr
    assert log(broker, 1, 0.5) == []


def test_list_and_show_read_the_log_where_no_worker_answers(place, broker):
    assert rows("list", "--broker", broker) == []
    (published,) = rows("publish", place, "--broker", broker)
    result = run("list", "--broker", broker, "-o", "ndjson")
    assert "reading the log" in result.stderr
    (row,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert (row["campaign"], row["version"], row["state"]) == ("thanks", published["version"], "live")
    assert (row["partitions"], row["title"]) == ("3/3", "Thank you")
    shown = run("show", "thanks", "--broker", broker).output
    assert THANKS in shown
    assert "# partitions: 3/3" in shown


def test_withdraw_ends_it_on_every_partition_and_knows_its_names(place, broker):
    rows("publish", place, "--broker", broker)
    with pytest.raises(OperatorError, match="did you mean 'thanks'"):
        run("withdraw", "thank", "--broker", broker)
    assert rows("withdraw", "thanks", "--broker", broker)[0]["partitions"] == 3
    assert [row["state"] for row in rows("list", "--log", "--broker", broker)] == ["withdrawn"]
    assert {event.type for _, event in log(broker, 6)} == {"campaign.published", "campaign.withdrawn"}


@pytest.mark.parametrize(
    ("word", "state"), [("pause", "paused"), ("drain", "draining"), ("resume", "live"), ("stop", "stopped")]
)
def test_what_an_operator_says_reaches_every_partition_and_the_list(place, broker, word, state):
    rows("publish", place, "--broker", broker)
    assert rows(word, "thanks", "--broker", broker)[0]["state"] == state
    (row,) = rows("list", "--log", "--broker", broker)
    assert (row["state"], row["partitions"], row["title"]) == (state, "3/3", "Thank you")
    assert len(log(broker, 6)) == 6


def test_a_pause_outlasts_an_edit_and_what_is_over_is_not_paused(place, broker):
    rows("publish", place, "--broker", broker)
    rows("pause", "thanks", "--broker", broker)
    rows("publish", place, "--broker", broker)
    assert [row["state"] for row in rows("list", "--log", "--broker", broker)] == ["paused"]
    rows("stop", "thanks", "--broker", broker)
    with pytest.raises(OperatorError, match="no such campaign runs"):
        run("resume", "thanks", "--broker", broker)
    rows("publish", place, "--broker", broker)
    assert [row["state"] for row in rows("list", "--log", "--broker", broker)] == ["live"]


@pytest.mark.parametrize("word", ["pause", "resume", "drain", "stop"])
def test_a_suspended_campaign_stays_so_whatever_is_said_but_publishing_it(place, broker, word):
    (version,) = {row["version"] for row in rows("publish", place, "--broker", broker)}
    sender = Sender(attach(Settings.from_env(broker=broker)), "events")
    for said in ("suspended", {"pause": "paused", "resume": "resumed", "drain": "drained", "stop": "stopped"}[word]):
        send_everywhere(sender, f"campaign.{said}", {"campaign": "thanks", "version": version})
    assert [row["state"] for row in rows("list", "--log", "--broker", broker)] == ["suspended"]
    with pytest.raises(OperatorError, match="no such campaign runs"):
        run(word, "thanks", "--broker", broker)


def test_a_copy_that_is_missing_on_a_partition_is_seen(place, broker):
    rows("publish", place, "--broker", broker)
    producer = Producer({"bootstrap.servers": broker})
    value = {"type": "campaign.withdrawn", "occurred_at": int(time.time() * 1000) + 5, "data": {"campaign": "thanks"}}
    producer.produce("events", json.dumps(value).encode(), partition=1)
    assert producer.flush(10) == 0
    (row,) = rows("list", "--log", "--broker", broker)
    assert (row["state"], row["partitions"]) == ("mixed", "1/3")


def test_changes_are_seen_in_campaigns_and_in_their_cases(place):
    campaign, cases = place / "thanks.yaml", place / "thanks.cases.yaml"
    seen = changes((str(place),), {}, pause_s=0.01)
    assert next(seen) == [campaign]

    def edit(path: Path) -> list[Path]:
        timer = threading.Timer(0.05, lambda: path.write_text(path.read_text() + "\n"))
        timer.start()
        found = next(seen)
        timer.join()
        return found

    assert edit(campaign) == [campaign]
    assert edit(cases) == [campaign]


def test_watch_makes_an_edit_live_within_a_second_and_an_error_leaves_what_is(place, broker):
    command = [sys.executable, "-m", "tidings", "campaigns", "publish", "--watch", str(place), "--broker", broker]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert len(log(broker, 3, 20)) == 3
        (place / "thanks.yaml").write_text(THANKS.replace("order.created[", "order.created["[:-1] + " then ["))
        time.sleep(0.6)
        edited = time.monotonic()
        (place / "thanks.yaml").write_text(THANKS.replace(">= 100", ">= 90"))
        copies = log(broker, 6, 20)
        assert time.monotonic() - edited < 5  # a second on an idle machine; here eight test runs may share two cores
        assert len(copies) == 6
        assert len({event.data["version"] for _, event in copies}) == 2
        (place / "thanks.yaml").write_text("# the same\n" + THANKS.replace(">= 100", ">= 90"))
        assert len(log(broker, 7, 1)) == 6
    finally:
        watcher.terminate()
        _, errors = watcher.communicate(timeout=20)
    assert "not published, what was live stays live" in errors


@pytest.mark.parametrize("name", ["list", "publish", "withdraw", "show"])
def test_help_shows_an_example(name):
    assert f"python -m tidings campaigns {name}" in run(name, "--help").output


# ---------------------------------------------------------------- start

RECIPES = sorted(path.stem for path in (ROOT / "campaigns/recipes").glob("*.yaml") if ".cases" not in path.name)


def test_the_eight_recipes_are_shipped() -> None:
    assert RECIPES == [
        "ab_control", "birthday", "lost_cart", "points_burning", "price_drop", "purchase_poll", "welcome_chain",
        "win_back",
    ]  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_started_by_one_command(broker: str, place: Path, name: str) -> None:
    found = rows("start", name, "--broker", broker)
    assert [row["path"] for row in found] == [f"campaigns/recipes/{name}.yaml"]
    published = log(broker, 3)
    assert {event.type for _, event in published} == {"campaign.published"}
    assert {number for number, _ in published} == {0, 1, 2}


def test_an_unknown_recipe_is_refused_with_the_nearest_name(broker: str, place: Path) -> None:
    with pytest.raises(OperatorError, match="did you mean 'lost_cart'"):
        run("start", "lost_card", "--broker", broker)
