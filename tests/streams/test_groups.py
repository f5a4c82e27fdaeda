"""Control and holdout groups of a campaign: who is in, what is recorded, what it does to the rest."""

import pytest

from schemas.findings import errors
from streams.campaigns import load_campaign
from streams.policies.groups import BUCKETS, bucket_of
from tests.streams.flows.runs import Shop

HEAD = "campaign: cart\npattern: order.created\n"
SEND = "send: {channel: email, template: t}\n"
MEMBERS = [f"m{n}" for n in range(200)]


def loaded(more):
    return load_campaign(f"{HEAD}{SEND}{more}", "c.yaml")


def run_of(more, members=MEMBERS, head=HEAD):
    run = Shop(arbiter=None).publish(0, more, head)
    for member in members:
        run.put(1, "member.registered", member, email=f"{member}@x.example", consent={"email": True})
    for member in members:
        run.put(2, "order.created", member)
    return run


@pytest.mark.parametrize(
    "text", ["control: 0%", "control: 100%", "control: 10", "control: ten", "control: 1.234%", "holdout: {group: a}",
             "holdout: {group: A b, percent: 5%}", "holdout: 5%"],
)  # fmt: skip
def test_a_share_is_more_than_none_and_less_than_all(text):
    assert errors(loaded(f"{text}\n")[1])


def test_groups_are_part_of_the_version():
    texts = ["", "control: 10%\n", "control: 11%\n", "holdout: {group: a, percent: 10%}\n"]
    assert len({loaded(text)[0].version for text in texts}) == len(texts)
    assert loaded("control: 10%\n")[0].version == loaded("control: 10.0 %\n")[0].version


def test_the_control_group_gets_nothing_and_both_arms_are_recorded():
    run = run_of(f"{SEND}control: 30%\n")
    control = {m for m in MEMBERS if bucket_of(m, "control/cart") < 30 * BUCKETS // 100}
    assert 30 < len(control) < 90
    assert {c.member_id for c in run.commands} == set(MEMBERS) - control
    for decision in run.decisions:
        (exposure,) = decision.inputs["exposures"]
        assert exposure["arm"] == ("control" if decision.member_id in control else "treated")
        assert (exposure["group"], exposure["percent"], exposure["of"]) == ("control", 30, BUCKETS)
        assert exposure["window_ms"] == 5 * 86_400_000
        assert (decision.reason == "control") == (decision.member_id in control)


def test_who_is_in_it_is_the_same_after_an_edit_and_a_larger_share_keeps_them():
    small = {d.member_id for d in run_of(f"{SEND}control: 10%\n").decisions if d.reason == "control"}
    large = {d.member_id for d in run_of(f"{SEND}control: 20%\ntitle: x\n").decisions if d.reason == "control"}
    assert small < large


def test_a_holdout_is_one_group_for_all_campaigns_that_name_it():
    more = f"{SEND}holdout: {{group: spring, percent: 30%}}\n"
    first, second = run_of(more), run_of(more, head="campaign: other\npattern: order.created\n")
    out = [{d.member_id for d in run.decisions if d.reason == "holdout"} for run in (first, second)]
    assert out[0] == out[1] == {m for m in MEMBERS if bucket_of(m, "holdout/spring") < 30 * BUCKETS // 100}
    alone = {d.member_id for d in run_of(f"{SEND}control: 30%\n").decisions if d.reason == "control"}
    assert alone != out[0]


def test_of_two_groups_the_first_that_leaves_a_member_out_says_so():
    run = run_of(f"{SEND}control: 50%\nholdout: {{group: spring, percent: 50%}}\n")
    arms = {tuple((e["group"], e["arm"]) for e in d.inputs["exposures"]) for d in run.decisions}
    assert arms == {
        (("control", "control"),),
        (("control", "treated"), ("holdout:spring", "control")),
        (("control", "treated"), ("holdout:spring", "treated")),
    }


def test_no_journey_begins_for_the_control_group_and_its_firing_counts_for_caps():
    run = run_of("flow:\n- wait: 1m\n- send: {channel: email, template: t}\ncontrol: 30%\nonce: true\n")
    control = [d.member_id for d in run.decisions if d.reason == "control"]
    assert all(run.journeys(member) == [] for member in control)
    assert len([d for d in run.decisions if d.outcome == "entered"]) == len(MEMBERS) - len(control)
    run.put(3, "order.created", control[0])
    assert run.decisions[-1].reason == "once"


def test_the_exposure_is_said_once_and_before_consent_is_asked():
    run = Shop(arbiter=None).publish(0, f"{SEND}control: 1%\n", HEAD).put(1, "order.created", "m1")
    assert [(d.reason, d.inputs["exposures"][0]["arm"]) for d in run.decisions] == [("no_consent", "treated")]
