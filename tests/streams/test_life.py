"""When campaigns begin something: dates in their zone, and what operators said."""

from datetime import UTC, datetime
from functools import partial

import pytest

from schemas.findings import errors
from streams.campaigns import load_campaign
from streams.case_runs import check_case
from streams.cases import read_cases
from streams.engine import PartitionEngine
from streams.patterns.plan import Plan
from tables.store import MemoryStore
from tests.streams.flows.runs import HEAD, MINUTE, START, Shop

SEND = "{channel: email, template: t}"
ABSENCE = "campaign: cart\npattern: cart.item.added as c then no order.created for 10m, same product_id\n"
FLOW = f"flow:\n- send: {SEND}\n  name: first\n- wait: 30m\n- send: {SEND}\n  name: second\n"


def loaded(more):
    return load_campaign(f"campaign: c\npattern: order.created\nsend: {SEND}\n{more}", "c.yaml")


def at(text):
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("zone", "written", "meant"),
    [
        ("UTC", "2026-06-01", "2026-06-01T00:00:00+00:00"),
        ("Europe/Moscow", "2026-06-01", "2026-06-01T00:00:00+03:00"),
        ("Europe/Moscow", "2026-06-01 10:30", "2026-06-01T10:30:00+03:00"),
        ("Europe/Moscow", "2026-06-01T10:30:00Z", "2026-06-01T10:30:00+00:00"),
        ("Europe/Berlin", "2026-03-29 02:30", "2026-03-29T03:30:00+02:00"),  # skipped: as much later
        ("Europe/Berlin", "2026-10-25 02:30", "2026-10-25T02:30:00+02:00"),  # twice: the first of the two
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04T01:00:00-02:00"),  # a day that began at 01:00
    ],
)
def test_dates_are_local_to_the_campaign(zone, written, meant):
    campaign, findings = loaded(f"timezone: {zone}\nstart: {written}\n")
    assert not errors(findings)
    assert campaign.start_ms == at(meant)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ("start: tomorrow\n", "bad-time"),
        ("end: 2026-02-30\n", "bad-time"),
        ("end: 2026-02-03 24:00\n", "bad-time"),
        ("start: 2026-06-01\nend: 2026-06-01\n", "wrong-order"),
    ],
)
def test_a_date_that_is_none_is_refused(more, code):
    assert [finding.code for finding in errors(loaded(more)[1])] == [code]


def test_dates_are_part_of_the_version_and_campaigns_without_keep_theirs():
    plain = loaded("")[0].version
    assert loaded("start: 2026-06-01\n")[0].version != plain
    assert loaded("start: 2026-06-01\n")[0].version == loaded("start: 2026-06-01 00:00\n")[0].version


def test_start_belongs_to_the_campaign_and_end_does_not():
    dates = "start: 2026-03-02 10:10\nend: 2026-03-02 10:20\n"  # minutes 10 to 20 of the run
    run = Shop(arbiter=None).publish(0, f"{dates}send: {SEND}\n").join()
    before = 10 - 1 / MINUTE
    for number, minute in enumerate([before, 10, 20 - 1 / MINUTE, 20]):
        run.put(minute, "cart.item.added", product_id=f"p{number}")
    assert [d.correlation for d in run.decisions] == ["p1", "p2"]


@pytest.mark.parametrize(("month", "day", "hours"), [(3, 29, 23), (10, 25, 25)])
def test_a_day_of_a_clock_change_is_as_long_as_it_is(month, day, hours):
    zone = f"timezone: Europe/Berlin\nstart: 2026-{month:02}-{day}\nend: 2026-{month:02}-{day + 1}\n"
    campaign = loaded(zone)[0]
    assert campaign.end_ms - campaign.start_ms == hours * 3_600_000


def test_what_began_before_the_end_goes_on():
    dates = "end: 2026-03-02 10:05\n"
    run = Shop(arbiter=None).publish(0, f"{dates}{FLOW}", ABSENCE).join().put(4, "cart.item.added", product_id="p")
    run.put(6, "cart.item.added", product_id="q").tick(15).tick(60)
    assert [d.correlation for d in run.decisions if d.outcome == "eligible"] == ["p", "p"]


def test_dates_of_members_count_between_start_and_end():
    text = "campaign: cart\npattern: on member.birth_date yearly\nstart: 2026-03-04\nend: 2026-03-05\n"
    for birthday, fires in (("1990-03-03", 0), ("1990-03-04", 1), ("1990-03-05", 0)):
        run = Shop(arbiter=None).publish(0, f"send: {SEND}\n", text).join(birth_date=birthday)
        for minute in range(0, 6 * 1440, 720):
            run.tick(minute + 1)
        assert len(run.commands) == fires, birthday


