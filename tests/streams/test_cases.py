import pytest

from streams.campaigns import load_campaign
from streams.case_runs import check_case, run_case
from streams.case_times import MONDAY_MS, read_time, show_time
from streams.cases import Case, read_cases
from streams.patterns.plan import Plan

HOUR = 3_600_000
BROWSE = "catalog.product.viewed as v then no order.created for 2h, same product_id"
VIEW = "{at: 10:00, type: catalog.product.viewed, id: v1, product_id: p1}"
SEND = "send: {channel: email, template: t, data: {product: v.product_id}}"


def plan_of(pattern: str = BROWSE, *more: str) -> Plan:
    campaign, findings = load_campaign("\n".join(["campaign: c", f"pattern: {pattern}", *more]), "c.yaml")
    assert campaign is not None, findings
    return Plan(campaign)


def text(*events: str, expect: list[str] | None = None, deny: list[str] | None = None, **more: str) -> str:
    lines = ["- name: case", "  events:", *(f"    - {event}" for event in events)]
    for key, entries in (("expect", expect), ("not", deny)):
        if entries is not None:
            lines += [f"  {key}:" if entries else f"  {key}: []", *(f"    - {entry}" for entry in entries)]
    return "\n".join([*lines, *(f"  {key}: {value}" for key, value in more.items())])


def one(*events: str, **more) -> Case:
    cases, findings = read_cases(text(*events, **more), "c.cases.yaml")
    assert len(cases) == 1, findings
    return cases[0]


def differences(plan: Plan, *events: str, **more) -> list[str]:
    return [finding.message.removeprefix("case 'case': ") for finding in check_case(one(*events, **more), plan, "c")]


def findings_of(*events: str, **more) -> list[str]:
    _, findings = read_cases(text(*events, **more), "c.cases.yaml")
    return [str(finding) for finding in findings]


# ---------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("written", "hours", "grain"),
    [
        ("10:00", 10, 60_000),
        ("9:30", 9.5, 60_000),
        ("10:00:01", 10 + 1 / 3600, 1_000),
        ("10:00:00.5", 10 + 0.5 / 3600, 1),
        ("tue 10:00", 34, 60_000),
        ("Sunday 00:00", 144, 60_000),
        ("+90m", 9.5, 1),
        ("+1500ms", 8 + 1.5 / 3600, 1),
        ("+1d 10:00", 34, 60_000),
        ("2026-03-10 10:00", 202, 60_000),
        ("2026-03-02T10:00:00+02:00", 8, 1_000),
        ("2026-03-02T10:00:00.000Z", 10, 1),
        (str(MONDAY_MS + HOUR), 1, 1),
    ],
)
def test_times_are_read_as_written(written, hours, grain):
    found = read_time(written, MONDAY_MS + 8 * HOUR)
    assert (found.ms, found.grain) == (MONDAY_MS + round(hours * HOUR), grain)


@pytest.mark.parametrize("written", ["", "later", "25:00", "10:60", "+1x", "+90m 10:00", "2026-02-30 10:00", "+", "10"])
def test_what_is_no_time_is_refused(written):
    with pytest.raises(ValueError, match=r"."):
        read_time(written, MONDAY_MS)


def test_plus_needs_something_to_count_from():
    with pytest.raises(ValueError, match="nothing before it"):
        read_time("+1h", None)


@pytest.mark.parametrize("shown", ["10:00", "10:00:05", "10:00:05.007", "tue 10:00", "2026-03-10 10:00"])
def test_times_are_shown_as_they_are_written(shown):
    assert show_time(read_time(shown, None).ms) == shown


# ---------------------------------------------------------------- reading


def test_events_get_ids_members_and_append_times_by_rule():
    case = one("{at: 10:00, type: order.created, total: 5}", "{at: +1m, type: app.opened, member: m2}", expect=[])
    assert [(e.id, e.member, e.at_ms - MONDAY_MS) for e in case.events] == [
        ("e1", "m1", 10 * HOUR),
        ("e2", "m2", 10 * HOUR + 60_000),
    ]
    assert case.events[0].data == {"total": 5}


def test_an_attribute_named_like_a_key_of_ours_goes_under_data():
    case = one("{at: 10:00, type: custom.thing, data: {id: 7, at: x}, size: 1}", expect=[])
    assert case.events[0].data == {"size": 1, "id": 7, "at": "x"}


