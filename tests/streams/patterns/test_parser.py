"""What the parser makes of patterns and expressions."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.patterns.check_logic import meaning
from streams.patterns.durations import DAY_MS, HOUR_MS, MINUTE_MS, format_duration, parse_duration
from streams.patterns.grammar import MAX_DEPTH, MAX_TEXT, PatternError
from streams.patterns.nodes import (
    Absent,
    Aggregate,
    And,
    Calendar,
    Call,
    Compare,
    Delay,
    EventRef,
    In,
    IsNull,
    Literal,
    MemberDate,
    Not,
    Or,
    Path,
    Pattern,
    Pos,
    Positive,
    Step,
    Term,
)
from streams.patterns.parser import parse_expression, parse_pattern, read_pattern
from streams.patterns.spell import distance, nearest

P = Pos(1, 1)


def parsed(text):
    return parse_pattern(text)


def reading_of(text):
    return read_pattern(text)


def ref(name, predicate=None):
    return EventRef(name, predicate, P)


def one(name, predicate=None):
    return Term("one", (ref(name, predicate),), P)


def many(kind, *names):
    return Term(kind, tuple(ref(name) for name in names), P)


def step(term, count=1, alias=None, within=None, without=()):
    if isinstance(term, str):
        term = one(term)
    return Positive(term, count, alias, within, tuple(without), P, count > 1)


def no(term, span):
    return Absent(one(term) if isinstance(term, str) else term, span, P)


def at(*parts):
    return Path("event", parts, P)


def of(alias, *parts):
    return Path("alias", parts, P, alias)


def cmp(left, op, right):
    return Compare(op, left, right if isinstance(right, Path) else Literal(right, P), P)


def pattern(*steps: Step, same=(), within=None):
    return Pattern(steps, tuple((name,) for name in same), within, "")


VIEWED, ORDER = "catalog.product.viewed", "order.created"

EXAMPLES = [
    (
        "catalog.product.viewed as v then no order.created for 2h, same product_id",
        pattern(step(VIEWED, alias="v"), no(ORDER, 2 * HOUR_MS), same=["product_id"]),
    ),
    (
        "cart.item.added as c then no any of (order.created, cart.cleared) for 1h",
        pattern(step("cart.item.added", alias="c"), no(many("any", ORDER, "cart.cleared"), HOUR_MS)),
    ),
    ("member.registered then no order.created for 3d", pattern(step("member.registered"), no(ORDER, 3 * DAY_MS))),
    (
        "no any of (web.session.started, app.opened) for 30d",
        pattern(no(many("any", "web.session.started", "app.opened"), 30 * DAY_MS)),
    ),
    (
        "3+ catalog.product.viewed within 1h, same category",
        pattern(step(VIEWED, count=3, within=HOUR_MS), same=["category"]),
    ),
    (
        "distinct(catalog.product.viewed.product_id) >= 5 within 1d then no order.created for 4h",
        pattern(Aggregate("distinct", ref(VIEWED), ("product_id",), ">=", 5.0, DAY_MS, P), no(ORDER, 4 * HOUR_MS)),
    ),
    (
        "sum(order.created.total) >= 500 within 30d",
        pattern(Aggregate("sum", ref(ORDER), ("total",), ">=", 500.0, 30 * DAY_MS, P)),
    ),
    (
        "catalog.search.performed then catalog.product.viewed within 10m "
        "then cart.item.added within 30m without order.created",
        pattern(
            step("catalog.search.performed"),
            step(VIEWED, within=10 * MINUTE_MS),
            step("cart.item.added", within=30 * MINUTE_MS, without=[one(ORDER)]),
        ),
    ),
    (
        "catalog.product.viewed as v then catalog.product.price_changed[product_id = v.product_id and drop_pct >= 10] "
        "within 14d without order.created[product_id = v.product_id]",
        pattern(
            step(VIEWED, alias="v"),
            step(
                one(
                    "catalog.product.price_changed",
                    And((cmp(at("product_id"), "=", of("v", "product_id")), cmp(at("drop_pct"), ">=", 10)), P),
                ),
                within=14 * DAY_MS,
                without=[one(ORDER, cmp(at("product_id"), "=", of("v", "product_id")))],
            ),
        ),
    ),
    (
        "all of (profile.completed, email.verified, app.installed), within 7d",
        pattern(step(many("all", "profile.completed", "email.verified", "app.installed")), within=7 * DAY_MS),
    ),
    (
        "2+ payment.failed within 1d then no payment.succeeded for 6h",
        pattern(step("payment.failed", count=2, within=DAY_MS), no("payment.succeeded", 6 * HOUR_MS)),
    ),
    (
        "order.created[total > 100] as o then no review.posted[order_id = o.order_id] for 10d",
        pattern(
            step(one(ORDER, cmp(at("total"), ">", 100)), alias="o"),
            no(one("review.posted", cmp(at("order_id"), "=", of("o", "order_id"))), 10 * DAY_MS),
        ),
    ),
]


@pytest.mark.parametrize(("text", "tree"), EXAMPLES, ids=[str(i) for i in range(1, 13)])
def test_each_example_of_the_design_has_its_tree(text, tree):
    assert meaning(parsed(text)) == meaning(tree)


EXTENSIONS = [
    (
        'sum(order.created[channel = "web"].total) >= 500 within 30d',
        pattern(Aggregate("sum", ref(ORDER, cmp(at("channel"), "=", "web")), ("total",), ">=", 500.0, 30 * DAY_MS, P)),
    ),
    (
        "7d after order.created[total > 5] as o, same order_id",
        pattern(step(one(ORDER, cmp(at("total"), ">", 5)), alias="o"), Delay(7 * DAY_MS, P), same=["order_id"]),
    ),
    ("7d after member.registered", pattern(step("member.registered"), Delay(7 * DAY_MS, P))),
    ("cart.item.added then 1d after order.created", pattern(step("cart.item.added"), step(ORDER), Delay(DAY_MS, P))),
    ("3d before member.birth_date yearly at 10:30", pattern(MemberDate(-3, ("birth_date",), True, 630, P))),
    ("7d after member.contract_date at 10:00", pattern(MemberDate(7, ("contract_date",), False, 600, P))),
    ("on member.birth_date yearly at 00:00", pattern(MemberDate(0, ("birth_date",), True, 0, P))),
    ("every monday at 09:00", pattern(Calendar("week", 540, P, weekday=0))),
    ("every sunday at 9:00", pattern(Calendar("week", 540, P, weekday=6))),
    ("every day at 23:59", pattern(Calendar("day", 1439, P))),
    ("every month on 15 at 09:00", pattern(Calendar("month", 540, P, day=15))),
    ("on 2026-12-31 at 10:00", pattern(Calendar("once", 600, P, date="2026-12-31"))),
    ("count(order.created) > 2 within 7d", pattern(Aggregate("count", ref(ORDER), (), ">", 2.0, 7 * DAY_MS, P))),
    (
        "sum(points.adjusted.amount) < -5.5, within 7d",
        pattern(Aggregate("sum", ref("points.adjusted"), ("amount",), "<", -5.5, 7 * DAY_MS, P), within=7 * DAY_MS),
    ),
    (
        "max(order.created.items.price) >= 9 as m within 1d",
        pattern(Aggregate("max", ref(ORDER), ("items", "price"), ">=", 9.0, DAY_MS, P, "m")),
    ),
]


@pytest.mark.parametrize(("text", "tree"), EXTENSIONS, ids=[text for text, _ in EXTENSIONS])
def test_extensions_of_the_grammar_have_their_trees(text, tree):
    assert meaning(parsed(text)) == meaning(tree)


def test_same_takes_several_paths_and_stands_before_or_after_within():
    first = parsed("order.created then order.cancelled, same order_id, channel, within 1h30m")
    second = parsed("order.created then order.cancelled, within 1h30m, same order_id, channel")
    assert first.same == (("order_id",), ("channel",))
    assert first.within_ms == 90 * MINUTE_MS
    assert meaning(first) == meaning(second)


def test_a_pattern_may_run_over_several_lines_and_keeps_its_places():
    tree = parsed("catalog.product.viewed as v\n  then no order.created\n  for 2h")
    assert tree.steps[1].pos == Pos(2, 8)
    assert tree.steps[1].term.pos == Pos(2, 11)


def test_an_alias_wins_over_an_attribute_even_before_its_step():
    tree = parsed("order.created[total.x = 1] then order.updated as total")
    assert tree.steps[0].term.events[0].predicate.left == Path("alias", ("x",), Pos(1, 15), "total")


def test_member_is_the_profile_even_when_a_step_is_so_named():
    tree = parsed("order.created[member.city = 'x'] as member")
    assert tree.steps[0].term.events[0].predicate.left.root == "member"


EXPRESSIONS = [
    ("total", at("total")),
    ("not member.staff", Not(Path("member", ("staff",), P), P)),
    ("a = 1 or b = 2 and c = 3", Or((cmp(at("a"), "=", 1), And((cmp(at("b"), "=", 2), cmp(at("c"), "=", 3)), P)), P)),
    ("(a or b) and c", And((Or((at("a"), at("b")), P), at("c")), P)),
    ("not a = 1", Not(cmp(at("a"), "=", 1), P)),
    ("a in ('x', \"y\")", In(at("a"), (Literal("x", P), Literal("y", P)), False, P)),
    ("a not in [1, 2.5]", In(at("a"), (Literal(1, P), Literal(2.5, P)), True, P)),
    ("a in member.tags", In(at("a"), (Path("member", ("tags",), P),), False, P)),
    ("a is null", IsNull(at("a"), False, P)),
    ("a is not null", IsNull(at("a"), True, P)),
    ("name contains 'x'", cmp(at("name"), "contains", "x")),
    ("a >= -5", cmp(at("a"), ">=", -5)),
    ("lower(v.name) = 'x'", Compare("=", Call("lower", (of("v", "name"),), P), Literal("x", P), P)),
    ("now() > 5", Compare(">", Call("now", (), P), Literal(5, P), P)),
    ("a = true", cmp(at("a"), "=", True)),
    ("'it''s'", None),
    (r"'it\'s'", Literal("it's", P)),
    ("items.price > 3", cmp(at("items", "price"), ">", 3)),
]


@pytest.mark.parametrize(("text", "tree"), EXPRESSIONS, ids=[text for text, _ in EXPRESSIONS])
def test_expressions_have_their_trees(text, tree):
    if tree is None:
        with pytest.raises(PatternError):
            parse_expression(text)
        return
    assert meaning(parse_expression(text, frozenset({"v"}))) == meaning(tree)


REFUSALS = [
    ("", "1:1: there is no pattern; name an event, e.g. order.created"),
    ("order.created then", "1:19: expected an event (got the end); e.g. order.created"),
    (
        "order.created THEN order.updated",
        "1:15: expected 'then', ', same …' or ', within …' (got 'THEN'); words of the language are written in lower "
        "case: then",
    ),
    ("order.created[total == 5]", "1:21: there is no operator ==; write = for equal"),
    ("order.created[a && b]", "1:17: there is no operator &&; write and"),
    ("no order.created", "1:17: expected 'for' (got the end); say how long: no order.created for 2h"),
    (
        "no order.created within 2h",
        "1:18: expected 'for' (got 'within'); an absence lasts: write for instead of within",
    ),
    ("no order.created as o for 2h", "1:18: expected 'for' (got 'as'); what did not happen has no name"),
    (
        "order.created then order.updated within 2 hours",
        "1:41: expected a span of time (got '2'); write a whole number and one of s m h d w, e.g. 90s, 2h, 1h30m, 7d",
    ),
    (
        "order.created then order.updated within 1.5h",
        "1:41: this is neither a number nor a span of time (got '1.5h'); "
        "write a whole number and one of s m h d w, e.g. 90s, 2h, 1h30m, 7d",
    ),
    (
        "order.created then order.updated within 30m1h",
        "1:41: the units of '30m1h' are not in the order w d h m s, each once; "
        "write a whole number and one of s m h d w, e.g. 90s, 2h, 1h30m, 7d",
    ),
    ("3 order.created", "1:3: expected '+' (got 'order.created'); write 3+ for 3 or more times"),
    ("2.5+ order.created", "1:1: a count is a whole number (got 2.5); write e.g. 3+"),
    (
        "sum(order.created) > 5 within 1d",
        "1:5: sum needs an attribute (got 'order.created'); write sum(order.created.attribute)",
    ),
    ("sum(order.created.total) > 5", "1:1: sum needs to know over which time; add within 30d"),
    (
        "3d before order.created",
        "1:4: nobody knows an event before it happens; "
        "before goes with dates of the profile: 3d before member.birth_date",
    ),
    (
        "36h before member.birth_date at 10:00",
        "1:1: dates are counted in whole days (got 36h); write e.g. 3d before member.birth_date at 10:00",
    ),
    ("every munday at 09:00", "1:7: expected 'day', 'month' or a weekday (got 'munday'); did you mean 'monday'?"),
    ("every month on 32 at 09:00", "1:16: there is no such day of the month (got 32); a number from 1 to 31"),
    ("on 2026-02-30 at 10:00", "1:4: there is no such day (got 2026-02-30); write year-month-day"),
    ("every day at 24:00", "1:14: there is no such time of day (got 24:00); from 00:00 to 23:59"),
    ("order.created[name = 'x]", "1:22: the quote is not closed; add a ' at the end of the text"),
    ("order.created[]", "1:15: expected a condition (got ']'); leave out the empty brackets"),
    ("order.created[total > 5", "1:24: expected ']', 'and' or 'or' (got the end)"),
    (
        "order.created[1 < total < 5]",
        "1:25: expected ']', 'and' or 'or' (got '<'); compare two values at a time: 1 < x and x < 3",
    ),
    ("order.created[lowr(name) = 'x']", "1:15: there is no function 'lowr'; did you mean 'lower'?"),
    ("order.created[lower() = 'x']", "1:15: lower() takes 1 values (got 0)"),
    ("order.created[v = 1] as v", "1:15: 'v' is a whole event, not a value; write v.attribute"),
    ("order.created[channel in 'web']", "1:26: a list is needed after in; write in ('a', 'b'), or = for one value"),
    (
        "order.created or order.updated",
        "1:15: expected 'then', ', same …' or ', within …' (got 'or'); write any of (a, b)",
    ),
    (
        "order.created, within 1h then order.updated",
        "1:26: a step follows what holds for the whole match; "
        "write same and within of the whole match at the end; without a comma, within limits one step",
    ),
    ("order.created, same v.total as v", None),
    (
        "order.created then order.updated within 0s",
        "1:41: a span of zero holds nothing (got 0s); "
        "write a whole number and one of s m h d w, e.g. 90s, 2h, 1h30m, 7d",
    ),
    ("order.created*", "1:14: this character means nothing here (got '*'); there are no wildcards; use any of (…)"),
    ("any of (any of (a.b, c.d), e.f)", "1:9: expected an event (got 'any'); any of (…) does not nest"),
]


@pytest.mark.parametrize(("text", "message"), REFUSALS, ids=[text for text, _ in REFUSALS])
def test_refusals_name_the_place_the_fault_and_the_remedy(text, message):
    with pytest.raises(PatternError) as caught:
        parsed(text)
    if message is not None:
        assert str(caught.value) == message


def test_all_steps_that_cannot_be_read_are_reported_at_once():
    reading = reading_of("order.created[ then no order.updated for x then 3 a.b, same member.x, within y")
    assert [p.pos.column for p in reading.problems] == [16, 42, 51, 61, 78]
    assert not reading.complete


def test_a_step_that_can_be_read_is_kept_beside_one_that_cannot():
    reading = reading_of("order.created then ( then order.updated")
    assert [s.term.events[0].type for s in reading.pattern.steps] == ["order.created", "order.updated"]


def test_a_missing_time_of_day_is_ten_with_a_warning():
    reading = reading_of("every day")
    assert reading.pattern.steps[0].at_minute == 600
    assert [(p.code, p.severity) for p in reading.problems] == [("default-time", "warning")]


@pytest.mark.parametrize("deep", ["(" * 5 + "a" + ")" * 5, "not " * 5 + "a", "lower(" * 5 + "a" + ")" * 5])
def test_a_few_levels_are_read(deep):
    parse_expression(deep)


@pytest.mark.parametrize("part", ["(", "not ", "lower(", "a in (("])
def test_too_many_levels_are_refused(part):
    with pytest.raises(PatternError, match="too many brackets"):
        parse_expression(part * (MAX_DEPTH + 1) + "a")


def test_the_longest_text_is_read_and_one_character_more_is_refused():
    head = "order.created[name = '"
    text = head + "x" * (MAX_TEXT - len(head) - 2) + "']"
    parsed(text)
    with pytest.raises(PatternError, match="too long"):
        parsed(" " + text)


def test_a_list_has_at_most_256_entries():
    parse_expression("a in (" + ",".join(["1"] * 256) + ")")
    with pytest.raises(PatternError, match="the list is too long"):
        parse_expression("a in (" + ",".join(["1"] * 257) + ")")


@pytest.mark.parametrize(
    "unit", ["1s", "a.b then ", "a[", "'", "\\", "any of (", "a and ", "1s1", "=", "no ", ", same a"]
)
def test_reading_a_hostile_text_takes_no_time(unit):
    begun = time.perf_counter()
    reading_of((unit * MAX_TEXT)[:MAX_TEXT])
    assert time.perf_counter() - begun < 2  # linear work takes milliseconds; quadratic work minutes


TEXT_OF_WORDS = (
    "then as within without no for any all of same after before on every yearly at and or not in is null contains "
    "order.created catalog.product.viewed v total member.city 3+ 2h 7d 1h30m ( ) [ ] , = != <= 5 -3 'x' sum( count( "
    "monday month 15 2026-12-31 09:00 lower( true"
)
WORDS = st.sampled_from(TEXT_OF_WORDS.split())


@given(st.one_of(st.text(max_size=80), st.lists(WORDS, max_size=30).map(" ".join)))
@example("[" * 100)
@example("\ud800")
@settings(max_examples=300, deadline=None)
def test_any_text_gives_a_pattern_or_problems_with_places_inside_it(text):
    reading = reading_of(text)
    assert reading.pattern is not None or reading.problems
    lines = text.split("\n")
    for problem in reading.problems:
        assert 1 <= problem.pos.line <= len(lines)
        assert 1 <= problem.pos.column <= len(lines[problem.pos.line - 1]) + 1


@given(st.one_of(st.text(max_size=80), st.lists(WORDS, max_size=30).map(" ".join)))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_an_expression_or_a_refusal(text):
    try:
        parse_expression(text, frozenset({"v"}))
    except PatternError as error:
        assert error.message


@given(st.integers(min_value=1, max_value=3_660 * 86_400))
def test_a_span_written_out_is_read_back(seconds):
    assert parse_duration(format_duration(seconds * 1000)) == seconds * 1000


@pytest.mark.parametrize("text", ["", "h", "5", "5x", "-5h", "1h 30m", "1h1h", "5m1h", "99999d", "1" * 50 + "s", "٣h"])
def test_what_is_no_span_is_refused(text):
    with pytest.raises(ValueError, match="."):
        parse_duration(text)


def test_a_slip_finds_its_word_and_a_stranger_none():
    assert nearest("ordr.created", ["order.created", "order.updated"]) == "order.created"
    assert nearest("tehn", ["then", "when"]) == "then"
    assert nearest("zebra", ["then", "order.created"]) is None
    assert nearest("x" * 1000, ["x" * 999]) is None


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_the_distance_is_symmetric_and_zero_only_for_equal_words(left, right):
    assert distance(left, right, 9) == distance(right, left, 9)
    assert (distance(left, right, 9) == 0) == (left == right)
