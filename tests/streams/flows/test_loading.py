"""Flows as written: what is read, what is refused and where, what a version depends on."""

import pytest

from schemas.flow import Arm, Awaited, BranchStep, Case, ExitStep, SendStep, SplitStep, Variant, WaitStep
from streams.campaigns import load_campaign
from streams.flows.plan import FlowPlan

HEAD = """campaign: cart
pattern: cart.item.added as c then no order.created for 1h, same product_id
"""
SEND = "{channel: email, template: a}"


def read(flow, more=""):
    text = f"{HEAD}{more}flow:\n{flow}"
    return load_campaign(text, "c.yaml")


def found(flow, more=""):
    """Findings as (code, line, column)."""
    return [(f.code, f.line, f.column) for f in read(flow, more)[1]]


def steps(flow):
    campaign, findings = read(flow)
    assert findings == ()
    return campaign.flow.steps


def test_steps_follow_each_other_in_the_order_written():
    first, wait, last = steps(f"- send: {SEND}\n- wait: 1d\n- send: {SEND}\n")
    assert (first.name, first.then) == ("send", "wait")
    assert wait == WaitStep("wait", 86_400_000, then="send-2")
    assert (last.name, last.then) == ("send-2", "")


def test_the_ways_of_a_branch_meet_at_the_step_behind_it():
    found = steps(f"""- branch:
    - if: c.price > 100
      then:
        - wait: 1h
    - if: member.vip
      then:
        - exit: vip
    - else:
        - wait: 2h
- send: {SEND}
""")
    assert found == (
        BranchStep("branch", (Case("c.price > 100", "wait"), Case("member.vip", "exit")), "wait-2"),
        WaitStep("wait", 3_600_000, then="send"),
        ExitStep("exit", "vip"),
        WaitStep("wait-2", 7_200_000, then="send"),
        found[-1],
    )


def test_a_branch_without_else_and_an_empty_arm_go_on_behind():
    branch, _, split, _, last = steps(f"""- branch:
    - if: member.vip
      then: [{{wait: 1h}}]
- split:
    a: {{weight: 9, then: [{{wait: 2h}}]}}
    b: {{}}
- send: {SEND}
""")
    assert branch.otherwise == split.name
    assert split == SplitStep("split", (Arm("a", 9, "wait-2"), Arm("b", 1, last.name)))


def test_waits_are_for_a_span_an_event_a_window_or_a_weekday():
    assert steps("""- wait: {until: 'order.created[total > 5] as o', timeout: 2d}
- wait: {window: 09:00-21:00}
- wait: {weekday: 'friday, monday', at: 10:30}
- wait: {weekday: sunday}
- wait: {until: consent.revoked, timeout: 1d, key: any}
""") == (
        WaitStep("wait", 172_800_000, Awaited("order.created[total > 5] as o"), then="wait-2"),
        WaitStep("wait-2", window=(540, 1260), then="wait-3"),
        WaitStep("wait-3", weekdays=(0, 4), at_minute=630, then="wait-4"),
        WaitStep("wait-4", weekdays=(6,), then="wait-5"),
        WaitStep("wait-5", 86_400_000, Awaited("consent.revoked", "any")),
    )


def test_variants_name_their_templates_and_weights():
    (send,) = steps("- {send: {channel: sms, template: a}, variants: {x: one, y: {template: two, weight: 3}}}\n")
    assert send.variants == (Variant("x", 1, "one"), Variant("y", 3, "two"))


def test_goal_and_exit_on_are_one_event_or_several():
    more = "goal: order.created\nexit_on: [cart.cleared, {event: member.erased, key: any}]\n"
    flow = read(f"- send: {SEND}\n", more)[0].flow
    assert flow.goal == (Awaited("order.created"),)
    assert flow.exit_on == (Awaited("cart.cleared"), Awaited("member.erased", "any"))


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        ("- send: {channel: email, template: a}\n  wait: 1d\n", ("step-kind", 4, 3)),
        ("- name: x\n", ("step-kind", 4, 3)),
        ("- wait: 1d\n  name: x\n- wait: 1d\n  name: x\n", ("duplicate-step", 7, 9)),
        ("- wait: {until: order.created}\n", ("missing-timeout", 4, 9)),
        ("- wait: {until: order.created, window: 9:00-10:00}\n", ("wait-kind", 4, 9)),
        ("- wait: {until: 2+ order.created, timeout: 1d}\n", ("not-one-event", 4, 17)),
        ("- wait: {until: order.creatd, timeout: 1d}\n", ("unknown-event", 4, 17)),
        ("- wait: {until: consent.revoked, timeout: 1d}\n", ("unknown-same", 4, 17)),
        ("- wait: {window: 9-10}\n", ("syntax", 4, 18)),
        ("- wait: {weekday: mondy}\n", ("unknown-weekday", 4, 19)),
        ("- wait: {weekday: monday, at: 25:00}\n", ("syntax", 4, 31)),
        ("- wait: 500d\n", ("long-wait", 4, 3)),
        ("- exit: a b\n", ("bad-name", 4, 9)),
        ("- exit: bought\n- wait: 1d\n", ("unreachable-flow-step", 5, 3)),
        ("- branch:\n    - if: outcome.frist = 'sent'\n      then: [{exit: x}]\n", ("unknown-step", 5, 11)),
        (
            "- branch:\n    - else: [{exit: x}]\n    - if: member.vip\n      then: [{exit: y}]\n",
            ("else-not-last", 5, 13),
        ),
        ("- branch:\n    - if: o.total > 5\n      then: [{exit: y}]\n", ("unknown-alias", 5, 11)),
        ("- split: {a: {weight: 1}}\n", ("too-few", 4, 10)),
        ("- split: {a: {weight: 0}, b: {}}\n", ("wrong-number", 4, 23)),
        ("  []\n", ("empty", 4, 3)),
        ("- send: {channel: email, template: a, data: {x: c.pric}}\n", ("unknown-attribute", 4, 49)),
        ("- wait: 1d\n  variants: {a: b, c: d}\n", ("no-effect", 5, 13)),
    ],
)
def test_what_is_wrong_is_said_in_its_place(flow, expected):
    assert expected in found(flow)


