"""The arbiter's rules one by one, on the real engine or on its pure parts."""

import msgspec
import pytest
import yaml

from streams.policies.groups import BUCKETS, bucket_of, in_control_group
from streams.policies.share import Share
from streams.registry import META_CLOCK
from tables.codec import decode_member, encode_member
from tables.member_state import Contacts, Member
from tests.helpers.runs import DAY, HOUR, MINUTE, Durable, event, tick
from tests.streams.policies.judging import (
    ORDER,
    SENT,
    VIEW,
    T,
    bounce,
    campaign,
    decisions,
    member,
    orders,
    policies,
    reasons,
)

# ---------------------------------------------------------------- consent


@pytest.mark.parametrize(
    ("said", "topic", "reason"),
    [
        ([("granted", "email", None)], "sale", SENT),
        ([("granted", "email", "sale")], "sale", SENT),
        ([("granted", "email", "sale")], "news", "no_consent"),
        ([("granted", "email", "sale")], None, "no_consent"),
        ([("granted", "email", None), ("revoked", "email", "sale")], "sale", "topic_off"),
        ([("granted", "email", None), ("revoked", "email", "sale")], "news", SENT),
        ([("granted", "email", None), ("revoked", "email", "marketing")], "news", "topic_off"),
        ([("revoked", "email", "sale"), ("granted", "email", None)], "sale", "topic_off"),
        ([("granted", "email", "sale"), ("revoked", "email", None)], "sale", "no_consent"),
        ([("revoked", "email", None), ("granted", "email", "sale")], "sale", SENT),
        ([("granted", "sms", "sale")], "sale", "no_consent"),
    ],
)
def test_consent_is_by_channel_and_topic_and_the_latest_word_counts(said, topic, reason):
    words = [
        event(f"consent.{kind}", T + n, f"k{n}", channel=channel, **({"topic": about} if about else {}))
        for n, (kind, channel, about) in enumerate(said, 1)
    ]
    send = {"topic": topic} if topic else {}
    assert reasons([campaign(**send)], None, member(consent={}), *words, *orders(1)) == [reason]


def test_a_profile_that_brings_consent_replaces_its_topics():
    off = event("consent.revoked", T + 1, "k", channel="email", topic="sale")
    anew = event("member.updated", T + 2, "u", consent={"email": True})
    assert reasons([campaign(topic="sale")], None, member(), off, anew, *orders(1)) == [SENT]


def test_a_complaint_and_an_unsubscription_take_consent_back():
    for kind in ("engagement.complained", "engagement.unsubscribed"):
        taken = event(kind, T + 1, "k", channel="email")
        assert reasons([campaign()], None, member(), taken, *orders(1)) == ["no_consent"]


def test_transactional_messages_may_take_silence_for_consent_but_never_a_refusal():
    shop = campaign(category="transactional")
    silent, refused = member(consent={}), member(consent={"email": False})
    assumed = policies(transactional={"consent": "assumed"})
    assert reasons([shop], assumed, silent, *orders(1)) == [SENT]
    assert reasons([shop], assumed, refused, *orders(1)) == ["no_consent"]
    assert reasons([shop], None, silent, *orders(1)) == ["no_consent"]


# ---------------------------------------------------------------- dead addresses


def test_a_hard_bounce_ends_an_address_and_a_soft_one_does_not():
    assert reasons([campaign()], None, member(), bounce(T + 1, "soft"), *orders(1)) == [SENT]
    (said,) = decisions([campaign()], None, member(), bounce(T + 1), *orders(1))
    assert (said.reason, said.inputs["because"]) == ("invalid_address", "hard_bounce")


def test_another_address_of_the_member_is_good_and_the_dead_one_stays_dead_however_it_is_spelled():
    other = event("member.updated", T + 2, "u1", email="new@shop.example")
    again = event("member.updated", T + 2 * HOUR, "u2", email="M1@Shop.Example")
    late = event(ORDER, T + 3 * HOUR, "o9")
    assert reasons([campaign()], None, member(), bounce(T + 1), other, *orders(1), again, late) == [
        SENT,
        "invalid_address",
    ]


