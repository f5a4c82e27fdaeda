"""A policy file: every finding at its place; what is left out is off; the version is the meaning's."""

import pytest

from schemas.policy import Budget, Cap, ControlGroup, Policy, QuietHours
from streams.campaigns import load_campaign
from streams.policies.load import load_policy

WHOLE = """\
timezone: Europe/Moscow
caps:
  - {limit: 2 per 7d, channel: sms}
  - {limit: 1 per calendar day, category: marketing, reserve: 1 for priority 80}
quiet_hours:
  - {from: "21:00", to: 9:30, channels: [sms, push], then: cancel}
budgets:
  - {limit: 1000 in all, campaign: birthday}
  - {limit: 5 per calendar month, channel: sms}
control_group: {percent: 2.5, salt: h1}
dedupe: {address: 1d}
transactional: {consent: assumed}
"""


def test_a_file_is_read_as_it_says():
    policy, findings = load_policy(WHOLE, "policies.yaml")
    assert findings == ()
    assert policy is not None
    assert policy.caps == (
        Cap(2, 7 * 86_400_000, None, "sms"),
        Cap(1, None, "day", None, "marketing", 1, 80),
    )
    assert policy.quiet_hours == (QuietHours(1_260, 570, ("push", "sms"), True),)
    assert policy.budgets == (Budget(1_000, None, "birthday"), Budget(5, "month", None, "sms"))
    assert policy.control_group == ControlGroup(2.5, "h1")
    assert (policy.timezone, policy.dedupe_address_ms, policy.transactional_consent) == (
        "Europe/Moscow",
        86_400_000,
        False,
    )


def test_what_is_left_out_is_off():
    policy, _ = load_policy("timezone: UTC\n", "p")
    assert policy is not None
    assert (policy.caps, policy.quiet_hours, policy.budgets, policy.control_group) == ((), (), (), None)
    assert (policy.dedupe_address_ms, policy.transactional_consent) == (None, True)
    assert Policy(version=policy.version, source=policy.source) == policy


@pytest.mark.parametrize(
    ("text", "place", "code"),
    [
        ("cpas: []\n", "1:1", "unknown-key"),
        ("caps: 3\n", "1:7", "wrong-kind"),
        ("caps:\n  - {limit: often}\n", "2:13", "wrong-limit"),
        ("caps:\n  - {limit: 0 per 1d}\n", "2:13", "wrong-limit"),
        ("caps:\n  - {limit: 101 per 1d}\n", "2:13", "wrong-limit"),
        ("caps:\n  - {limit: 1 per 2 days}\n", "2:13", "wrong-limit"),
        ("caps:\n  - {limit: 1 per 0d}\n", "2:13", "wrong-limit"),
        ("caps:\n  - {limit: 1 per fortnight}\n", "2:13", "span"),
        ("caps:\n  - {limit: 1 in all}\n", "2:13", "wrong-limit"),
        ("caps:\n  - {channel: sms}\n", "2:5", "missing-key"),
        ("caps:\n  - {limit: 1 per 1d, channel: smss}\n", "2:32", "unknown-channel"),
        ("caps:\n  - {limit: 1 per 1d, category: transactional}\n", "2:33", "no-effect"),
        ("caps:\n  - {limit: 1 per 1d, reserve: 2 for priority 10}\n", "2:32", "wrong-reserve"),
        ("caps:\n  - {limit: 1 per 1d, reserve: much}\n", "2:32", "wrong-reserve"),
        ("caps:\n  - 3 per 1d\n", "2:5", "wrong-kind"),
        ('quiet_hours:\n  - {from: "25:00", to: "9:00"}\n', "2:12", "bad-time"),
        ('quiet_hours:\n  - {from: "9:00", to: "09:00"}\n', "2:24", "never-free"),
        ('quiet_hours:\n  - {from: "9:00", to: "10:00", channels: [mail]}\n', "2:44", "unknown-channel"),
        ('quiet_hours:\n  - {from: "9:00", to: "10:00", then: wait}\n', "2:39", "wrong-choice"),
        ("budgets:\n  - {limit: 5 per 1d}\n", "2:13", "wrong-limit"),
        ("budgets:\n  - {limit: 5 in all}\n  - {limit: 6 in all}\n", "3:13", "duplicate-budget"),
        ("control_group: {percent: 100, salt: a}\n", "1:26", "wrong-number"),
        ("control_group: {percent: 5}\n", "1:16", "missing-key"),
        ("control_group: {percent: 5, salt: 'a b'}\n", "1:35", "bad-salt"),
        ("dedupe: {address: 40d}\n", "1:19", "span"),
        ("transactional: {consent: no}\n", "1:26", "wrong-choice"),
        ("timezone: Mars/Base\n", "1:11", "unknown-timezone"),
        ("- 1\n", "1:1", "no-mapping"),
        ("", "0:0", "empty"),
        ("caps: [\n", "2:1", "yaml-syntax"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text, place, code):
    policy, findings = load_policy(text, "policies.yaml")
    assert policy is None
    assert (code, place) in [(f.code, f"{f.line}:{f.column}") for f in findings], [str(f) for f in findings]


def test_all_findings_come_at_once_in_the_order_of_the_file():
    _, findings = load_policy("dedupe: {address: x}\ncaps:\n  - {limit: x}\n  - {limit: y}\n", "p")
    assert [f.line for f in findings] == [1, 3, 4]


def test_the_version_is_that_of_the_meaning():
    def version(text):
        policy, _ = load_policy(text, "p")
        assert policy is not None
        return policy.version

    assert version("caps:\n  - {limit: 1 per 7d}\n") == version("# so\ncaps: [{limit: 1 per 1w}]\n")
    assert version("caps:\n  - {limit: 1 per 7d}\n") != version("caps:\n  - {limit: 2 per 7d}\n")


def test_topic_and_priority_of_a_send_are_read_and_are_part_of_the_version():
    head = "campaign: c\npattern: order.created\nsend: {channel: email, template: t%s}\n"
    plain, _ = load_campaign(head % "", "c.yaml")
    spelled, _ = load_campaign(head % ", priority: 50", "c.yaml")
    rich, _ = load_campaign(head % ", topic: sale, priority: 90", "c.yaml")
    assert plain is not None and spelled is not None and rich is not None
    assert plain.version == spelled.version
    assert rich.send is not None
    assert (rich.send.topic, rich.send.priority) == ("sale", 90)
    assert rich.version != plain.version


@pytest.mark.parametrize("wrong", ["priority: 101", "priority: high", "topic: 'Not An Id'"])
def test_a_topic_or_priority_that_is_none_is_refused(wrong):
    text = f"campaign: c\npattern: order.created\nsend: {{channel: email, template: t, {wrong}}}\n"
    campaign, findings = load_campaign(text, "c.yaml")
    assert campaign is None
    assert findings[0].line == 3
