import json

import pytest

from tests.e2e.product import Up, ndjson, now_ms, until

pytestmark = pytest.mark.kafka

WAITING = """\
campaign: waiting
pattern: catalog.product.viewed as v then no order.created for 10s
send:
  channel: email
  template: browse_reminder
  data:
    product_id: v.product_id
"""
STOP_S_MAX = 15


def test_a_wait_that_began_before_a_stop_ends_after_the_next_start_and_nothing_is_lost_or_doubled(tmp_path):
    campaigns = tmp_path / "campaigns"
    campaigns.mkdir()
    (campaigns / "waiting.yaml").write_text(WAITING)
    data = tmp_path / "data"
    up = Up(data, "--campaigns", str(campaigns))
    counts = "SELECT type, uniqExact(event_id) AS n FROM events WHERE member_id = 'm1' GROUP BY type ORDER BY type"
    try:
        up.start()
        person = {"email": "m1@shop.example", "first_name": "Ada", "consent": {"email": True}}
        at = now_ms()
        events = ndjson(
            tmp_path / "events.ndjson",
            [
                {"event_id": "e1", "type": "member.registered", "member_id": "m1", "occurred_at": at, "data": person},
                {"event_id": "e2", "type": "catalog.product.viewed", "member_id": "m1", "occurred_at": at,
                 "data": {"product_id": "p1"}},
            ],
        )  # fmt: skip
        up.run("produce", events, "--broker", "local")
        wanted = [{"type": "catalog.product.viewed", "n": 1}, {"type": "member.registered", "n": 1}]
        until(lambda: json.loads(up.run("sql", counts, "--output", "json")) == wanted, "the rows are in", 20, 0.5)
        waiting = json.loads(up.run("members", "show", "m1", "--output", "json"))
        assert "due" in str(waiting) and not list((data / "mail").glob("*.eml"))
        assert up.stop() < STOP_S_MAX
        up.start()
        until(lambda: list((data / "mail").glob("*.eml")), "the mail is there", 30)
        sent = sorted([*wanted, {"type": "delivery.sent", "n": 1}], key=lambda row: str(row["type"]))
        until(lambda: json.loads(up.run("sql", counts, "--output", "json")) == sent, "the receipt is in", 20, 0.5)
        assert "Ada" in up.run("members", "show", "m1", "--output", "json")
        assert up.stop() < STOP_S_MAX
        assert len(list((data / "mail").glob("*.eml"))) == 1
    finally:
        up.kill()
