"""What the engine adds to the patterns: dates, campaign edits on the log, late events, consent, bounds, replays."""

import json

import pytest

from schemas.commands import CancelMessage, SendMessage
from schemas.events import Record
from streams import memory
from streams.engine import PartitionEngine
from streams.patterns.plan import Plan
from streams.replay import read_log, replay
from tables.member_state import NO_MAP, NO_ROWS
from tests.helpers.runs import DAY, HOUR, MINUTE, Durable, event, firings, plan, run, tick

VIEW, ORDER = "catalog.product.viewed", "order.created"
ABANDON = f"campaign: abandon\npattern: {VIEW} as v then no {ORDER} for 2h, same product_id\n"
SENDING = ABANDON + "send: {channel: email, template: t, data: {product: v.product_id}}\n"
T = 1_772_409_600_000  # Monday 2026-03-02T00:00Z


def member(at=T, **data):
    return event("member.registered", at, "r", email="a@shop.example", consent={"email": True}, **data)


def published(text: str, at: int = T, name: str = "abandon", **more):
    data = {"campaign": name, "yaml": text, "path": "x.yaml", **more}
    return {"type": "campaign.published", "member_id": None, "occurred_at": at, "appended_at": at, "data": data}


def withdrawn(at: int, name: str = "abandon"):
    made = published("", at, name)
    return {**made, "type": "campaign.withdrawn"}


def last_after_restarts(story):
    """Return the firings of the last event, with a new engine on the store after each one before."""
    partition = Durable()
    for made in story[:-1]:
        partition.feed(made)
        partition.engine = partition._open()
    return partition.feed(story[-1]).firings


def test_a_command_carries_what_the_campaign_asks_for():
    epochs = run([plan(SENDING)], member(), event(VIEW, T, "v1", product_id="p1"), tick(T + 3 * HOUR))
    (command,) = [c for epoch in epochs for c in epoch.commands]
    assert isinstance(command, SendMessage)
    assert (command.address, command.data, command.anchor) == ("a@shop.example", {"product": "p1"}, "v1")


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        ({}, "no_consent"),
        ({"consent": {"email": False}, "email": "a@b.example"}, "no_consent"),
        ({"consent": {"email": True}}, "no_address"),
        ({"consent": {"email": True}, "email": "a b@c"}, "invalid_address"),
        ({"consent": {"email": True}, "email": "nobody"}, "invalid_address"),
    ],
)
def test_a_suppression_is_a_decision_with_a_reason_and_still_a_firing(profile, reason):
    who = event("member.registered", T, "r", **profile)
    epochs = run([plan(SENDING)], who, event(VIEW, T, "v1", product_id="p1"), tick(T + 3 * HOUR))
    assert [(d.outcome, d.reason) for e in epochs for d in e.decisions] == [("suppressed", reason)]
    assert len([f for e in epochs for f in e.firings]) == 1
    assert not [c for e in epochs for c in e.commands]


def test_consent_events_are_folded_in_log_order():
    revoked = event("consent.revoked", T + 1, "c", channel="email")
    epochs = run([plan(SENDING)], member(), revoked, event(VIEW, T + 2, "v1", product_id="p1"), tick(T + 3 * HOUR))
    assert [d.reason for e in epochs for d in e.decisions] == ["no_consent"]


def test_an_event_too_late_is_counted_and_cancels_where_the_campaign_asks():
    late = event(ORDER, T + HOUR, "o1", product_id="p1", appended_at=T + 4 * HOUR)
    story = (member(), event(VIEW, T, "v1", product_id="p1"), tick(T + 3 * HOUR), late, {**late, "event_id": "o2"})
    for policy, cancels in (("ignore", 0), ("cancel", 1)):
        epochs = run([plan(SENDING + f"on_late: {policy}\n")], *story)
        assert [d.outcome for e in epochs for d in e.decisions] == ["eligible", "late"]
        sent = [c for e in epochs for c in e.commands]
        cancelled = [c for c in sent if isinstance(c, CancelMessage)]
        assert len(cancelled) == cancels
        assert all(c.command_id == sent[0].command_id for c in cancelled)


