"""policies.yaml beside campaigns: checked, published through the log, listed, withdrawn, used by replay and explain."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from schemas.errors import CampaignError, OperatorError
from tests.tidings.cli.test_campaigns import log
from tidings.cli.campaigns import campaigns, changes
from tidings.cli.check import check
from tidings.cli.explain import explain
from tidings.cli.replay import replay

THANKS = "campaign: thanks\npattern: order.created[total >= 100]\nsend: {channel: email, template: thank_you}\n"
POLICIES = "caps:\n  - {limit: 1 per calendar day}\n"
EVENTS = [
    {"type": "member.registered", "data": {"email": "m@shop.example", "consent": {"email": True}}},
    {"type": "order.created", "event_id": "o1", "data": {"total": 100}},
    {"type": "order.created", "event_id": "o2", "data": {"total": 100}},
]


@pytest.fixture
def place(place: Path) -> Path:
    (place / "policies.yaml").write_text(POLICIES)
    return place


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    lines = [
        json.dumps({**event, "member_id": "m", "occurred_at": 1_772_450_000_000 + n}) for n, event in enumerate(EVENTS)
    ]
    (tmp_path / "log.ndjson").write_text("\n".join(lines) + "\n")
    return tmp_path / "log.ndjson"


def run(command, *args: str | Path) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=False)


def rows(*args: str | Path) -> list[dict]:
    result = run(campaigns, *args, "-o", "ndjson")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_check_reads_policies_and_names_what_is_wrong(place):
    assert run(check, place).output == "1 campaign, 1 policy file, 1 case: 0 errors, 0 warnings\n"
    (place / "policies.yaml").write_text("caps:\n  - {limit: often}\n")
    result = run(check, place)
    assert result.exit_code == 1
    assert f"{place}/policies.yaml:2:13: this is no limit (got 'often')" in result.output
    assert run(check, place / "policies.yaml").exit_code == 1


def test_publish_sends_policies_first_with_the_number_of_partitions(place, broker):
    first, second = rows("publish", place, "--broker", broker)
    assert (first["campaign"], first["partitions"], second["campaign"]) == ("policies.yaml", 3, "thanks")
    copies = [event for partition, event in log(broker, 6) if partition == 1]
    assert [event.type for event in copies] == ["policy.published", "campaign.published"]
    assert copies[0].data == {
        "version": first["version"], "path": "policies.yaml", "yaml": POLICIES, "partitions": 3,
    }  # fmt: skip


def test_policies_that_are_wrong_keep_everything_from_being_published(place, broker):
    (place / "policies.yaml").write_text("caps: many\n")
    assert run(campaigns, "publish", place, "--broker", broker).exit_code == 1
    assert log(broker, 1, 0.5) == []


def test_a_second_policy_file_is_refused(place, broker):
    (place / "more").mkdir()
    (place / "more" / "policies.yaml").write_text(POLICIES)
    with pytest.raises(OperatorError, match="a second policy file"):
        run(campaigns, "publish", place, "--broker", broker)


def test_policies_are_listed_shown_and_withdrawn(place, broker):
    rows("publish", place / "policies.yaml", "--broker", broker)
    (row,) = rows("list", "--log", "--broker", broker)
    assert (row["campaign"], row["state"], row["partitions"]) == ("policies.yaml", "live", "3/3")
    assert POLICIES in run(campaigns, "show", "policies.yaml", "--broker", broker).output
    rows("withdraw", "policies.yaml", "--broker", broker)
    assert [row["state"] for row in rows("list", "--log", "--broker", broker)] == ["withdrawn"]
    assert {event.type for _, event in log(broker, 6)} == {"policy.published", "policy.withdrawn"}


def test_watching_sees_an_edit_of_the_policies(place):
    before = {place / "thanks.yaml": "same", place / "policies.yaml": "old"}
    (changed,) = [next(changes((str(place),), before, 0))]
    assert place / "policies.yaml" in changed


def test_replay_uses_the_policies_beside_the_campaigns(place, recorded):
    (place / "thanks.yaml").write_text(THANKS)
    said = run(replay, place, "-e", recorded, "--show", "decisions", "-o", "ndjson").stdout.splitlines()
    assert [json.loads(line)["reason"] for line in said] == ["sent_to_delivery", "frequency_cap"]
    said = run(replay, place / "thanks.yaml", "-e", recorded, "--show", "decisions", "-o", "ndjson").stdout.splitlines()
    assert [json.loads(line)["reason"] for line in said] == ["sent_to_delivery"] * 2
    (place / "policies.yaml").write_text("caps: many\n")
    with pytest.raises(CampaignError):
        run(replay, place, "-e", recorded)


def test_explain_tells_the_arithmetic_of_a_cap(place, recorded):
    (place / "thanks.yaml").write_text(THANKS)
    words = run(explain, place, "--member", "m", "-e", recorded).output
    assert "0 of 1 sent (1 per calendar day)" in words
    assert "frequency cap; 1 of 1 sent at 2026-03-02T11:13:20.001Z (1 per calendar day)" in words
    assert "free again at 2026-03-03T00:00:00Z" in words
