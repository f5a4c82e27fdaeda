"""The 39 triggers of Loymax: each is one of our campaigns, passes its cases, and fires as the oracle says."""

import json
import re

import msgspec
import pytest
import yaml

from schemas.events import TICK
from schemas.findings import errors
from streams.campaigns import load_campaign
from streams.case_runs import check_case
from streams.cases import Case, read_cases
from streams.patterns.plan import Plan
from streams.replay import read_log, replay
from tests.oracle.evaluate import firings
from tidings.cli.check import examine
from tidings.files import campaign_paths, cases_path, read_text
from tidings.layout import ROOT

FOLDER = ROOT / "campaigns" / "loymax"
TEMPLATES = ROOT / "campaigns" / "templates"
TRIGGERS = (  # as Loymax lists them, with the names of our files
    ("Lost cart", "lost_cart"),
    ("Lost view (product or category)", "lost_view"),
    ("Lost view of category", "lost_view_of_category"),
    ("Lost view of product", "lost_view_of_product"),
    ("Anniversary", "anniversary"),
    ("Days since order", "days_since_order"),
    ("Days since receipt", "days_since_receipt"),
    ("Days since registration", "days_since_registration"),
    ("Added a product to the container", "added_to_container"),
    ("Item ordered", "item_ordered"),
    ("Item from category ordered", "item_from_category_ordered"),
    ("Product in cart is low on stock", "cart_item_low_on_stock"),
    ("Price of viewed product changed", "price_of_viewed_product_changed"),
    ("Product price changed", "product_price_changed"),
    ("Order status changed", "order_status_changed"),
    ("Customer registration", "customer_registration"),
    ("Customer registration + filter", "customer_registration_filtered"),
    ("Viewed page", "viewed_page"),
    ("Visited site", "visited_site"),
    ("Viewed product", "viewed_product"),
    ("Viewed category", "viewed_category"),
    ("Item purchased", "item_purchased"),
    ("Item from category purchased", "item_from_category_purchased"),
    ("Date has come", "date_has_come"),
    ("Date come for order", "date_come_for_order"),
    ("Date come for client", "date_come_for_client"),
    ("Date come for cheque", "date_come_for_cheque"),
    ("Bonus expected expiration", "bonus_expected_expiration"),
    ("Repeat date", "repeat_date"),
    ("Segment (RFM) changed", "rfm_segment_changed"),
    ("User segment changed", "user_segment_changed"),
    ("Cheque issued", "cheque_issued"),
    ("Event occurred", "event_occurred"),
    ("Web event occurred", "web_event_occurred"),
    ("Poll completed", "poll_completed"),
    ("Days since last visit", "days_since_last_visit"),
    ("Order created", "order_created"),
    ("System event", "system_event"),
    ("Action worked", "action_worked"),
)
STEMS = tuple(f"{number:02}_{name}" for number, (_, name) in enumerate(TRIGGERS, 1))
DATED = {"05_anniversary", "24_date_has_come", "26_date_come_for_client", "29_repeat_date"}  # the oracle has no dates
AFTER = re.compile(r"(\w+) after (.+?)(, same .+)?")


def file_of(stem):
    return FOLDER / f"{stem}.yaml"


def text_of(stem):
    return read_text(file_of(stem))


def plan_of(stem):
    campaign, _ = load_campaign(text_of(stem), f"{stem}.yaml")
    assert campaign is not None
    return Plan(campaign)


def cases_of(stem) -> tuple[Case, ...]:
    path = cases_path(file_of(stem))
    cases, findings = read_cases(read_text(path), str(path))
    assert not errors(findings)
    return cases


def log_of(case):
    """Write a case as the lines of a log; what the profile holds comes as an event before the first one."""
    lines, latest = [], case.events[0].append_ms
    for member, profile in case.profiles.items():
        lines.append(
            {
                "type": "member.updated",
                "event_id": f"profile-{member}",
                "member_id": member,
                "occurred_at": latest,
                "appended_at": latest,
                "data": profile,
            }
        )
    for event in case.events:
        tick = event.type == TICK
        line = {"type": event.type, "occurred_at": event.at_ms, "appended_at": event.append_ms, "data": event.data}
        lines.append({**line, "event_id": None if tick else event.id, "member_id": None if tick else event.member})
        latest = event.append_ms
    if case.until_ms is not None:
        until = max(case.until_ms, latest)
        lines.append({"type": TICK, "member_id": None, "occurred_at": until, "appended_at": until})
    return lines


def fired(plans, log):
    lines = [json.dumps(line).encode() for line in log]
    return [msgspec.to_builtins(f) for epoch in replay(read_log(lines), plans, decisions=False) for f in epoch.firings]


def spelled(found):
    return sorted(json.dumps(firing, sort_keys=True) for firing in found)