def test_an_order_after_a_touch_earns_the_last_one_within_its_window():
    def sent(at, command, window=DAY):
        data = {"command_id": command, "campaign": "c", "version": "v", "instance_id": "i", "channel": "email"}
        return event("delivery.sent", at, f"s-{command}", attribution_window_ms=window, **data)

    epochs = run(
        [plan(ABANDON)],
        sent(T, "first"),
        sent(T + HOUR, "second"),
        event(ORDER, T + 2 * HOUR, "o1", total=12.5, currency="EUR", order_id="7"),
        event(ORDER, T + DAY + HOUR, "o2"),  # a day after the second touch: half-open, too late
    )
    credits = [a for e in epochs for a in e.attributions]
    assert [(a.command_id, a.conversion_event_id, a.value, a.order_id) for a in credits] == [
        ("second", "o1", 12.5, "7")
    ]


def test_a_published_campaign_runs_from_its_place_in_the_log_and_a_withdrawn_one_ends():
    view = event(VIEW, T + 1, "v0", product_id="p0")
    story = (view, published(ABANDON, T + 2), event(VIEW, T + 3, "v1", product_id="p1"))
    assert [f.anchor for f in firings(None, *story, tick(T + 3 * HOUR))] == ["v1"]
    gone = (withdrawn(T + 4), event(VIEW, T + 5, "v2", product_id="p2"), tick(T + 3 * HOUR))
    assert firings(None, *story, *gone) == []


def test_an_edit_drains_what_it_finds_and_takes_over_the_starts():
    shorter = ABANDON.replace("2h", "1h")
    found = firings(
        None,
        published(ABANDON, T),
        event(VIEW, T + 1, "v1", product_id="p1"),
        published(shorter, T + 2),
        event(VIEW, T + 3, "v2", product_id="p2"),
        tick(T + 3 * HOUR),
    )
    assert {(f.anchor, f.due) for f in found} == {("v1", T + 1 + 2 * HOUR), ("v2", T + 3 + HOUR)}


def test_a_campaign_that_cannot_be_run_is_a_dead_letter_and_the_old_one_stays():
    broken = published("campaign: abandon\npattern: nonsense then\n", T + 1)
    epochs = run(None, published(ABANDON, T), broken, event(VIEW, T + 2, "v1", product_id="p1"), tick(T + 3 * HOUR))
    assert [d.reason for e in epochs for d in e.dead_letters] == ["bad-campaign"]
    assert [f.anchor for e in epochs for f in e.firings] == ["v1"]


def test_publishing_the_same_version_again_changes_nothing():
    epochs = run(None, published(ABANDON, T), published(ABANDON + "# a comment\n", T + 1))
    assert sum(len([k for k in e.meta if k.startswith(b"\x00campaign/")]) for e in epochs) == 1


def test_a_birthday_fires_in_the_members_zone_once_a_year():
    birthday = plan("campaign: bday\npattern: 3d before member.birth_date yearly at 10:00\n")
    born = event("member.registered", T, "r", birth_date="1990-03-09", timezone="Europe/Berlin")
    found = firings([birthday], born, tick(T + 5 * DAY), tick(T + 6 * DAY), tick(T + 300 * DAY), tick(T + 371 * DAY))
    assert [(f.anchor, f.due) for f in found] == [
        ("birth_date/2026", T + 4 * DAY + 9 * HOUR),
        ("birth_date/2027", T + 369 * DAY + 9 * HOUR),
    ]


def test_a_changed_birth_date_moves_the_date():
    birthday = plan("campaign: bday\npattern: on member.birth_date yearly at 10:00\n")
    first = event("member.registered", T, "r", birth_date="1990-03-09")
    moved = event("member.updated", T + DAY, "u", birth_date="1990-03-20")
    assert [f.due for f in firings([birthday], first, moved, tick(T + 30 * DAY))] == [T + 18 * DAY + 10 * HOUR]


def test_days_after_an_event_are_re_armed_by_the_next():
    reminder = plan("campaign: r\npattern: 7d after order.created\n")
    found = firings([reminder], event(ORDER, T, "o1"), event(ORDER, T + DAY, "o2"), tick(T + 9 * DAY))
    assert [(f.anchor, f.due) for f in found] == [("o2", T + 8 * DAY)]


def test_a_record_that_is_no_event_is_refused_and_the_rest_go_on():
    lines = [b"{broken", json.dumps(event(VIEW, T, "v1", product_id="p1")).encode(), json.dumps(tick(T + DAY)).encode()]
    epochs = list(replay(read_log(lines), [plan(ABANDON)]))
    assert [(d.offset, d.reason, d.value) for e in epochs for d in e.dead_letters] == [(0, "not-json", b"{broken")]
    assert [f.anchor for e in epochs for f in e.firings] == ["v1"]


