import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.instants import instant_ms
from tests.e2e.product import ROOT, Product, ndjson, now_ms

pytestmark = pytest.mark.kafka

# A real shop's first thousand events, where they are at hand; else the first twenty.
WHOLE = ROOT.parent / "shared/data/rees46-2019-10-sample.csv"
EXCERPT = ROOT / "tests/schemas/rees46_excerpt.csv"
CAMPAIGNS = {
    "looked": "catalog.product.viewed as v then no order.created for 2m, same product_id",
    "keen": "3+ catalog.product.viewed within 5m",
    "compared": "catalog.product.viewed as a then catalog.product.viewed[product_id != a.product_id] within 5m",
}  # without caps: those count on the partition's clock, and the file is one log


def test_a_real_shops_log_makes_the_same_commands_over_kafka_and_in_replay(fresh, tmp_path):
    source = WHOLE if WHOLE.exists() else EXCERPT
    with source.open() as file:
        rows = list(csv.DictReader(file))
    begin = instant_ms(rows[0]["event_time"].replace(" UTC", "Z").replace(" ", "T"))
    campaigns = tmp_path / "campaigns"
    campaigns.mkdir()
    for name, pattern in CAMPAIGNS.items():
        send = "send: {channel: email, template: browse_reminder, data: {product_id: '\"p\"'}}"
        (campaigns / f"{name}.yaml").write_text(f"campaign: {name}\npattern: '{pattern}'\n{send}\n")
    members = ndjson(
        tmp_path / "members.ndjson",
        (
            {"event_id": f"r{user}", "type": "member.registered", "member_id": user, "occurred_at": begin,
             "data": {"email": f"{user}@shop.example", "consent": {"email": True}}}
            for user in sorted({row["user_id"] for row in rows})
        ),
    )  # fmt: skip
    with Product(fresh) as product:
        run(product, "campaigns", "publish", str(campaigns), "--as-of", str(begin))
        run(product, "produce", members, str(source), "--as-recorded")
        log = product.drain(90)
    end = ndjson(tmp_path / "end.ndjson", [{"type": "tick", "member_id": None, "occurred_at": now_ms()}])
    words = ["-e", members, "-e", str(source), "-e", end, "--show", "commands", "--output", "ndjson"]
    replayed = [json.loads(line) for line in run(product, "replay", str(campaigns), *words).splitlines()]
    assert {command["command_id"] for command in replayed} == set(log.commands)
    assert {command["campaign"] for command in replayed} == set(CAMPAIGNS) if source == WHOLE else replayed


def run(product: Product, *words: str) -> str:
    env = {**product.settings.environment(), "PATH": str(Path(sys.executable).parent)}
    done = subprocess.run(
        [sys.executable, "-m", "tidings", *words], cwd=ROOT, env=env, text=True, capture_output=True, timeout=90
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout
