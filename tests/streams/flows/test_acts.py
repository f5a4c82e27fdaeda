"""Steps that issue commands about the member: what they emit, and what the profile has from then on."""

import pytest

from schemas.findings import errors
from schemas.ids import command_id, instance_id
from schemas.member_commands import AccruePoints, UpdateSegments, UpdateTags
from streams.campaigns import load_campaign
from streams.flows.acts import MARKS_MAX
from tests.streams.flows.runs import HEAD, MINUTE, START, Shop

SEND = "{channel: email, template: t}"


def loaded(flow):
    return load_campaign(f"{HEAD}flow:\n{flow}", "c.yaml")


def codes(flow):
    return [found.code for found in errors(loaded(flow)[1])]


def run_of(flow, **data):
    run = Shop(arbiter=None).publish(0, f"flow:\n{flow}").join()
    return run.put(1, "cart.item.added", product_id="p", **data)


@pytest.mark.parametrize(
    ("step", "code"),
    [
        ("accrue: {reason: gift}", "missing-key"),
        ("accrue: {points: 0}", "wrong-number"),
        ("accrue: {points: -5}", "wrong-number"),
        ("accrue: {points: 2000000000}", "wrong-number"),
        ("accrue: 5", "wrong-kind"),
        ("accrue: {points: 5, expires: soon}", "span"),
        ("accrue: {points: 5, amount: 1}", "unknown-key"),
        ("tag: {}", "missing-key"),
        ("tag: {add: 'a b'}", "bad-name"),
        ("tag: {add: vip, remove: [vip, old]}", "no-effect"),
        ("segment: {add: {a: b}}", "bad-name"),
        ("call: {script: a, channel: sms}", "duplicate-key"),
        ("call: {data: {}}", "missing-key"),
        ("webhook: hello", "wrong-kind"),
    ],
)
def test_what_a_step_cannot_mean_is_refused(step, code):
    assert code in codes(f"- {step}\n")


def test_points_are_a_number_or_what_the_event_says():
    run = run_of(
        "- accrue: {points: 50, reason: gift, expires: 30d}\n  name: gift\n- accrue: {points: c.price}\n", price=12.5
    )
    gift, price = run.told
    named = instance_id("cart", "m", "p", gift.anchor)
    assert gift == AccruePoints(
        command_id(named, "gift"), "m", "cart", gift.version, named, "gift", 50.0, START + MINUTE, START + MINUTE,
        gift.anchor, "gift", START + MINUTE + 30 * 86_400_000,
    )  # fmt: skip
    assert (price.points, price.expires_at_ms, price.step) == (12.5, None, "accrue")
    assert run.said() == [
        "entered flow - @1",
        "issued accrue gift @1",
        "issued accrue accrue @1",
        "completed end accrue @1",
    ]
    assert [d.command_id for d in run.decisions[1:3]] == [gift.command_id, price.command_id]


@pytest.mark.parametrize("price", [None, 0, -1, 2_000_000_000])
def test_no_command_is_issued_for_what_are_no_points(price):
    run = run_of(
        "- accrue: {points: c.price}\n  name: gift\n"
        f"- branch:\n  - if: outcome.gift = 'no_points'\n    then:\n    - send: {SEND}\n",
        **({} if price is None else {"price": price}),
    )
    assert run.told == []
    assert run.said()[1] == "suppressed no_points gift @1"
    assert len(run.commands) == 1


def test_tags_and_segments_are_in_the_profile_from_the_step_on():
    flow = (
        "- tag: {add: [vip, new], remove: old}\n- segment: {add: buyers}\n"
        "- branch:\n  - if: member.tags contains 'vip' and member.segments contains 'buyers'\n"
        f"    then:\n    - send: {SEND}\n"
    )
    run = Shop(arbiter=None).publish(0, f"flow:\n{flow}").join(tags=["old", "kept", "vip"])
    run.put(1, "cart.item.added", product_id="p")
    profile = run.engine.member_view("m")["profile"]
    assert (profile["tags"], profile["segments"]) == (["kept", "vip", "new"], ["buyers"])
    tags, segments = run.told
    assert isinstance(tags, UpdateTags)
    assert (tags.add, tags.remove) == (["vip", "new"], ["old"])
    assert isinstance(segments, UpdateSegments)
    assert (segments.add, segments.remove) == (["buyers"], [])
    assert len(run.commands) == 1
    run.restart()
    assert run.engine.member_view("m")["profile"] == profile