def test_an_event_that_goes_back_in_time_is_a_warning_unless_it_says_when_it_was_read():
    back = "{at: 09:00, type: order.created}"
    assert "happened before the one above" in findings_of(VIEW, back, expect=[])[0]
    assert findings_of(VIEW, "{at: 09:00, appended_at: 10:01, type: order.created}", expect=[]) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("- name: a\n  evnts: []", "did you mean 'events'?"),
        ("- name: a\n  events: []", "the case expects nothing"),
        ("- events: []\n  expect: []", "the key 'name' is missing"),
        ("- name: a\n  events:\n    - {type: order.created}\n  expect: []", "the key 'at' is missing"),
        ("- name: a\n  events:\n    - {at: noon, type: order.created}\n  expect: []", "this is no time (got 'noon')"),
        ("- name: a\n  events:\n    - {at: 10:00, type: order.craeted}\n  expect: []", "did you mean 'order.created'?"),
        ("- name: a\n  events: []\n  expect:\n    - {anchor: v1}", "no event of this case has the id 'v1'"),
        ("- name: a\n  events: []\n  not:\n    - {because: canceled}", "did you mean 'cancelled'?"),
        ("- name: a\n  events: []\n  not:\n    - {anchor: x}", "the key 'because' is missing"),
        ("- name: a\n  events: []\n  expect: []\n- name: a\n  events: []\n  expect: []", "already at line 1"),
        ("- {at: 1", "c.cases.yaml:"),
        ("name: a", "a cases file is a list of cases"),
        ("", "a cases file is a list of cases"),
        ("- 5", "a case holds keys of its own"),
        ("- name: a\n  events: [5]\n  expect: 7", "'expect' is a list"),
    ],
)
def test_what_is_wrong_in_a_cases_file_is_said_with_its_place(body, message):
    _, findings = read_cases(body, "c.cases.yaml")
    assert any(message in str(finding) for finding in findings), [str(finding) for finding in findings]


def test_a_slip_in_an_attribute_is_a_warning():
    slip = VIEW.replace("product_id", "prodct_id")
    assert any("did you mean 'product_id'?" in finding for finding in findings_of(slip, expect=[]))


# ---------------------------------------------------------------- running


def test_a_case_that_holds_has_no_differences():
    fires = ["{fires: 12:00, anchor: v1, correlation: p1, member: m1}"]
    assert differences(plan_of(), VIEW, until="13:00", expect=fires) == []


def test_fires_is_compared_as_exactly_as_it_is_written():
    view = VIEW.replace("10:00", "10:00:30")
    assert differences(plan_of(), view, until="13:00", expect=["{fires: 12:00}"]) == []
    (said,) = differences(plan_of(), view, until="13:00", expect=["{fires: 12:00:00}"])
    assert said.startswith("expected 'c' to fire at 12:00 for anything, but 'c' fired at 12:00:30 for v1")
    assert differences(plan_of(), view, until="13:00", expect=["{fires: +2h, anchor: v1}"]) == []


def test_a_message_too_many_is_explained():
    (said,) = differences(plan_of(), VIEW, until="13:00", expect=[])
    assert said == (
        "expected no message, but 'c' fired at 12:00 for v1 (catalog.product.viewed, product_id p1):"
        " no order.created with product_id p1 was read before 12:00:05"
    )


def test_a_missing_message_says_what_came_instead():
    order = "{at: +90m, type: order.created, id: o1, items: [{product_id: p1}]}"
    (said,) = differences(plan_of(), VIEW, order, until="13:00", expect=["{fires: 12:00, anchor: v1}"])
    assert said == "expected 'c' to fire at 12:00 for v1, but v1 was cancelled by o1 (order.created) at 11:30"


def test_a_log_that_ends_too_early_says_what_to_add():
    (said,) = differences(plan_of(), VIEW, expect=["{fires: 12:00, anchor: v1}"])
    assert "v1 was still waiting when the case's log ended at 10:00: its window ends at 12:00" in said
    assert "12:00:05; add until:" in said


ORDER = "{at: 11:00, type: order.created, id: o1, product_id: p1, items: [{product_id: p1}]}"
VIEW_2 = "{at: 11:00, type: catalog.product.viewed, id: v2, product_id: p1}"
OLD = "{at: 10:00, appended_at: +8d, type: catalog.product.viewed, id: v1, product_id: p1}"
PATH = "catalog.product.viewed as v then cart.item.added within 2h without order.created"


@pytest.mark.parametrize(
    ("pattern", "keys", "events", "denied"),
    [
        (BROWSE, (), (VIEW, ORDER), "{anchor: v1, because: cancelled, by: o1}"),
        (BROWSE, (), (VIEW, VIEW_2), "{anchor: v1, because: replaced, by: v2}"),
        (BROWSE, (), (VIEW,), "{anchor: v1, because: waiting}"),
        (BROWSE, (), (OLD,), "{anchor: v1, because: too_old}"),
        (BROWSE, (), (OLD,), "{anchor: v1, because: late}"),
        (BROWSE, (), (VIEW, VIEW), "{anchor: v1, because: duplicate}"),
        (BROWSE, (), (ORDER,), "{anchor: o1, because: never_entered}"),
        (BROWSE, (), (ORDER,), "{because: never_entered}"),
        (PATH, (), (VIEW, ORDER), "{anchor: v1, because: killed, by: o1}"),
        (PATH, (), (VIEW, "{at: 13:00, type: tick}"), "{anchor: v1, because: expired}"),
        (BROWSE, ("if still: member.vip",), (VIEW, "{at: 13:00, type: tick}"), "{anchor: v1, because: if_still}"),
        (BROWSE, (SEND,), (VIEW, "{at: 13:00, type: tick}"), "{anchor: v1, because: no_consent}"),
    ],
)
def test_each_reason_for_silence_can_be_said(pattern, keys, events, denied):
    plan = plan_of(pattern, *keys)
    assert differences(plan, *events, deny=[denied], profile="{consent: {email: false}}") == []


