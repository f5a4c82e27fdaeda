import os
import signal
import time

import pytest

from sinks.sql_server import read_address
from tests.e2e.product import Up, ndjson, now_ms, until
from tidings.mailbox import Mailbox
from tidings.smtp_server import ReceivedMail


def mail(number: int) -> ReceivedMail:
    return ReceivedMail(
        "news@shop.example", "m1@shop.example", f"{number:032x}@shop.example", b"Subject: x\r\n\r\nx\r\n"
    )


def test_mails_are_files_of_their_owner_in_order_and_the_oldest_go(tmp_path):
    box = Mailbox(tmp_path / "mail", kept=2)
    for number in range(2):
        box.keep(mail(number))
    box = Mailbox(tmp_path / "mail", kept=2)  # a restart goes on counting
    box.keep(mail(2))
    names = sorted(path.name for path in box.directory.iterdir())
    assert [name.partition("-")[0] for name in names] == ["000000002", "000000003"]
    assert {path.stat().st_mode & 0o777 for path in box.directory.iterdir()} == {0o600}
    assert box.directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
@pytest.mark.faults
def test_up_starts_a_killed_role_again_refuses_a_second_up_and_stops_in_time(tmp_path):
    up = Up(tmp_path / "data", "--broker", "memory")
    try:
        up.start()
        told = "\n".join(up.lines)
        assert "nothing of it is kept" in told and "mail" in told and "SQL" in told and "token" in told
        with pytest.raises(AssertionError, match="already runs"):
            up.run("up", "--broker", "memory")
        begin = len(up.lines)
        sink = read_address(tmp_path / "data/memory/sql.json")
        assert sink is not None
        os.kill(sink.pid, signal.SIGKILL)
        up.wait_for("sink ended by itself (exit code 137)", begin, 20)
        up.wait_for("sink started again", begin, 20)
        address = next(line.split()[1] for line in up.lines if line.startswith("broker"))
        person = {"email": "m1@shop.example", "consent": {"email": True}}
        order = {"order_id": "o1", "total": 200, "currency": "EUR"}
        events = [
            {"event_id": "e1", "type": "member.registered", "member_id": "m1", "occurred_at": now_ms(), "data": person},
            {"event_id": "e2", "type": "order.created", "member_id": "m1", "occurred_at": now_ms(), "data": order},
        ]
        up.run("produce", ndjson(tmp_path / "e.ndjson", events), "--broker", address)
        until(lambda: list(tmp_path.rglob("*.eml")), "the mail is there", 40)
        began = time.monotonic()
        up.stop()
        assert time.monotonic() - began < 15
    finally:
        up.kill()
