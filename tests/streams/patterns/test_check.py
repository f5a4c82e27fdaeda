"""Each finding of a check: when it comes, when it does not, where, and with which words."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.findings import ERROR
from streams.patterns.check import check_at_firing, check_pattern, check_where
from streams.patterns.grammar import MAX_TEXT
from streams.patterns.parser import parse_expression, parse_pattern, read_pattern
from tests.streams.patterns.test_parser import EXAMPLES, EXTENSIONS, WORDS


def found(text):
    return check_pattern(read_pattern(text))


def codes(text):
    return [problem.code for problem in found(text)]


def where(expr, pattern):
    tree = parse_pattern(pattern)
    return [p.code for p in check_where(parse_expression(expr, read_pattern(pattern).aliases), tree)]


def firing(expr, pattern):
    tree = parse_pattern(pattern)
    return [p.code for p in check_at_firing(parse_expression(expr, read_pattern(pattern).aliases), tree, "if still")]


@pytest.mark.parametrize("text", [text for text, _ in EXAMPLES + EXTENSIONS])
def test_the_examples_have_no_finding_of_severity_error(text):
    assert [p for p in found(text) if p.severity == ERROR] == []


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
def test_the_twelve_examples_have_no_finding_at_all(number):
    assert found(EXAMPLES[number][0]) == []


# code, a text that has it, a near text that has not
PAIRS = [
    ("unknown-event", "ordr.created", "order.created"),
    ("unknown-event", "order.made", "custom.order_made"),
    ("internal-event", "tick", "order.created"),
    ("internal-event", "campaign.published", "order.created"),
    ("unknown-attribute", "order.created[totl > 5]", "order.created[total > 5]"),
    ("unknown-attribute", "order.created[glorp > 5]", "custom.order[glorp > 5]"),
    ("unknown-attribute", "sum(order.created.totl) > 5 within 1d", "sum(order.created.total) > 5 within 1d"),
    (
        "unknown-attribute",
        "order.created as o then order.updated[total = o.totl] within 1d",
        "order.created as o then order.updated[total = o.total] within 1d",
    ),
    (
        "unknown-alias",
        "order.created then order.updated[total = o.total] within 1d",
        "order.created as o then order.updated[total = o.total] within 1d",
    ),
    (
        "alias-early",
        "order.created[o.total > 1] then order.updated as o within 1d",
        "order.created as o then order.updated[o.total > 1] within 1d",
    ),
    ("alias-early", "order.created[o.total > 1] as o", "order.created[total > 1] as o"),
    (
        "duplicate-alias",
        "order.created as o then order.updated as o within 1d",
        "order.created as o then order.updated as p within 1d",
    ),
    ("alias-member", "order.created as member", "order.created as m"),
    ("within-first", "order.created within 1d", "2+ order.created within 1d"),
    (
        "within-first",
        "any of (order.created, order.updated) within 1d",
        "all of (order.created, order.updated) within 1d",
    ),
    ("without-first", "order.created without cart.cleared", "2+ order.created within 1d without cart.cleared"),
    (
        "absence-in-the-middle",
        "order.created then no cart.cleared for 1d then order.updated within 2d",
        "no cart.cleared for 1d then order.updated within 2d",
    ),
    (
        "delay-not-last",
        "1d after order.created then order.updated within 1d",
        "order.updated then 1d after order.created within 1d",
    ),
    ("date-not-alone", "every day at 10:00 then order.created within 1d", "every day at 10:00"),
    ("date-not-alone", "on member.birth_date yearly at 10:00, same order_id", "on member.birth_date yearly at 10:00"),
    ("count", "0+ order.created within 1d", "1+ order.created within 1d, same order_id"),
    (
        "count-of-all",
        "2+ all of (order.created, order.updated) within 1d",
        "2+ any of (order.created, order.updated) within 1d",
    ),
    ("unbounded-state", "1001+ order.created within 1d", "1000+ order.created within 1d"),
    ("unbounded-state", "2+ order.created within 401d", "2+ order.created within 400d"),
    (
        "unbounded-state",
        "order.created then order.updated, within 401d",
        "order.created then order.updated, within 400d",
    ),
    (
        "unbounded-state",
        "distinct(order.created.order_id) > 1001 within 1d",
        "distinct(order.created.order_id) > 1000 within 1d",
    ),
    ("long-wait", "order.created then no order.updated for 401d", "order.created then no order.updated for 400d"),
    ("zero-span", "2+ order.created within 0s", "2+ order.created within 1s"),
    ("zero-span", "no order.created for 0d", "no order.created for 1d"),
    (
        "too-many-steps",
        " then ".join(["order.created"] * 9) + ", within 1d",
        " then ".join(["order.created"] * 8) + ", within 1d",
    ),
    ("default-window", "order.created then order.updated", "order.created then order.updated within 1d"),
    ("default-window", "2+ order.created", "2+ order.created, within 1d"),
    ("default-window", "all of (order.created, order.updated)", "all of (order.created, order.updated), within 1d"),
    (
        "contradictory-windows",
        "order.created then order.updated within 2d, within 2d",
        "order.created then order.updated within 1d, within 2d",
    ),
    (
        "within-without-effect",
        "order.created then no order.updated for 2h, within 1h",
        "order.created then order.updated, within 1h",
    ),
    ("repeated-event", "any of (order.created, order.created)", "any of (order.created, order.updated)"),
    (
        "unreachable-step",
        "cart.cleared then order.created within 1d without order.created",
        "cart.cleared then order.created within 1d without order.created[total > 5]",
    ),
    (
        "unreachable-step",
        "cart.cleared then order.created[total > 5] within 1d without order.created[total>5]",
        "cart.cleared then order.created[total > 5] within 1d without order.created[total>6]",
    ),
    (
        "unreachable-step",
        "cart.cleared then any of (order.created, order.updated) within 1d "
        "without any of (order.created, order.updated)",
        "cart.cleared then any of (order.created, order.updated) within 1d without order.created",
    ),
    ("never-true", "order.created[total > 5 and total < 3]", "order.created[total > 5 or total < 3]"),
    ("never-true", "order.created[total > 5 and total < 5]", "order.created[total >= 5 and total <= 5]"),
    ("never-true", "order.created[5 < total and 5 > total]", "order.created[5 < total and 6 > total]"),
    ("never-true", "order.created[channel = 'a' and channel = 'b']", "order.created[channel in ('a', 'b')]"),
    (
        "never-true",
        "order.created[channel = 'a' and channel in ('b', 'c')]",
        "order.created[channel = 'b' and channel in ('b', 'c')]",
    ),
    ("never-true", "order.created[total is null and total > 5]", "order.created[total is not null and total > 5]"),
    ("never-true", "order.created[false]", "order.created[true]"),
    # what items hold may differ from item to item (SEMANTICS 41)
    ("never-true", "catalog.product.viewed[price > 5 and price < 3]", "order.created[price > 5 and price < 3]"),
    ("never-true", "count(order.created) < 1 within 1d", "count(order.created) < 2 within 1d"),
    ("never-true", "count(order.created) = 2.5 within 1d", "count(order.created) = 2 within 1d"),
    ("always-true", "count(order.created) >= 0 within 1d", "count(order.created) >= 2 within 1d"),
    ("always-true", "distinct(order.created.order_id) > 0 within 1d", "distinct(order.created.order_id) > 1 within 1d"),
    ("compare-null", "order.created[total = null]", "order.created[total is null]"),
    ("constant", "order.created['a' = 'b']", "order.created[channel = 'b']"),
    ("unknown-same", "order.created, same glorp", "order.created, same order_id"),
    (
        "unknown-same",
        "order.created then no cart.cleared for 1d, same order_id",
        "order.created then no review.posted for 1d, same order_id",
    ),
    ("not-yearly", "on member.birth_date at 10:00", "on member.birth_date yearly at 10:00"),
    ("event-as-date", "on member.registered at 10:00", "on member.registration_date at 10:00"),
    ("default-time", "every day", "every day at 10:00"),
]


@pytest.mark.parametrize(("code", "bad", "good"), PAIRS, ids=[f"{code}: {bad[:60]}" for code, bad, _ in PAIRS])
def test_a_finding_comes_where_it_must_and_only_there(code, bad, good):
    assert code in codes(bad)
    assert codes(good) == []


TEXTS = [
    ("ordr.created", "1:1 no schema defines event 'ordr.created'; did you mean 'order.created'?"),
    ("order.created[totl > 5]", "1:15 'order.created' has no attribute 'totl'; did you mean 'total'?"),
    ("order.created[glorp > 5]", "1:15 'order.created' has no attribute 'glorp'; data is open, so this may be right"),
    (
        "order.created within 1h",
        "1:1 the first step has nothing before it to be within of; "
        "write within on a later step, or count: 2+ … within 1h",
    ),
    (
        "order.created then order.updated",
        "1:20 no time limit is given: within 30d is used; add within 30d, or the limit you mean",
    ),
    (
        "order.created as o then no order.updated[x.total = 1] for 1h",
        "1:42 no step is named 'x'; the named steps are o",
    ),
    ("order.created[o.total = 1] as o", "1:15 'o' is not matched yet where it is used; name an earlier step"),
    (
        "1001+ order.created within 1d",
        "1:1 a count is at most 1000 (got 1001+); write count(order.created) >= 1001 within …",
    ),
    (
        "2+ order.created within 500d",
        "1:1 a window is at most 400d (got 500d); for longer memory, compare an attribute of the profile",
    ),
    (
        "order.created[total > 5 and total < 3]",
        "1:35 no 'total' can satisfy all of these conditions; join alternatives with or, or correct a limit",
    ),
    (
        "order.created then no cart.cleared for 1d, same order_id",
        "1:23 same 'order_id' can never hold: 'cart.cleared' "
        "has no such attribute; name an attribute that all steps have, or compare in [ ]",
    ),
    ("order.created, same ordr_id", "1:21 no event of the pattern has 'ordr_id'; did you mean 'order_id'?"),
    (
        "count(order.created) >= 0 within 1d",
        "1:1 this holds at every event (count >= 0); write order.created for each event",
    ),
    ("order.created[total = null]", "1:21 a comparison with null is never true; write is null or is not null"),
]


@pytest.mark.parametrize(("text", "words"), TEXTS, ids=[text for text, _ in TEXTS])
def test_a_finding_says_where_what_and_what_to_do(text, words):
    problem = found(text)[0]
    assert f"{problem.pos.line}:{problem.pos.column} {problem.message}; {problem.hint}" == words


def test_all_findings_come_at_once_and_in_the_order_of_the_text():
    problems = found("ordr.created within 1h[x then no order.created[totl > 1] for 2h then cart.cleard")
    assert [p.code for p in problems] == ["unknown-event", "syntax", "unknown-attribute", "unknown-event"]
    assert [p.pos.column for p in problems] == sorted(p.pos.column for p in problems)


def test_a_slip_in_an_event_does_not_hide_what_is_wrong_behind_it():
    assert codes("ordr.created[totl > 5]") == ["unknown-event", "unknown-attribute"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("catalog.product.viewd then no order.creatd for 2x", ["unknown-event", "unknown-event", "syntax"]),
        ("ordr.created within 3x then no cart.cleard for 5y", ["unknown-event", "syntax", "unknown-event", "syntax"]),
        ("order.created[total == 3 && totl => 2]", ["syntax", "syntax", "unknown-attribute", "syntax"]),
        ("count(order.created) >= 1.5h within 2d", ["syntax"]),
        ("1x after ordr.created", ["syntax", "unknown-event"]),
        ("ordr.created ; cart.cleared", ["unknown-event", "syntax"]),
        ("ordr.created then cart.cleared[reason = 'x]", ["unknown-event", "syntax"]),
        ("order.created[reason = “x” and totl > 3]", ["syntax"]),
    ],
)
def test_what_is_no_word_at_all_is_named_once_and_hides_nothing_but_what_a_stray_character_cuts_off(text, expected):
    problems = found(text)
    assert [problem.code for problem in problems] == expected
    assert [p.pos.column for p in problems] == sorted(p.pos.column for p in problems)


def test_an_attribute_known_to_one_of_several_events_is_a_warning():
    text = "any of (order.created, cart.cleared) as o then no review.posted[order_id = o.order_id] for 1d"
    assert codes(text) == ["attribute-not-everywhere"]


WHERE = [
    ("total > 5", "order.created", []),
    ("totl > 5", "order.created", ["unknown-attribute"]),
    ("total > 5", "order.created then cart.cleared within 1d", ["attribute-not-everywhere"]),
    ("o.total > 5", "order.created as o then cart.cleared within 1d", []),
    ("c.reason = 'x'", "order.created as o then cart.cleared as c within 1d", ["alias-early"]),
    ("member.city = 'x'", "every day at 10:00", ["where-without-step"]),
    ("member.city = 'x'", "order.created", []),
    ("q.total > 5", "order.created as o", ["unknown-alias"]),
    ("total > 5 and total < 3", "order.created", ["never-true"]),
    ("url = 'x'", "no any of (web.session.started, app.installed) for 30d", ["attribute-not-everywhere"]),
]


@pytest.mark.parametrize(("expr", "pattern", "expected"), WHERE)
def test_where_is_judged_with_the_event_of_every_step(expr, pattern, expected):
    assert where(expr, pattern) == expected


FIRING = [
    ("member.consent.email", "order.created", []),
    ("total > 5", "order.created then no cart.cleared for 1d", []),
    ("reason = 'x'", "order.created then cart.cleared within 1d", []),
    ("totl > 5", "order.created then no cart.cleared for 1d", ["unknown-attribute"]),
    ("o.totl > 5", "order.created as o then no cart.cleared for 1d", ["unknown-attribute"]),
    ("total > 5", "every day at 10:00", ["no-event"]),
    ("member.city = 'x'", "every day at 10:00", []),
    ("member.consent.emal", "order.created", ["unknown-attribute"]),
    ("member.consnt.email", "order.created", ["unknown-attribute"]),
    ("member.consent.shop and member.consent.topics.email.news", "order.created", []),
    ("member.phone_no is not null", "order.created", []),
]


@pytest.mark.parametrize(("expr", "pattern", "expected"), FIRING)
def test_at_the_firing_bare_names_mean_the_last_event(expr, pattern, expected):
    assert firing(expr, pattern) == expected


@pytest.mark.parametrize("unit", ["a.b then ", "ordr.created then ", "order.created[x.y = 1] then "])
def test_checking_a_hostile_text_takes_little_time(unit):
    text = (unit * MAX_TEXT)[: MAX_TEXT // len(unit) * len(unit)] + "order.created"
    text = text[-MAX_TEXT:].lstrip()
    begun = time.perf_counter()
    found(text)
    assert time.perf_counter() - begun < 5


@given(st.lists(WORDS, max_size=30).map(" ".join))
@settings(max_examples=300, deadline=None)
def test_checking_any_text_never_fails(pattern):
    reading = read_pattern(pattern)
    check_pattern(reading)
    if reading.pattern is not None:
        for text in ("v.total > 5 and totl = 3", "order.created"):
            expr = parse_expression(text, reading.aliases)
            check_where(expr, reading.pattern)
            check_at_firing(expr, reading.pattern, "if still")