@pytest.mark.parametrize("because", ["cap", "cooldown"])
def test_a_cap_can_be_said_in_general_or_by_name(because):
    plan = plan_of("order.created", "cooldown: 1d")
    events = ("{at: 10:00, type: order.created, id: o1}", "{at: 11:00, type: order.created, id: o2}")
    assert differences(plan, *events, expect=["{anchor: o1}"], deny=[f"{{anchor: o2, because: {because}}}"]) == []


def test_a_wrong_reason_or_a_wrong_culprit_is_a_difference():
    (said,) = differences(plan_of(), VIEW, ORDER, deny=["{anchor: v1, because: expired}"])
    assert said == ("expected no message for v1 because 'expired', but v1 was cancelled by o1 (order.created) at 11:00")
    assert differences(plan_of(), VIEW, ORDER, VIEW_2, deny=["{anchor: v1, because: cancelled, by: v2}"])


def test_a_message_that_must_not_come_is_one_difference():
    (said,) = differences(plan_of(), VIEW, until="13:00", deny=["{anchor: v1, because: cancelled}"])
    assert said.startswith("expected no message for v1 (cancelled), but 'c' fired at 12:00")


def test_everyone_can_be_reached_unless_the_case_says_otherwise():
    plan = plan_of(BROWSE, SEND)
    data = ["{fires: 12:00, anchor: v1, data: {product: p1}}"]
    assert differences(plan, VIEW, until="13:00", expect=data) == []
    (said,) = differences(plan, VIEW, until="13:00", expect=["{anchor: v1, data: {product: p2}}"])
    assert said.endswith("its message has product p1")
    (said,) = differences(plan, VIEW, until="13:00", expect=data, profile="{email: null}")
    assert said.endswith("but it was suppressed at 12:00 (no_address)")
    suppressed = ["{anchor: v1, decision: suppressed, reason: no_address}"]
    assert differences(plan, VIEW, until="13:00", expect=suppressed, profile="{email: null}") == []


def test_profiles_are_there_before_the_first_event_and_are_no_events():
    plan = plan_of("order.created", "where: member.city = 'Omsk'")
    events = ("{at: 10:00, type: order.created, id: o1}", "{at: 10:01, type: order.created, id: o2, member: m2}")
    assert differences(plan, *events, expect=["{anchor: o1}"], profile="{city: Omsk}") == []
    assert differences(plan, *events, expect=["{anchor: o2, member: m2}"], profiles="{m2: {city: Omsk}}") == []


def test_a_message_called_back_is_said_as_such():
    plan = plan_of(BROWSE, SEND, "on_late: cancel")
    late = "{at: 11:00, appended_at: 12:01, type: order.created, id: o1, items: [{product_id: p1}]}"
    events = (VIEW, "{at: 12:00:05, type: tick}", late)
    assert differences(plan, *events, deny=["{anchor: v1, because: late, by: o1}"]) == []
    assert differences(plan, *events, expect=["{anchor: v1, called_back: true}"]) == []
    assert differences(plan, *events, expect=["{anchor: v1}"])


def test_an_event_that_cannot_be_read_is_a_difference():
    (said,) = differences(plan_of(), "{at: 10:00, type: order.created, id: o1, total: much}", expect=[])
    assert "o1: event: data.total must be a number" in said


def test_a_case_says_the_same_however_its_expectations_are_ordered():
    plan = plan_of("order.created")
    events = ("{at: 10:00, type: order.created, id: o1}", "{at: 11:00, type: order.created, id: o2}")
    for expect in (["{anchor: o1}", "{fires: 11:00}"], ["{member: m1}", "{anchor: o1}"], ["{}", "{anchor: o2}"]):
        assert differences(plan, *events, expect=expect) == []


def test_a_date_has_a_label_as_anchor():
    plan = plan_of("every tuesday at 09:00")
    events = "{at: mon 10:00, type: app.opened}"
    expect = ["{fires: tue 09:00, anchor: every/2026-03-03}"]
    assert differences(plan, events, until="tue 10:00", expect=expect) == []


def test_the_story_of_a_case_is_the_same_each_time():
    case = one(VIEW, ORDER, VIEW_2, until="14:00", expect=[])
    first, second = (run_case(case, plan_of()) for _ in range(2))
    assert (first.conclusions, first.endings) == (second.conclusions, second.endings)
