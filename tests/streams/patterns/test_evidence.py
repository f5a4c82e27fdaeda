"""Evidence says what `compile_judge` says, and spells what was written."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.patterns.check_logic import meaning
from streams.patterns.evidence import VALUES_MAX, failing, judge, spell, spell_step
from streams.patterns.expressions import FUNCTIONS, compile_judge
from streams.patterns.nodes import And, Call, Compare, In, IsNull, Literal, Not, Or, Path, Pos
from streams.patterns.parser import parse_expression, parse_pattern

P = Pos(1, 1)
NAMES = ("total", "city", "price", "tags", "items")
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from(["a", "b", "it's", ""]),
)
ITEMS = st.lists(st.dictionaries(st.sampled_from(NAMES), SCALARS), max_size=3)
DATA = st.dictionaries(st.sampled_from(NAMES), st.one_of(SCALARS, st.lists(SCALARS, max_size=3), ITEMS), max_size=4)
PATHS = st.builds(
    lambda root, parts: Path(root, tuple(parts), P, "v" if root == "alias" else None),
    st.sampled_from(("event", "member", "alias")),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=2),
)
LITERALS = st.builds(lambda value: Literal(value, P), SCALARS.filter(lambda v: not isinstance(v, float) or v >= 0))


def calls(values):
    return st.sampled_from(sorted(FUNCTIONS)).flatmap(
        lambda name: st.lists(values, min_size=FUNCTIONS[name][0], max_size=FUNCTIONS[name][1]).map(
            lambda args: Call(name, tuple(args), P)
        )
    )


VALUES = st.recursive(st.one_of(PATHS, LITERALS), calls, max_leaves=4)
OPERATORS = st.sampled_from(("=", "!=", "<", "<=", ">", ">=", "contains"))
TESTS = st.one_of(
    st.builds(lambda op, left, right: Compare(op, left, right, P), OPERATORS, VALUES, VALUES),
    st.builds(
        lambda left, options, no: In(left, tuple(options), no, P),
        VALUES,
        st.lists(LITERALS, min_size=1, max_size=3),
        st.booleans(),
    ),
    st.builds(lambda operand, no: IsNull(operand, no, P), VALUES, st.booleans()),
    PATHS,
)
EXPRESSIONS = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        st.builds(lambda items: And(tuple(items), P), st.lists(inner, min_size=2, max_size=3)),
        st.builds(lambda items: Or(tuple(items), P), st.lists(inner, min_size=2, max_size=3)),
        st.builds(lambda item: Not(item, P), inner),
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(EXPRESSIONS, DATA, DATA, DATA)
def test_evidence_gives_the_verdict_of_the_compiled_condition(expr, data, alias, profile):
    found = judge(expr, data, {"v": alias}, profile, 1_700_000_000_000)
    assert found.holds is bool(compile_judge(expr)(data, {"v": alias}, profile, 1_700_000_000_000))
    assert bool(failing(found)) is not found.holds


@settings(max_examples=300, deadline=None)
@given(EXPRESSIONS)
def test_a_condition_reads_back_as_what_it_spells(expr):
    assert meaning(parse_expression(spell(expr), frozenset({"v"}))) == meaning(expr)


@pytest.mark.parametrize(
    "text",
    [
        "catalog.product.viewed as v then no order.created[total > v.price] for 2h",
        "3+ catalog.product.viewed within 1h",
        "no any of (web.session.started, app.opened) for 30d",
        "sum(order.created[total > 1].items.price) >= 500 within 30d",
        "order.created then all of (a.b, c.d) within 1h30m without e.f without any of (g.h, i.j)",
        "3d before member.birth_date yearly at 10:00",
        "every monday at 09:00",
        "every month on 15 at 08:30",
        "on 2026-12-31 at 10:00",
    ],
)
def test_a_step_is_spelled_as_it_is_written(text):
    assert " then ".join(spell_step(step) for step in parse_pattern(text).steps) == text


def seen(text, data, profile=None):
    return judge(parse_expression(text), data, {}, profile or {}, 0)


def test_a_failing_comparison_shows_the_value_it_saw():
    assert seen("total > 100", {"total": 40}).values == {"total": 40}
    assert seen("member.city = 'Riga'", {}, {"city": "Tartu"}).values == {"member.city": "Tartu"}


def test_a_missing_attribute_shows_as_none():
    found = seen("total > 100", {})
    assert (found.holds, found.values, found.note) == (False, {"total": None}, "")


def test_values_of_kinds_that_never_compare_are_noted():
    assert seen("total > 100", {"total": "140"}).note == "text does not compare with a number"
    assert seen("total = 1", {"total": True}).note == "true or false does not compare with a number"


def test_all_failing_parts_are_named_at_once_and_none_that_holds():
    found = seen("total > 100 and city = 'a' and (price < 1 or price > 9)", {"total": 40, "city": "a", "price": 5})
    assert [part.text for part in failing(found)] == ["total > 100", "price < 1", "price > 9"]


def test_values_of_many_items_are_cut_off():
    found = seen("items.price > 100", {"items": [{"price": n} for n in range(50)]})
    assert found.values == {"items.price": [*range(VALUES_MAX), "…"]}