def test_a_campaign_that_raises_stops_neither_the_partition_nor_the_others(monkeypatch):
    good, bad = plan(ABANDON), plan(ABANDON.replace("campaign: abandon", "campaign: bad"))

    def fail(data):
        raise ZeroDivisionError

    bad.keys_of = fail
    bad.same = (("other",),)
    bad.wait = None
    epochs = run([good, bad], event(VIEW, T, "v1", product_id="p1"), tick(T + DAY))
    assert [d.reason for e in epochs for d in e.dead_letters] == ["campaign-failed"]
    assert [f.campaign for e in epochs for f in e.firings] == ["abandon"]


def test_a_restart_from_the_store_goes_on_as_if_nothing_had_happened():
    partition = Durable([plan(SENDING)])
    partition.feed(member(), event(VIEW, T, "v1", product_id="p1"))
    partition.engine = partition._open()
    epoch = partition.feed(tick(T + 3 * HOUR))
    assert [f.anchor for f in epoch.firings] == ["v1"]
    assert [c.data for c in epoch.commands if isinstance(c, SendMessage)] == [{"product": "p1"}]


def test_reading_the_log_again_after_a_crash_says_nothing_twice():
    partition = Durable([plan(SENDING)])
    partition.feed(member(), event(VIEW, T, "v1", product_id="p1"))
    partition.feed(tick(T + 3 * HOUR))
    again = partition.crash()
    assert (again.firings, again.commands, again.members) == ([], [], {})


def test_an_epoch_lost_before_it_was_written_is_said_again_byte_for_byte():
    partition = Durable([plan(SENDING)])
    partition.feed(member(), event(VIEW, T, "v1", product_id="p1"))
    lost = partition.feed(tick(T + 3 * HOUR), write=False)
    again = partition.crash()
    assert (again.commands, again.decisions, again.members) == (lost.commands, lost.decisions, lost.members)


def test_a_member_written_by_an_interrupted_epoch_is_neither_advanced_nor_fired_twice():
    partition = Durable([plan(SENDING)])
    partition.feed(member(), event(VIEW, T, "v1", product_id="p1"))
    lost = partition.feed(event(VIEW, T + MINUTE, "v2", product_id="p2"), tick(T + 3 * HOUR), write=False)
    partition.store.write(lost.members, {}, lost.hints, None)  # members reached the changelog, the meta record did not
    again = partition.crash()
    assert (again.firings, again.commands, again.members) == ([], [], {})


def test_member_view_shows_profile_instances_and_decisions():
    partition = Durable([plan(SENDING)])
    partition.feed(member(), event(VIEW, T, "v1", product_id="p1"), event(VIEW, T, "v2", product_id="p2"))
    view = partition.engine.member_view("m1")
    assert view is not None
    assert view["profile"]["email"] == "a@shop.example"
    assert [(i["correlation"], i["due"], i["fires_at"]) for i in view["instances"]] == [
        ("p1", T + 2 * HOUR, T + 2 * HOUR + 5_000),
        ("p2", T + 2 * HOUR, T + 2 * HOUR + 5_000),
    ]
    assert partition.engine.member_view("nobody") is None


def test_members_leave_memory_only_after_their_epoch_is_written():
    partition = Durable([plan(ABANDON)])
    partition.engine._members.budget.limit = 2_000
    partition.feed(event(VIEW, T, "v1", member="a", product_id="p1"), event(VIEW, T, "v2", member="b", product_id="p1"))
    assert len(partition.engine._members) == 1
    epoch = partition.feed(tick(T + 3 * HOUR))
    assert {f.member_id for f in epoch.firings} == {"a", "b"}


def test_the_shared_empty_containers_stay_empty():
    story = [event(VIEW, T + n, f"v{n}", product_id=f"p{n}") for n in range(20)]
    run(
        [plan(SENDING), plan("campaign: n\npattern: 3+ catalog.product.viewed within 1h\n")],
        member(),
        *story,
        tick(T + DAY),
    )
    assert (NO_MAP, NO_ROWS) == ({}, ())


