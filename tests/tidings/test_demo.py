import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from schemas.events import Record
from schemas.records import Attribution
from sinks.reports import read_report
from tests.helpers.workers import ROOT
from tidings.demo.load import complaint
from tidings.demo.outside import BROWSER, SCANNER, Outside, fate
from tidings.demo.report import Outcome, checks, print_report
from tidings.demo.script import OPEN_AFTER_MS, day, opening, reaction, shop_span_ms
from tidings.demo.verify import Agreement, Log, replay_agrees
from tidings.smtp_server import ReceivedMail
from tidings.standing import wait_until
from tidings.web.tracking import SOON_MS, machine_sign

START = 1_772_409_600_000


def demo(data: Path, *words: str) -> "subprocess.Popen[str]":
    env = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    return subprocess.Popen(
        [sys.executable, "-m", "tidings", "demo", "--events", "600", *words], cwd=ROOT,
        env=env | {"TIDINGS_DATA_DIR": str(data)}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip


@pytest.mark.slow
def test_an_interrupted_demo_leaves_nothing_running_and_the_next_one_agrees_with_its_replay(tmp_path):
    with demo(tmp_path) as first:
        assert first.stderr is not None
        while "the shop is open" not in first.stderr.readline():
            assert first.poll() is None
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=40)
        assert first.returncode == 130
    with demo(tmp_path) as second:
        report, told = second.communicate(timeout=120)
    assert second.returncode == 0, told + report
    assert "replay agrees: " in report and "DISAGREES" not in report
    assert "nothing of its log is kept" in report and "campaign_funnel" in report


def test_the_story_is_the_same_for_the_same_seed_and_in_order_of_time():
    told = list(day(3, 2_000, START))
    assert told == list(day(3, 2_000, START)) != list(day(4, 2_000, START))
    assert [s.at_ms for s in told] == sorted(s.at_ms for s in told) and told[-1].at_ms <= shop_span_ms(2_000) + 3_000
    kinds = Counter(s.kind for s in told)
    assert kinds["shop"] == 2_000 and kinds["bad"] == 8 and kinds["repeated"]
    shop = {s.value for s in told if s.kind == "shop"}
    assert all(s.value in shop for s in told if s.kind == "repeated")


def test_one_visitor_in_five_is_registered_and_most_of_those_agreed_to_mail():
    people = [s.value for s in opening(1, 2_000, START)]
    assert len(people) == 200
    assert 0.7 < sum(b'"email":true' in value for value in people) / len(people) < 0.95


def test_a_member_reacts_to_a_mail_the_same_way_each_time_and_orders_only_after_a_click():
    found = [reaction(1, "m1", f"{n:032x}") for n in range(1_000)]
    assert found == [reaction(1, "m1", f"{n:032x}") for n in range(1_000)]
    clicks = [one for one in found if one.clicks is not None]
    orders = [one.order[1] for one in found if one.order is not None]
    assert 0.2 < len(clicks) / 1_000 < 0.4 and 0.3 < len(orders) / len(clicks) < 0.7
    assert all(order.data["total"] >= 100 for order in orders)
    assert all(one.clicks is not None for one in found if one.order is not None)
    assert all(one.opens is not None and (one.clicks or 0) > one.opens for one in clicks)
    assert any(one.leaves for one in found) and any(one.complains for one in found)


def test_people_of_the_story_are_slow_enough_not_to_be_taken_for_machines():
    assert OPEN_AFTER_MS[0] > SOON_MS
    assert machine_sign("GET", {"User-Agent": BROWSER}, OPEN_AFTER_MS[0]) == ""
    assert machine_sign("GET", {"User-Agent": SCANNER}, OPEN_AFTER_MS[0]) == "robot"


def test_the_company_tells_of_a_message_the_same_each_time_and_of_some_nothing():
    for channel in ("viber", "sms"):
        found = [fate(1, channel, f"{n:032x}") for n in range(500)]
        assert found == [fate(1, channel, f"{n:032x}") for n in range(500)]
        assert {state for told in found for _, state in told} == {"DELIVRD", "UNDELIV"}
        assert any(len(told) == 2 for told in found)
    assert 0.3 < sum(not fate(1, "viber", f"{n:032x}") for n in range(500)) / 500 < 0.4
    assert all(fate(1, "sms", f"{n:032x}") for n in range(500))


def test_the_company_takes_a_message_once_and_tells_what_came_of_it():
    told = []

    class Worker(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format, *args):
            pass

    worker = ThreadingHTTPServer(("127.0.0.1", 0), Worker)
    threading.Thread(target=worker.serve_forever, daemon=True).start()
    with Outside(1) as outside:
        outside.leads_to(lambda: f"http://127.0.0.1:{worker.server_port}")
        message = {"id": "0" * 32, "to": "49", "text": "x", "callback": f"{outside.url}/r/sms/token"}
        for _ in range(2):
            status, _, body = outside.ask("POST", f"{outside.url}/send/sms", json.dumps(message).encode())
            assert (status, json.loads(body)) == (200, {"status": "queued", "id": "0" * 32})
        assert wait_until(outside.idle, 60.0, 0.02)
        assert outside.taken["sms"] == {"0" * 32}
        assert outside.told == {("0" * 32, state) for _, state in fate(1, "sms", "0" * 32)}
        assert outside.ask("GET", f"{outside.url}/elsewhere")[0] == 404
    worker.shutdown()
    worker.server_close()
    assert len(told) == len(fate(1, "sms", "0" * 32))
    assert {path for path, _ in told} == {"/r/sms/token"}


def test_a_complaint_about_a_mail_is_a_report_that_can_be_read():
    content = b"X-Tidings-Reference: token\r\nMessage-ID: <abc@shop.example>\r\nSubject: s\r\n\r\nHello"
    report = read_report(complaint(ReceivedMail("a@shop.example", "b@shop.example", "abc@shop.example", content)))
    assert report is not None
    assert (report.status, report.token, report.command) == ("complained", "token", "abc")


def outcome(live: set[str], replayed: set[str], mails: int = 0) -> Outcome:
    agreement = Agreement(frozenset(live), frozenset(replayed), frozenset(), frozenset())
    numbers = {"commands": 0, "decisions": 0, "attributions": 0, "sent": mails, "clicked": 0}
    return Outcome({"shop": 1, "bad": 0}, Log(), agreement, mails, 0, [], numbers, 1.0)


def test_equal_numbers_of_other_ids_disagree_and_so_does_nothing_at_all():
    for live, replayed in (({"a"}, {"b"}), ({"a"}, set()), (set(), set())):
        assert not checks(outcome(live, replayed))[0].holds
    screen = io.StringIO()
    assert not print_report(outcome({"a"}, {"b"}), Console(file=screen, width=160), "")
    assert "replay DISAGREES: 1 (other ids) 1 commands" in screen.getvalue()


def test_a_mail_more_than_there_were_commands_disagrees():
    failed = [str(check) for check in checks(outcome(set(), set(), mails=1)) if not check.holds]
    assert any(text.startswith("SMTP DISAGREES: 1 ≠ 0") for text in failed)


def test_a_log_replayed_without_the_attribution_that_was_recorded_disagrees():
    log = Log(records={0: [Record(0, START, b"m1", b'{"type":"web.page.viewed","member_id":"m1","occurred_at":1}')]})
    given = Attribution(
        "a1", "m1", "c", "v", "i", "k", "email", "last_touch", "sent", 1, "e1", "order.created", 2, 2
    )  # fmt: skip
    log.attributions["a1"] = given
    found = replay_agrees(log)
    assert found.live_attributions == {"a1"} and not found.replay_attributions and not found.holds