def test_transactional_mail_does_not_go_to_a_dead_address_either():
    shop = campaign(category="transactional")
    policy = policies(transactional={"consent": "assumed"})
    assert reasons([shop], policy, member(), bounce(T + 1), *orders(1)) == ["invalid_address"]


def test_a_receipt_names_the_address_it_is_about():
    from schemas.address import address_digest

    old = bounce(T + 1, address_digest=address_digest("email", "old@shop.example"))
    assert reasons([campaign()], None, member(), old, *orders(1)) == [SENT]


# ---------------------------------------------------------------- caps


def test_a_rolling_cap_is_half_open_and_says_when_it_is_free():
    policy = policies(caps=[{"limit": "1 per 1h"}])
    said = decisions([campaign()], policy, member(), *orders(3, step=HOUR // 2))
    assert [d.reason for d in said] == [SENT, "frequency_cap", SENT]
    (row,) = said[1].inputs["caps"]
    assert row == {
        "cap": "1 per 1h", "used": 1, "allowed": 1, "sent_at": [T + HOUR], "free_at": T + 2 * HOUR,
    }  # fmt: skip


def test_a_calendar_day_is_the_members_own():
    policy = policies(caps=[{"limit": "1 per calendar day"}], timezone="Europe/Moscow")
    at = [T + 20 * HOUR, T + 20 * HOUR + 59 * MINUTE, T + 21 * HOUR]  # 23:00, 23:59 and 00:00 in Moscow
    events = [event(ORDER, a, f"o{a}") for a in at]
    assert reasons([campaign()], policy, member(), *events) == [SENT, "frequency_cap", SENT]
    utc = member(timezone="UTC")
    assert reasons([campaign()], policy, utc, *events) == [SENT, "frequency_cap", "frequency_cap"]


def test_caps_count_per_channel_per_category_and_in_all():
    plans = [campaign("a"), campaign("b", channel="sms"), campaign("d", category="transactional")]
    by_channel = policies(caps=[{"limit": "1 per 1d", "channel": "email"}])
    assert reasons(plans, by_channel, member(), *orders(2)) == [SENT, SENT, SENT, "frequency_cap", SENT, SENT]
    in_all = policies(caps=[{"limit": "1 per 1d"}])
    assert reasons(plans, in_all, member(), *orders(1)) == [SENT, "frequency_cap", SENT]
    category = policies(caps=[{"limit": "1 per 1d", "category": "marketing", "channel": "sms"}])
    assert reasons(plans, category, member(), *orders(2)).count("frequency_cap") == 1


def test_a_message_that_never_came_gives_its_slot_back_once():
    policy = policies(caps=[{"limit": "1 per 1d"}])
    first = decisions([campaign()], policy, member(), *orders(1))[0]
    for kind, data, second in (
        ("delivery.failed", {"reason": "attempts_exhausted"}, SENT),
        ("delivery.failed", {"reason": "outcome_unknown"}, "frequency_cap"),
        ("delivery.expired", {}, SENT),
        ("delivery.sent", {}, "frequency_cap"),
    ):
        receipt = event(kind, T + HOUR + 1, "x", channel="email", command_id=first.command_id, **data)
        twice = {**receipt, "event_id": "y"}
        assert reasons([campaign()], policy, member(), *orders(1), receipt, twice, *orders(3)[1:])[1:] == [
            second,
            "frequency_cap",
        ]


# ---------------------------------------------------------------- priority


def test_the_higher_priority_gets_the_slot_and_the_other_is_told_so():
    policy = policies(caps=[{"limit": "1 per 1d"}])
    plans = [campaign("a", priority=10), campaign("b", priority=90)]
    said = {d.campaign: d.reason for d in decisions(plans, policy, member(), *orders(1))}
    assert said == {"a": "priority_lost", "b": SENT}


def test_of_equal_priorities_the_first_asked_gets_it_and_nothing_was_lost_to_a_priority():
    policy = policies(caps=[{"limit": "1 per 1d"}])
    said = decisions([campaign("b"), campaign("a")], policy, member(), *orders(1))
    assert [(d.campaign, d.reason) for d in said] == [("a", SENT), ("b", "frequency_cap")]


def test_timers_of_one_record_compete_by_priority():
    wait = f"{ORDER} as o then no {VIEW} for 1h"
    plans = [campaign("a", wait, priority=10), campaign("b", wait, priority=90)]
    policy = policies(caps=[{"limit": "1 per 1d"}])
    said = {d.campaign: d.reason for d in decisions(plans, policy, member(), *orders(1), tick(T + 5 * HOUR))}
    assert said == {"a": "priority_lost", "b": SENT}


def test_a_message_of_an_earlier_record_has_its_slot_whatever_comes_later():
    policy = policies(caps=[{"limit": "1 per 1d"}])
    plans = [campaign("a", priority=10), campaign("b", VIEW, priority=90)]
    assert reasons(plans, policy, member(), *orders(1), event(VIEW, T + 2 * HOUR, "v")) == [SENT, "frequency_cap"]


def test_a_reserved_slot_waits_for_its_priority():
    policy = policies(caps=[{"limit": "2 per 1d", "reserve": "1 for priority 80"}])
    plans = [campaign("a", priority=10), campaign("b", VIEW, priority=80)]
    view = event(VIEW, T + 2 * HOUR, "v")
    assert reasons(plans, policy, member(), *orders(2), view) == [SENT, "priority_lost", SENT]


# ---------------------------------------------------------------- quiet hours, control, budget, address


def test_quiet_hours_are_on_the_members_wall_and_spare_transactional_messages():
    policy = policies(quiet_hours=[{"from": "21:00", "to": "09:00", "then": "cancel"}])
    here = member(timezone="Europe/Moscow")
    at = event(ORDER, T + 18 * HOUR, "o")  # 21:00 in Moscow
    (said,) = decisions([campaign()], policy, here, at)
    assert said.reason == "quiet_hours_cancel"
    assert said.inputs["quiet_hours"]["local"] == "2026-03-02T21:00:00+03:00"
    assert reasons([campaign()], policy, here, event(ORDER, T + 18 * HOUR - 1, "o")) == [SENT]
    assert reasons([campaign(category="transactional")], policy, here, at) == [SENT]
    other = policies(quiet_hours=[{"from": "21:00", "to": "09:00", "then": "cancel", "channels": ["sms"]}])
    assert reasons([campaign()], other, here, at) == [SENT]


def test_a_control_group_is_stable_and_about_as_large_as_asked():
    names = [f"member-{n}" for n in range(20_000)]
    chosen = [name for name in names if in_control_group(name, "s", 5)]
    assert 850 < len(chosen) < 1_150
    assert chosen == [name for name in names if in_control_group(name, "s", 5)]
    assert set(chosen) != {name for name in names if in_control_group(name, "t", 5)}
    assert set(chosen) <= {name for name in names if in_control_group(name, "s", 7.5)}
    assert all(0 <= bucket_of(name, "s") < BUCKETS for name in names)


def test_the_control_group_gets_nothing_and_exposure_is_recorded_either_way():
    policy = policies(control_group={"percent": 50, "salt": "s"})
    said = {}
    for n in range(30):
        (d,) = decisions([campaign()], policy, member(who=f"p{n}"), *orders(1, who=f"p{n}"))
        said[f"p{n}"] = d
        assert d.inputs["control_group"]["bucket"] == bucket_of(f"p{n}", "s")
    assert {name for name, d in said.items() if d.reason == "control"} == {
        name for name in said if in_control_group(name, "s", 50)
    }
    assert {d.reason for d in said.values()} == {"control", SENT}


def test_a_budget_is_spent_over_members_and_begins_anew_with_its_period():
    policy = policies(budgets=[{"limit": "1 per calendar day", "campaign": "c"}])
    events = [member(), member(who="m2"), *orders(1), *orders(1, who="m2"), event(ORDER, T + 25 * HOUR, "x")]
    said = decisions([campaign()], policy, *events)
    assert [d.reason for d in said] == [SENT, "budget", SENT]
    (row,) = said[1].inputs["budgets"]
    assert (row["used"], row["share"], row["partitions"]) == (1, 1, 1)


def test_shares_of_a_budget_sum_up_to_it():
    for count in (1, 7, 1_000):
        for partitions in (1, 3, 8):
            shares = []
            for number in range(partitions):
                share = Share(number)
                share.partitions = partitions
                shares.append(share.of(count))
            assert sum(shares) == count
            assert max(shares) - min(shares) <= 1


def test_two_members_with_one_mailbox_get_a_campaigns_message_once():
    policy = policies(dedupe={"address": "1h"})
    twin = member(who="m2", email=" M1@shop.example ".strip().upper())
    both = [member(), twin, *orders(1), *orders(1, who="m2", start=T + HOUR + 1)]
    later = orders(1, who="m2", start=T + 3 * HOUR)
    later[0]["event_id"] = "later"
    assert reasons([campaign()], policy, *both, *later) == [SENT, "duplicate", SENT]
    assert reasons([campaign()], policy, member(), *orders(2)) == [SENT, SENT]  # oneself is no twin


def test_an_order_of_rules_names_the_first_that_refuses():
    policy = policies(caps=[{"limit": "1 per 1d"}], quiet_hours=[{"from": "00:00", "to": "23:59", "then": "cancel"}])
    assert reasons([campaign()], policy, member(consent={}), *orders(1)) == ["no_consent"]
    assert reasons([campaign()], policy, member(), *orders(2)) == ["quiet_hours_cancel"] * 2


# ---------------------------------------------------------------- state


def published(at=T, partitions=1, **keys):
    data = {"yaml": yaml.safe_dump(keys), "path": "policies.yaml", "partitions": partitions}
    return {"type": "policy.published", "member_id": None, "occurred_at": at, "appended_at": at, "data": data}


def send_campaign(at=T):
    text = yaml.safe_dump({"campaign": "c", "pattern": ORDER, "send": {"channel": "email", "template": "t"}})
    data = {"campaign": "c", "yaml": text, "path": "c.yaml"}
    return {"type": "campaign.published", "member_id": None, "occurred_at": at, "appended_at": at, "data": data}


def said_of(epoch):
    return [d.reason for d in epoch.decisions]


def test_policies_hold_from_their_record_on_survive_a_restart_and_end_with_their_withdrawal():
    part = Durable()
    part.feed(send_campaign(), member())
    assert said_of(part.feed(*orders(1))) == [SENT]
    part.feed(published(T + 2 * HOUR, caps=[{"limit": "1 per 1d"}]))
    assert said_of(part.feed(event(ORDER, T + 3 * HOUR, "x1"), event(ORDER, T + 4 * HOUR, "x2"))) == [
        SENT,
        "frequency_cap",
    ]
    part.crash()
    assert part.engine.registry.policy is not None
    assert part.engine.registry.policy.source == {"caps": [{"limit": "1 per 1d"}]}
    assert said_of(part.feed(event(ORDER, T + 5 * HOUR, "x3"))) == ["frequency_cap"]
    withdrawn = {**published(T + 6 * HOUR), "type": "policy.withdrawn"}
    assert said_of(part.feed(withdrawn, event(ORDER, T + 7 * HOUR, "x4"))) == [SENT]


def test_policies_that_cannot_be_read_become_a_dead_letter_and_those_before_stay():
    part = Durable()
    part.feed(send_campaign(), member(), published(caps=[{"limit": "1 per 1d"}]))
    (letter,) = part.feed(published(T + 1, caps=[{"limit": "often"}])).dead_letters
    assert letter.reason == "bad-policy"
    assert said_of(part.feed(*orders(2))) == [SENT, "frequency_cap"]


SHARED = {"dedupe": {"address": "2h"}, "budgets": [{"limit": "7 per calendar day"}, {"limit": "9 in all"}]}


def shared_story():
    """Members with common mailboxes, campaigns at once and by timer, a budget that runs out."""
    wait = yaml.safe_dump(
        {
            "campaign": "w",
            "pattern": f"{ORDER} as o then no {VIEW} for 30m",
            "send": {"channel": "email", "template": "t", "priority": 60},
        }
    )
    also = send_campaign()
    also["data"] = {"campaign": "w", "yaml": wait, "path": "w.yaml"}
    story = [send_campaign(), also, published(**SHARED)]
    story += [member(who=f"a{n}", email=f"x{n % 3}@shop.example") for n in range(6)]
    for n in range(24):
        at = T + (n // 3) * 25 * MINUTE
        story.append(event(ORDER, at, f"o{n}", f"a{n % 6}"))
    return story


def batches(story, size):
    return [story[n : n + size] for n in range(0, len(story), size)]


@pytest.mark.parametrize("cut", range(10))
def test_a_partitions_share_is_what_it_was_wherever_an_epoch_was_cut(cut):
    """An epoch whose records reached the changelog up to any of them is computed again, and says the same."""
    story = shared_story()
    whole = Durable()
    wanted = {d.decision_id: d for made in batches(story, 5) for d in whole.feed(*made).decisions}
    final = whole.store.meta()[META_CLOCK]
    assert {"duplicate", "budget", SENT} <= {d.reason for d in wanted.values()}
    for torn in range(len(batches(story, 5))):
        part, found = Durable(), []
        for number, made in enumerate(batches(story, 5)):
            epoch = part.feed(*made, write=number != torn)
            found += epoch.decisions
            if number == torn:
                entries = [*epoch.meta_first.items(), *epoch.members.items(), *epoch.meta.items()][:-1]
                for key, value in entries[: cut * len(entries) // 9]:
                    hints = [hint for hint in epoch.hints if hint[0] == key]  # recovery derives them from members
                    members, meta = ({}, {key: value}) if key[:1] == b"\x00" else ({key: value}, {})
                    part.store.write(members, meta, hints, None)
                part.engine = part._open()
                for record in part.log[-len(made) :]:  # in other batches than the first time
                    again = part.engine.run([record])
                    found += again.decisions
                    part.store.write(again.members, again.meta, again.hints, None)
                    part.engine.written(again)
        assert {d.decision_id: d for d in found} == wanted, torn
        assert all(d == wanted[d.decision_id] for d in found), torn
        assert part.store.meta()[META_CLOCK] == final


def test_addresses_out_of_the_window_leave_the_store():
    part = Durable()
    part.feed(send_campaign(), published(dedupe={"address": "1h"}), member())
    for n in range(5):
        part.feed(event(ORDER, T + n * DAY, f"o{n}"))
    part.feed(tick(T + 9 * DAY))
    assert len([key for key in part.store.meta() if key.startswith(b"\x00address/")]) == 1


def test_what_the_arbiter_knows_is_the_last_field_and_records_of_format_3_lack_it():
    knowing = Member("m")
    knowing.touches = [[1, "c", "k", "v", "i", "email", 5]]
    before = msgspec.msgpack.decode(encode_member(knowing, None))
    assert decode_member("m", msgspec.msgpack.encode([3, *before[1:]])).contacts is None
    knowing.contacts = Contacts({"/": [[5, 7]]}, [["email", "d", "hard_bounce", 3]])
    packed = encode_member(knowing, None)
    assert msgspec.msgpack.decode(packed)[: len(before)] == before
    back = decode_member("m", packed).contacts
    assert back is not None
    assert (back.sent, back.dead) == (knowing.contacts.sent, knowing.contacts.dead)