def test_a_plan_asks_only_campaigns_that_can_match_the_value():
    plans = [plan(f'campaign: c{n}\npattern: {VIEW}[category = "c{n}"]\n') for n in range(200)]
    asked: list[str] = []
    for one in plans:
        term = one.steps[0].term
        assert term is not None
        judge = term.refs[0].judge

        def spy(*args, judge=judge, one=one):
            asked.append(one.id)
            return judge(*args)

        term.refs[0].judge = spy
    found = firings(plans, event(VIEW, T, "v1", category="c7"))
    assert [f.campaign for f in found] == ["c7"] == asked


def test_versions_differ_by_meaning():
    assert plan(ABANDON).version == plan(ABANDON + "# said again\n").version != plan(SENDING).version
    assert isinstance(plan(ABANDON), Plan)


def test_what_a_withdrawn_campaign_had_begun_does_not_come_back_when_it_is_published_again():
    story = (
        published(ABANDON, T),
        event(VIEW, T + 1, "v1", product_id="p1"),
        withdrawn(T + 2),
        event(ORDER, T + 3, "o1", product_id="p1"),
        published(ABANDON, T + 4),
        event(VIEW, T + 5, "v2", product_id="p2"),
        tick(T + 3 * HOUR),
    )
    assert [f.anchor for f in firings(None, *story)] == ["v2"]
    assert [f.anchor for f in last_after_restarts(story)] == ["v2"]


@pytest.mark.parametrize("later", ["1h", "3h"])
def test_what_another_version_begins_after_a_withdrawal_fires_beside_what_the_withdrawn_one_left(later):
    story = (
        published(ABANDON, T),
        event(VIEW, T + 1, "v1", product_id="p1"),
        withdrawn(T + 2),
        published(ABANDON.replace("2h", later), T + 3),
        event(VIEW, T + 4, "v2", product_id="p2"),
        tick(T + 4 * HOUR),  # both are due in one step of the clock
    )
    assert [f.anchor for f in firings(None, *story)] == ["v2"]
    assert [f.anchor for f in last_after_restarts(story)] == ["v2"]


def test_a_version_that_comes_back_while_it_drains_keeps_its_instances():
    story = (
        published(ABANDON, T),
        event(VIEW, T + 1, "v1", product_id="p1"),
        published(ABANDON.replace("2h", "1h"), T + 2),
        published(ABANDON, T + 3),
        tick(T + 3 * HOUR),
    )
    assert [f.anchor for f in firings(None, *story)] == ["v1"]


def test_distinct_counts_as_far_as_the_comparison_asks():
    many = plan(f"campaign: d\npattern: distinct({VIEW}.product_id) >= 100 within 1d\n")
    story = [event(VIEW, T + n, f"v{n}", product_id=f"p{n}") for n in range(100)]
    assert [f.completed_by for f in firings([many], *story)] == ["v99"]


def test_a_profile_does_not_grow_without_bound():
    big = "x" * 40_000
    story = (
        event("member.updated", T, "u1", note=big),
        event("member.updated", T + 1, "u2", other=big),
        event("member.updated", T + 2, "u3", city="Riga"),
    )
    partition = Durable([plan(ABANDON)])
    epoch = partition.feed(*story)
    assert [(d.offset, d.reason) for d in epoch.dead_letters] == [(1, "profile-full")]
    view = partition.engine.member_view("m1")
    assert view is not None
    assert set(view["profile"]) == {"note", "city"}


def test_an_engine_breathes_while_it_reads_and_fires_a_mass_of_timers(monkeypatch: pytest.MonkeyPatch):
    """Else a worker with a million members and an outage behind it looks frozen, and ends itself at each start."""
    monkeypatch.setattr(memory, "BREATH", 10)
    durable = Durable([plan(SENDING)])
    for number in range(100):
        durable.feed(event(VIEW, T + number, f"v{number}", member=f"m{number}", product_id="p1"))
    engine = PartitionEngine(0, durable.store, campaigns=durable.plans)  # remembers nobody: all are read at once
    breaths: list[int] = []
    engine.breathe = lambda: breaths.append(1)
    epoch = engine.run([Record(durable.offset, T + 3 * HOUR, None, json.dumps(tick(T + 3 * HOUR)).encode())])
    # of a hundred members each: read, queued, fired, looked at again, encoded
    assert len(epoch.firings) == 100 and len(breaths) == 50