def in_the_oracles_words(stem):
    """Say `7d after x` as `x then no … for 7d` of an event that never comes: the oracle knows no `after`."""
    campaign = yaml.safe_load(text_of(stem))
    after = AFTER.fullmatch(campaign["pattern"])
    if after:
        campaign["pattern"] = f"{after[2]} then no custom.never for {after[1]}{after[3] or ''}"
        if after[3]:  # what never comes has every attribute, so `same` stays as it is
            assert "same" in campaign["pattern"]
    return campaign


def test_there_is_one_campaign_per_trigger_in_the_order_of_the_list():
    assert len(TRIGGERS) == 39
    assert [path.stem for path in campaign_paths([FOLDER])] == list(STEMS)
    assert [plan_of(stem).id for stem in STEMS] == [name for _, name in TRIGGERS]


def test_every_campaign_is_checked_without_a_word_and_passes_its_cases():
    report = examine((str(FOLDER),), TEMPLATES)
    assert [str(finding) for finding in report.findings] == []
    assert (report.campaigns, report.failed) == (39, 0)


@pytest.mark.parametrize("stem", STEMS)
def test_cases_show_what_fires_and_what_does_not(stem):
    cases = cases_of(stem)
    assert len(cases) >= 3
    assert any(case.expect for case in cases)
    assert any(not case.expect and case.denied for case in cases)


def edits_of(stem):
    """Campaigns that differ from this one in one part of it, as (what was done, text)."""
    campaign = yaml.safe_load(text_of(stem))
    pattern = campaign["pattern"]
    for key in ("cooldown", "limit", "once", "per", "on_repeat", "if still"):
        if key in campaign:
            yield f"without {key}", {k: v for k, v in campaign.items() if k != key}
    cuts = [r"\[[^]]*\]", r"(?<=\[)[^]]*? and ", r" and [^]]*", r" without .*?(?=, same|$)", r", same .*", r" yearly"]
    cuts += [r"(?<=\()[^,)]+, ", r", [^,()]+(?=[,)])"]
    for cut in cuts:
        for found in re.finditer(cut, pattern):
            yield f"without '{found[0]}'", {**campaign, "pattern": pattern[: found.start()] + pattern[found.end() :]}
    for found in re.finditer(r"(?<![\w.':-])[0-9]+(?=[dhm]\b|[] :]|$)", pattern):
        for other in (str(int(found[0]) + 1), str(max(int(found[0]) - 1, 0))):
            if other != found[0]:
                edited = pattern[: found.start()] + other + pattern[found.end() :]
                yield f"{other} for {found[0]}", {**campaign, "pattern": edited}


@pytest.mark.parametrize("stem", STEMS)
def test_cases_notice_when_a_part_of_the_campaign_is_lost(stem):
    unnoticed = []
    for what, campaign in edits_of(stem):
        edited, _ = load_campaign(yaml.safe_dump(campaign), f"{stem}.yaml", lenient=True)
        if edited is not None and not any(check_case(case, Plan(edited), "cases") for case in cases_of(stem)):
            unnoticed.append(what)
    assert unnoticed == []


@pytest.mark.parametrize("stem", [stem for stem in STEMS if stem not in DATED])
def test_the_oracle_asks_for_the_same_firings(stem):
    campaign = in_the_oracles_words(stem)
    for case in cases_of(stem):
        log = log_of(case)
        assert spelled(fired([plan_of(stem)], log)) == spelled(firings([campaign], log)), case.name


def test_all_of_them_together_fire_as_each_does_alone():
    plans = [plan_of(stem) for stem in STEMS]
    for stem in STEMS:
        for case in cases_of(stem):
            log = log_of(case)
            alone = [firing for plan in plans for firing in fired([plan], log)]
            assert spelled(fired(plans, log)) == spelled(alone), f"{stem}: {case.name}"


@pytest.mark.parametrize("stem", sorted(DATED - {"24_date_has_come"}))
def test_dates_that_come_again_have_a_case_for_both_shifts_of_the_clocks(stem):
    names = " ".join(case.name for case in cases_of(stem))
    assert re.search("clocks (go|went) forward", names)
    assert re.search("they (go|went) back", names)


def test_the_table_of_the_readme_is_what_the_files_say():
    rows = [line for line in read_text(FOLDER / "README.md").splitlines() if re.match(r"\| [0-9]+ \|", line)]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    assert [row[:4] for row in cells] == [
        [str(number), trigger, f"[{stem}.yaml]({stem}.yaml)", f"`{' '.join(plan_of(stem).campaign.pattern.split())}`"]
        for number, ((trigger, _), stem) in enumerate(zip(TRIGGERS, STEMS, strict=True), 1)
    ]
    assert all(len(row) == 5 and row[4] for row in cells)
