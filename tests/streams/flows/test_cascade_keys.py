"""The key `cascade` as written: what is read, what is refused and where, what is warned of."""

import pytest

from schemas.campaign import DEFAULT_LIFETIME_MS, Send
from schemas.flow import CascadeStep, Leg
from tests.streams.flows.test_loading import found, read

MINUTE, HOUR = 60_000, 3_600_000


def cascade(text):
    """The flow's cascade; warnings are allowed, errors are not."""
    campaign, findings = read(f"- cascade: {text}\n  name: news\n")
    assert campaign is not None, findings
    (step,) = campaign.flow.steps
    return step


def codes(text):
    """Errors as (code, column)."""
    campaign, findings = read(f"- cascade: {text}\n")
    assert (campaign is None) == any(f.severity == "error" for f in findings)
    return [(f.code, f.column) for f in findings if f.severity == "error"]


def test_legs_are_channel_time_and_template():
    assert cascade("[viber 10m a, call 3h b/c, sms d]") == CascadeStep(
        "news",
        (
            Leg(Send("viber", "a"), 10 * MINUTE),
            Leg(Send("call", "b/c"), 3 * HOUR),
            Leg(Send("sms", "d"), DEFAULT_LIFETIME_MS),
        ),
    )


def test_what_legs_share_stands_beside_them():
    step = cascade(
        "{legs: [viber 1h30m, sms 20m text], template: a, category: transactional, lifetime: 2h, topic: news,"
        " priority: 70, data: {price: c.price}}"
    )
    price = {"price": "c.price"}
    assert step.legs == (
        Leg(Send("viber", "a", price, "transactional", 2 * HOUR, topic="news", priority=70), 90 * MINUTE),
        Leg(Send("sms", "text", price, "transactional", 2 * HOUR, topic="news", priority=70), 20 * MINUTE),
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("sms", [("wrong-kind", 12)]),
        ("{legs: sms, template: a}", [("wrong-kind", 19)]),
        ("{template: a}", [("missing-key", 12)]),
        ("[sms a]", [("leg-count", 12)]),
        ("[viber 1h a, sms b, call c]", [("missing-span", 25)]),
        ("[viber a, sms b]", [("missing-span", 13)]),
        ("[viber 0m a, sms b]", [("zero-span", 13)]),
        ("[viber 400d a, sms b]", []),
        ("[viber 401d a, sms b]", [("long-wait", 13)]),
        ("[viber 5x a, sms b]", [("span", 13)]),
        ("[viber 1h, sms b]", [("missing-template", 13)]),
        ("[viber 1h a b, sms c]", [("bad-leg", 13)]),
        ("[viber 1h a, {sms: b}]", [("bad-leg", 25)]),
        ("[viber 1h ../a, sms b]", [("bad-template", 13)]),
        ("[viber 1h a, sms 1h b, viber c]", [("duplicate-leg", 35)]),
        ("[vibr 1h a, sms b]", [("unknown-channel", 13)]),
        ("{legs: [viber 1h, sms], template: a, lane: slow}", [("unknown-lane", 55)]),
        ("{legs: [viber 1h, sms], template: a, data: {x: d.price}}", [("unknown-alias", 59)]),
        ("{legs: [viber 1h, sms], template: a, text: b}", [("unknown-key", 49)]),
    ],
)
def test_a_cascade_that_is_none_is_refused_where_it_is_wrong(text, wanted):
    assert codes(text) == wanted


def test_a_cascade_has_at_most_eight_legs():
    channels = ["viber", "sms", "whatsapp", "call", "email", "push", "in_app", "bot"]
    assert len(cascade(f"[{', '.join(f'{channel} 1h t' for channel in channels)}]").legs) == 8
    assert codes(f"[{', '.join(f'{channel} 1h t' for channel in [*channels, 'pos'])}]") == [("leg-count", 12)]


def test_channels_of_which_nobody_tells_that_they_were_delivered_are_warned_of():
    _, findings = read("- cascade: [email 1d a, sms b]\n")
    assert [(f.code, f.severity, f.line, f.column) for f in findings] == [("silent-channel", "warning", 4, 13)]
    assert "the next leg follows all the same" in findings[0].message
    _, findings = read("- cascade: [sms 1d a, email b]\n")
    assert "the flow goes on when its time is over" in findings[0].message
    assert found("- cascade: [sms 1d a, viber b]\n") == []


def test_only_send_has_variants():
    assert found("- cascade: [sms 1h a, viber b]\n  variants: {a: x, b: y}\n") == [("no-effect", 5, 13)]


def test_conditions_may_name_a_cascade_that_comes_before():
    more = "- branch:\n    - if: outcome.news = 'sms'\n      then:\n        - exit: paid\n"
    assert found(f"- cascade: [viber 1h a, sms b]\n  name: news\n{more}") == []


def test_an_edit_of_a_leg_is_another_version():
    def version(text):
        return read(f"- cascade: {text}\n")[0].version

    one = version("[viber 1h a, sms b]")
    assert version("[ viber  60m  a, 'sms b' ]") == one
    others = ["[viber 2h a, sms b]", "[viber 1h c, sms b]", "[sms 1h a, viber b]", "[viber 1h a, sms 1h b]"]
    assert len({one, *map(version, others)}) == 5