def test_a_name_is_known_only_behind_the_wait_that_binds_it():
    bound = "- wait: {until: order.created as o, timeout: 1d}\n- branch: [{if: o.total > 5, then: [{exit: x}]}]\n"
    assert found(bound) == []
    early = "- branch: [{if: o.total > 5, then: [{exit: x}]}]\n- wait: {until: order.created as o, timeout: 1d}\n"
    assert "unknown-alias" in [code for code, _, _ in found(early)]


def test_a_wait_cannot_see_what_ends_the_journey():
    wait = "- wait: {until: 'order.created[total > 5]', timeout: 1d}\n"
    assert [code for code, _, _ in found(wait, "goal: order.created\n")] == ["never-true"]
    assert found(wait, "goal: 'order.created[total > 9]'\n") == []


def test_a_lenient_reader_keeps_an_event_that_can_never_come():
    text = HEAD + "flow:\n- wait: {until: 'order.created[total > 5 and total < 4]', timeout: 1d}\n"
    assert load_campaign(text, "c.yaml")[0] is None
    campaign, _ = load_campaign(text, "c.yaml", lenient=True)
    assert campaign is not None and campaign.flow is not None
    assert campaign.flow.steps[0] == WaitStep("wait", 86_400_000, Awaited("order.created[total > 5 and total < 4]"))


def test_a_flow_stands_alone():
    assert ("flow-and-send", 3, 7) in found(f"- send: {SEND}\n", f"send: {SEND}\n")
    assert ("no-effect", 3, 7) in [
        (f.code, f.line, f.column) for f in load_campaign(HEAD + "goal: order.created\n", "")[1]
    ]
    assert "no-effect" in [code for code, _, _ in found(f"- send: {SEND}\n", "on_late: cancel\n")]


def version(flow, more=""):
    return read(flow, more)[0].version


def test_a_version_is_what_the_flow_means():
    one = version("- wait: {until: 'order.created[total > 5]', timeout: 1d}\n- exit: x\n", "goal: cart.cleared\n")
    same = version(
        "- wait: {timeout: 24h, until: 'order.created[ total>5 ]'}\n- exit: x\n",
        "goal: [cart.cleared]\non_edit: drop\n",
    )
    assert one == same
    others = [
        version("- wait: {until: 'order.created[total > 6]', timeout: 1d}\n- exit: x\n", "goal: cart.cleared\n"),
        version("- wait: {until: 'order.created[total > 5]', timeout: 2d}\n- exit: x\n", "goal: cart.cleared\n"),
        version("- wait: {until: 'order.created[total > 5]', timeout: 1d}\n- exit: x\n", "exit_on: cart.cleared\n"),
        version("- wait: {until: 'order.created[total > 5]', timeout: 1d}\n- exit: y\n", "goal: cart.cleared\n"),
    ]
    assert len({one, *others}) == 5


def test_a_plain_send_is_a_flow_of_one_step():
    campaign, _ = load_campaign(f"{HEAD}send: {SEND}\n", "c.yaml")
    assert campaign is not None
    plan = FlowPlan(campaign, frozenset("c"))
    assert list(plan.steps) == [plan.first] == ["send"]
    assert isinstance(plan.steps["send"], SendStep)
    assert not plan.explicit


def test_the_longest_way_bounds_how_long_a_journey_lasts():
    campaign, _ = read(f"- wait: 2d\n- send: {SEND}\n- wait: {{weekday: monday}}\n")
    assert FlowPlan(campaign, frozenset()).horizon_ms(5_000) == (2 + 1 + 9) * 86_400_000 + 10_000