def test_other_campaigns_see_what_a_step_changed():
    run = run_of("- tag: {add: vip}\n")
    text = f"campaign: vips\npattern: order.created\nwhere: member.tags contains 'vip'\nsend: {SEND}\n"
    run.put(2, "campaign.published", None, path="v.yaml", yaml=text)
    run.put(3, "order.created").put(3, "order.created", member="other")
    assert [c.member_id for c in run.commands] == ["m"]


def test_a_member_has_a_bounded_number_of_tags():
    names = [f"t{n}" for n in range(MARKS_MAX)]
    run = Shop(arbiter=None).publish(0, "flow:\n- tag: {add: one_more}\n").join(tags=names)
    run.put(1, "cart.item.added", product_id="p")
    assert run.said()[1] == "suppressed marks_full tag @1"
    assert run.told == []
    assert run.engine.member_view("m")["profile"]["tags"] == names


@pytest.mark.parametrize(
    ("step", "grows"),
    [("remove: t1", 0), ("remove: [t1, t2], add: new", 0), ("remove: t1, add: new", 0), ("remove: t1, add: [a, b]", 1)],
)
def test_a_step_that_leaves_no_more_tags_than_there_were_needs_no_room(step, grows):
    names = [f"t{n}" for n in range(MARKS_MAX + 6)]  # a profile event may bring so many
    run = Shop(arbiter=None).publish(0, f"flow:\n- tag: {{{step}}}\n").join(tags=names)
    run.put(1, "cart.item.added", product_id="p")
    assert [word for word in run.said() if "marks_full" in word] == ["suppressed marks_full tag @1"] * grows
    assert ("t1" in run.engine.member_view("m")["profile"]["tags"]) == bool(grows)


def test_in_a_pause_nothing_is_issued():
    run = Shop(arbiter=None).publish(0, "flow:\n- wait: 1m\n- accrue: {points: 5}\n").join()
    run.put(1, "cart.item.added", product_id="p").put(1.5, "campaign.paused", None, campaign="cart").tick(3).tick(18)
    assert run.told == []
    run.put(20, "campaign.resumed", None, campaign="cart").restart()
    run.tick(32.9).tick(33)
    assert run.said()[1:] == ["held paused accrue @3", "issued accrue accrue @33", "completed end accrue @33"]
    assert [c.decided_at_ms for c in run.told] == [START + 33 * MINUTE]


def test_a_call_and_a_webhook_are_sends_on_their_channels():
    short = loaded("- call: {script: offer, data: {name: c.name}}\n  name: a\n- webhook: {template: crm}\n  name: b\n")[
        0
    ]
    long = loaded(
        "- send: {channel: call, template: offer, data: {name: c.name}}\n  name: a\n"
        "- send: {channel: webhook, template: crm}\n  name: b\n"
    )[0]
    assert (short.flow, short.version) == (long.flow, long.version)
    assert [step.name for step in loaded("- call: {script: offer}\n- webhook: {template: crm}\n")[0].flow.steps] == [
        "call",
        "webhook",
    ]


def test_the_version_follows_what_a_step_asks_for():
    texts = [
        "accrue: {points: 5}",
        "accrue: {points: 6}",
        "accrue: {points: 5, expires: 1d}",
        "tag: {add: a}",
        "tag: {remove: a}",
    ]
    assert len({loaded(f"- {text}\n")[0].version for text in texts}) == len(texts)
    assert loaded("- tag: {add: a}\n")[0].version == loaded("- tag: {add: [a]}\n")[0].version


def test_the_variant_is_in_the_command():
    run = run_of(f"- send: {SEND}\n  variants: {{a: ta, b: tb}}\n- send: {SEND}\n")
    assert [c.variant for c in run.commands] == [run.decisions[1].inputs["variant"], ""]