@pytest.mark.parametrize("over", ["withdrawn", "stopped"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_date_of_a_campaign_that_was_over_for_a_while_fires_whether_or_not_the_engine_was_restarted(over, restart):
    daily = "campaign: cart\npattern: every day at 12:00\n"
    run = Shop(arbiter=None).publish(0, f"send: {SEND}\n", daily).join()
    said(run, 1, over).put(2, "page.viewed").publish(3, f"send: {SEND}\n", daily)
    if restart:
        run.restart()
    run.tick(121)
    assert run.said() == ["eligible sent_to_delivery - @121"]


def test_a_date_that_comes_while_its_campaign_is_over_is_forgotten():
    daily = "campaign: cart\npattern: every day at 12:00\n"
    run = Shop(arbiter=None).publish(0, f"send: {SEND}\n", daily).join()
    said(run, 1, "stopped").put(2, "page.viewed").tick(121)
    assert run.engine.next_fire_ms is None
    assert run.engine.in_memory("m").plans == {}
    run.publish(122, f"send: {SEND}\n", daily).tick(123).tick(1600)
    assert run.decisions == []
    run.put(1601, "page.viewed").tick(1600 + 1440)
    assert len(run.decisions) == 1


def test_the_view_names_the_state_the_clock_gives():
    run = Shop(arbiter=None).publish(0, f"start: 2026-03-02 10:10\nend: 2026-03-02 10:20\nsend: {SEND}\n")
    seen = []
    for minute in (9, 10, 20):
        run.tick(minute)
        run.restart()
        seen += [row["state"] for row in run.engine.campaigns_view()]
    assert seen == ["scheduled", "live", "ended"]


def said(run, minute, what, name="cart"):
    return run.put(minute, f"campaign.{what}", None, campaign=name)


def test_in_a_pause_nothing_begins_and_messages_wait():
    run = Shop(arbiter=None).publish(0, FLOW).join().put(1, "cart.item.added", product_id="p")
    said(run, 2, "paused")
    run.restart()
    run.put(3, "cart.item.added", product_id="q").tick(31.2).tick(50).tick(61.5)
    assert run.said()[2:] == ["held paused second @31.2"]
    said(run, 70, "resumed").restart()
    run.tick(84.9).tick(85)
    assert run.said()[3:] == ["eligible sent_to_delivery second @85", "completed end second @85"]


def test_a_message_that_a_pause_outlasts_is_given_up():
    flow = f"flow:\n- send: {{channel: email, template: t, lifetime: 20m}}\n  name: first\n- wait: 1m\n- send: {SEND}\n"
    head = "campaign: cart\npattern: cart.item.added then no order.created for 1m\n"
    run = Shop(arbiter=None).publish(0, flow, head).join().put(1, "cart.item.added")
    said(run, 1.5, "paused").tick(3).tick(18).tick(22.99).tick(23).tick(30)
    assert run.said()[1:] == ["held paused first @3", "suppressed expired first @23", "held paused send @30"]


def test_a_command_that_a_pause_holds_for_days_goes_on_within_an_hour_of_its_end():
    head = "campaign: cart\npattern: cart.item.added then no order.created for 1m\n"
    run = (
        Shop(arbiter=None)
        .publish(0, "flow:\n- accrue: {points: 5, reason: gift}\n", head)
        .join()
        .put(1, "cart.item.added")
    )
    said(run, 1.5, "paused")
    end = 10 * 24 * 60
    for minute in range(2, end, 15):
        run.tick(minute)
    said(run, end, "resumed")
    for minute in range(end + 1, end + 62):
        run.tick(minute)
    assert [line.rpartition(" ")[0] for line in run.said()[-2:]] == ["issued accrue accrue", "completed end accrue"]
    asked_at = float(run.said()[-1].rpartition("@")[2])
    assert end < asked_at <= end + 60


def test_a_plain_send_waits_for_the_end_of_a_pause_and_keeps_its_id():
    run = Shop(arbiter=None).publish(0, f"send: {SEND}\n", ABSENCE).join().put(1, "cart.item.added", product_id="p")
    said(run, 2, "paused").tick(12).tick(27)
    said(run, 28, "resumed").tick(42)
    assert run.said() == ["held paused - @12", "eligible sent_to_delivery - @42"]
    assert run.decisions[0].command_id == run.commands[0].command_id


def test_an_exit_ends_what_a_pause_holds():
    run = Shop(arbiter=None).publish(0, FLOW + "exit_on: order.created\n").join()
    said(run.put(1, "cart.item.added", product_id="p"), 2, "paused").tick(31.2).put(
        40, "order.created", items=[{"product_id": "p"}]
    )
    said(run, 41, "resumed").tick(90)
    assert run.said()[3:] == ["exited exit_on second @40"]


def test_an_edit_ends_no_pause():
    run = Shop(arbiter=None).publish(0, FLOW).join()
    said(run, 1, "paused").publish(2, f"send: {SEND}\n").restart()
    run.put(3, "cart.item.added", product_id="p")
    assert run.decisions == []
    said(run, 4, "resumed").put(5, "cart.item.added", product_id="q")
    assert len(run.commands) == 1


def test_a_draining_campaign_begins_nothing_until_it_is_resumed_or_published():
    run = Shop(arbiter=None).publish(0, FLOW).join().put(1, "cart.item.added", product_id="p")
    said(run, 2, "drained").restart()
    run.put(3, "cart.item.added", product_id="q").tick(32)
    assert run.sent() == [("first", 1), ("second", 32)]
    assert [row["state"] for row in run.engine.campaigns_view()] == ["draining"]
    said(run, 33, "resumed").put(34, "cart.item.added", product_id="r")
    said(run, 35, "drained").publish(36, FLOW).put(37, "cart.item.added", product_id="s")
    assert [minute for step, minute in run.sent() if step == "first"] == [1, 34, 37]


def test_a_stop_ends_journeys_and_waiting_instances():
    run = Shop(arbiter=None).publish(0, FLOW, ABSENCE).join().put(1, "cart.item.added", product_id="p").tick(11.5)
    run.put(12, "cart.item.added", product_id="q")
    said(run, 13, "stopped").restart()
    assert [row["state"] for row in run.engine.campaigns_view()] == ["stopped"]
    run.tick(30).tick(60)
    assert run.said()[2:] == ["exited stopped wait @60"]
    run.put(61, "cart.item.added", product_id="r").tick(80)
    assert len(run.sent()) == 1


def test_a_stopped_campaign_that_is_published_again_starts_anew():
    run = Shop(arbiter=None).publish(0, FLOW).join().put(1, "cart.item.added", product_id="p")
    said(run, 2, "stopped")
    said(run, 3, "resumed").put(4, "cart.item.added", product_id="q")
    assert run.sent() == [("first", 1)]
    run.publish(5, FLOW).restart()
    run.put(6, "cart.item.added", product_id="r")
    assert [word for word in run.said() if word.startswith("exited")] == ["exited stopped wait @4"]
    assert run.sent() == [("first", 1), ("first", 6)]


def test_a_record_about_a_campaign_nobody_knows_changes_nothing():
    run = Shop(arbiter=None).publish(0, FLOW).join()
    for what in ("paused", "drained", "stopped", "resumed"):
        said(run, 1, what, "other").put(1, f"campaign.{what}", None)
    assert [row["state"] for row in run.engine.campaigns_view()] == ["live"]
    assert run.letters == []


def test_a_paused_version_that_drains_is_not_retired():
    run = Shop(arbiter=None).publish(0, FLOW).join().put(1, "cart.item.added", product_id="p")
    run.publish(2, f"send: {SEND}\n")
    said(run, 3, "paused").tick(31.2)
    year = 400 * 1440
    said(run, year, "drained")  # a control record looks for versions whose last instance must have ended
    assert [row["state"] for row in run.engine.campaigns_view()] == ["draining", "draining"]


@pytest.mark.parametrize("ended", ["drained", "stopped"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_given_campaign_begins_again_where_the_log_publishes_it_again(ended, restart):
    """As one from the log does: a replay of given campaigns repeats what operators did."""
    found = []
    for given in (False, True):
        run = Shop(arbiter=None).publish(0, FLOW)
        if given:
            (plan,) = run.engine.registry.live.values()
            run.store, run.offset = MemoryStore(), 0
            engine = partial(PartitionEngine, 0, run.store, campaigns=[Plan(plan.campaign)])
            run.engine = engine()
            run.publish(0, FLOW)
        run.join().put(1, "cart.item.added", product_id="p")
        said(run, 2, ended).put(3, "cart.item.added", product_id="q").publish(4, FLOW)
        if restart and given:
            run.engine = engine()
        run.put(5, "cart.item.added", product_id="r").tick(40)
        found.append(run.said())
    assert found[0] == found[1]
    assert "eligible sent_to_delivery first @5" in found[1]


CASES = """
- name: a pause holds the message, and it leaves when the campaign goes on
  events:
    - {at: 10:00, type: cart.item.added, id: c1, product_id: p1}
    - {at: 10:05, type: campaign.paused}
    - {at: 11:00, type: campaign.resumed}
  until: 12:00
  expect:
    - {decision: held, reason: paused, anchor: c1}
    - {fires: 11:10, anchor: c1}

- name: a stop ends it
  events:
    - {at: 10:00, type: cart.item.added, id: c1, product_id: p1}
    - {at: 10:05, type: campaign.stopped}
  until: 12:00
  expect: []
"""


def test_cases_may_have_what_an_operator_says():
    campaign, _ = load_campaign(f"{ABSENCE}send: {SEND}\n", "c.yaml")
    cases, findings = read_cases(CASES, "c.cases.yaml")
    assert campaign is not None
    assert not findings
    assert [found.message for case in cases for found in check_case(case, Plan(campaign), "c.cases.yaml")] == []


def test_the_run_begins_when_these_tests_think():
    assert datetime.fromtimestamp(START / 1000, UTC) == datetime(2026, 3, 2, 10, tzinfo=UTC)
    assert "cart.item.added" in HEAD
