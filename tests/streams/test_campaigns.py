"""Campaign files: what is read, what is refused and where, and what a version depends on."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.campaign import DEFAULT_ATTRIBUTION_WINDOW_MS, DEFAULT_LIFETIME_MS, Campaign, Limit, Repeat, Send
from schemas.findings import errors
from streams.campaigns import MAX_FINDINGS, load_campaign, load_campaigns

DAY_MS = 86_400_000
HEAD = "campaign: a\npattern: order.created as o then no review.posted for 10d, same order_id\n"
SEND = "send:\n  channel: email\n  template: thanks\n"


def load(text):
    return load_campaign(text, "campaigns/x.yaml")


def words(text):
    return [str(finding) for finding in load(text)[1]]


def codes(text):
    return [finding.code for finding in load(text)[1]]


def version(text):
    campaign, findings = load(text)
    assert campaign is not None, findings
    return campaign.version


def test_a_file_with_every_key_becomes_a_campaign():
    campaign, findings = load(
        "campaign: viewed-no-order\n"
        "title: Viewed, did not order\n"
        "description: >\n  Long\n  text.\n"
        "owner: {team: crm}\n"
        "tags: [a, 1]\n"
        "pattern: catalog.product.viewed as v then no order.created for 2h, same product_id\n"
        "where: v.price > 10\n"
        "if still: member.consent.email\n"
        "on_repeat: {parallel: 3}\n"
        "cooldown: 1d12h\n"
        "limit: 2 per 30d\n"
        "per: key\n"
        "lateness: 1m\n"
        "on_late: cancel\n"
        "send:\n"
        "  channel: email\n"
        "  template: viewed/main\n"
        "  category: transactional\n"
        "  lifetime: 6h\n"
        "  data: {product: v.name, code: \"'X5'\", percent: 10}\n"
        "attribution: {window: 7d}\n"
        "timezone: Europe/Moscow\n"
    )
    assert findings == ()
    assert campaign == Campaign(
        campaign="viewed-no-order",
        pattern="catalog.product.viewed as v then no order.created for 2h, same product_id",
        version=campaign.version,
        title="Viewed, did not order",
        where="v.price > 10",
        if_still="member.consent.email",
        on_repeat=Repeat("parallel", 3),
        cooldown_ms=36 * 3_600_000,
        limit=Limit(2, 30 * DAY_MS),
        per="key",
        lateness_ms=60_000,
        on_late="cancel",
        send=Send(
            "email",
            "viewed/main",
            {"product": "v.name", "code": "'X5'", "percent": "10"},
            "transactional",
            6 * 3_600_000,
        ),
        attribution_window_ms=7 * DAY_MS,
        timezone="Europe/Moscow",
        source=campaign.source,
    )
    assert campaign.source["owner"] == {"team": "crm"}
    assert campaign.source["tags"] == ["a", 1]
    assert len(campaign.version) == 16
    assert int(campaign.version, 16) >= 0


def test_two_keys_are_enough_and_the_rest_has_defaults():
    campaign, findings = load("campaign: a\npattern: order.created\n")
    assert findings == ()
    assert campaign.send is None
    assert campaign.on_repeat is None
    assert (campaign.per, campaign.on_late, campaign.timezone, campaign.once) == ("member", "ignore", "UTC", False)
    assert (campaign.lateness_ms, campaign.attribution_window_ms) == (5_000, DEFAULT_ATTRIBUTION_WINDOW_MS)
    assert load(HEAD + SEND)[0].send == Send("email", "thanks", {}, "marketing", DEFAULT_LIFETIME_MS)


def test_a_byte_order_mark_is_no_part_of_the_text():
    assert load("\ufeff" + HEAD)[0] is not None


WORDS = [
    ("", "campaigns/x.yaml: the file is empty; write at least campaign and pattern"),
    ("- a", "campaigns/x.yaml:1:1: a campaign is written as 'key: value' lines; begin with campaign: …"),
    ("pattern: order.created", "campaigns/x.yaml:1:1: the key 'campaign' is missing; add campaign: …"),
    ("campaign: a", "campaigns/x.yaml:1:1: the key 'pattern' is missing; add pattern: …"),
    (
        "campaign: A b\npattern: order.created",
        "campaigns/x.yaml:1:11: this is no id (got 'A b'); "
        "lower case letters, digits, - and _, a letter first, at most 64",
    ),
    (HEAD + "cooldwn: 7d", "campaigns/x.yaml:3:1: there is no key 'cooldwn'; did you mean 'cooldown'?"),
    (HEAD + "if_still: member.x", "campaigns/x.yaml:3:1: there is no key 'if_still'; did you mean 'if still'?"),
    (HEAD + "campaign: b", "campaigns/x.yaml:3:1: 'campaign' is already at line 1; remove one"),
    (
        HEAD + "cooldown: 7 days",
        "campaigns/x.yaml:3:11: '7 days' is no span of time; "
        "write a whole number and one of s m h d w, e.g. 90s, 2h, 1h30m, 7d",
    ),
    (
        HEAD + "cooldown: 0s",
        "campaigns/x.yaml:3:11: a span of zero holds nothing (got 0s); "
        "write a whole number and one of s m h d w, e.g. 90s, 2h, 1h30m, 7d",
    ),
    (HEAD + "limit: 2", "campaigns/x.yaml:3:8: this is no limit (got '2'); write e.g. 2 per 30d, at most 1000"),
    (HEAD + "once: yes", "campaigns/x.yaml:3:7: 'once' is true or false (got 'yes'); write once: true"),
    (HEAD + "per: members", "campaigns/x.yaml:3:6: 'per' is member or key (got 'members'); did you mean 'member'?"),
    (
        HEAD + "on_repeat: restrat",
        "campaigns/x.yaml:3:12: 'on_repeat' is restart or keep (got 'restrat'); did you mean 'restart'?",
    ),
    (HEAD + "on_repeat: {parallel: 65}", "campaigns/x.yaml:3:23: parallel is a number from 1 to 64 (got '65')"),
    (
        HEAD + "lateness: 1s",
        "campaigns/x.yaml:3:11: lateness is at least 5s (got 1s): 5s is used; remove it or write 5s",
    ),
    (HEAD + "lateness: 8d", "campaigns/x.yaml:3:11: lateness is at most 7d (got 8d); older events move no pattern"),
    (
        HEAD + "timezone: Europe/Moskow",
        "campaigns/x.yaml:3:11: there is no time zone 'Europe/Moskow'; write e.g. Europe/Moscow",
    ),
    (
        HEAD + "send: email",
        "campaigns/x.yaml:3:7: 'send' holds keys of its own; write send: and below it, indented, its keys",
    ),
    (HEAD + "send: {channel: email}", "campaigns/x.yaml:3:7: the key 'template' is missing; add template: …"),
    (
        HEAD + "send: {channel: emial, template: t}",
        "campaigns/x.yaml:3:17: there is no channel 'emial'; did you mean 'email'?",
    ),
    (
        HEAD + "send: {channel: email, template: ../t}",
        "campaigns/x.yaml:3:34: this is no name of a template "
        "(got '../t'); letters, digits, - _ . and / between folders",
    ),
    (
        HEAD + "send: {channel: email, template: t, category: marketting}",
        "campaigns/x.yaml:3:47: there is no category 'marketting'; did you mean 'marketing'?",
    ),
    (
        HEAD + "send: {channel: email, template: t, data: {a: o.totl}}",
        "campaigns/x.yaml:3:47: 'order.created' has no attribute 'totl'; did you mean 'total'?",
    ),
    (HEAD + "where: totl > 5", "campaigns/x.yaml:3:8: 'order.created' has no attribute 'totl'; did you mean 'total'?"),
    (HEAD + "if still: o.total >", "campaigns/x.yaml:3:20: expected a value (got the end)"),
    (HEAD + "title: [a]", "campaigns/x.yaml:3:8: 'title' holds one text; write it on one line"),
    (HEAD + "where:", "campaigns/x.yaml:3:7: 'where' is empty; write a value or remove the key"),
]


@pytest.mark.parametrize(("text", "expected"), WORDS, ids=[text.removeprefix(HEAD)[:50] for text, _ in WORDS])
def test_a_finding_names_file_line_column_fault_and_remedy(text, expected):
    assert expected in words(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: [b", "yaml-syntax"),
        ("a:\n\tb: c", "yaml-syntax"),
        ("a: b\x00c", "yaml-syntax"),
        ("a: &x 1\nb: *x", "yaml-alias"),
        ("a: *x", "yaml-alias"),
        ("a: !!python/object/apply:os.system [x]", "yaml-tag"),
        ("a: 1\n---\nb: 2", "yaml-documents"),
        ("? [a]\n: b", "yaml-key"),
        ("[" * 10_000, "yaml-depth"),
        ("a: " + "x" * 70_000, "too-large"),
        ("a: '\ud800'", "not-text"),
        ("# nothing", "empty"),
        ("just text", "no-mapping"),
    ],
)
def test_what_is_no_campaign_file_is_one_finding(text, code):
    campaign, findings = load(text)
    assert campaign is None
    assert [finding.code for finding in findings] == [code]


def test_a_tab_is_named_as_the_cause():
    assert words("a:\n\tb: c")[0].endswith("indent with spaces, not tabs")


PLACES = [
    ("pattern: order.created[totl > 5]", (1, 24)),
    ("pattern: 'order.created[totl > 5]'", (1, 25)),
    ('pattern: "order.created[totl > 5]"', (1, 25)),
    ('pattern: "order.created[\\"a\\" = channel and totl > 5]"', (1, 45)),
    ("pattern: 'order.created[channel = ''a'' and totl > 5]'", (1, 45)),
    ("pattern: |\n  order.created[\n    totl > 5]", (3, 5)),
    ("pattern: >-\n\n  order.created\n  [channel = 'a' and\n    totl > 5]\n", (5, 5)),
    ("pattern: order.created\n  [channel = 'a' and\n  totl > 5]", (3, 3)),
    ("pattern: 'order.created\n  [channel = ''a'' and\n\n  totl > 5]'", (4, 3)),
    ("# ünï\r\npattern: order.created[totl > 5]\r\n", (2, 24)),
]


@pytest.mark.parametrize(("text", "place"), PLACES)
def test_a_place_inside_a_value_is_the_place_in_the_file(text, place):
    findings = [f for f in load(text)[1] if f.code == "unknown-attribute"]
    assert [(f.line, f.column) for f in findings] == [place]


def test_all_findings_of_a_file_come_at_once_in_its_order():
    text = (
        "campain: a\npattern: ordr.created then order.created\nwhere: totl > 5\n"
        "cooldown: x\nsend: {channel: email, data: {a: 'b c'}}\n"
    )
    assert codes(text) == [
        "unknown-key",
        "missing-key",
        "unknown-event",
        "default-window",
        "unknown-attribute",
        "span",
        "missing-key",
        "syntax",
    ]


def test_a_condition_is_read_on_behind_a_slip():
    text = (
        "campaign: slips\npattern: order.created as o\nwhere: total == 5 && totl > 2\n"
        "if still: q.total > 3x and o.totl = 1\n"
    )
    assert codes(text) == ["syntax", "syntax", "unknown-attribute", "unknown-alias", "syntax", "unknown-attribute"]


def test_findings_are_cut_off_at_a_hundred_errors_first():
    campaign, findings = load(HEAD + "".join(f"k{i}x{i}: 1\n" for i in range(200)))
    assert campaign is None
    assert len(findings) == MAX_FINDINGS + 1
    assert findings[-1].message == "100 more findings are not shown"


def test_warnings_do_not_forbid_loading():
    campaign, findings = load(HEAD + "lateness: 1s\n")
    assert campaign.lateness_ms == 5_000
    assert errors(findings) == ()


@pytest.mark.parametrize(
    "text",
    [
        "campaign: a\npattern: order.created\non_late: cancel",
        "campaign: a\npattern: order.created\non_repeat: keep",
        "campaign: a\npattern: order.created\nper: key",
        HEAD + "once: true\ncooldown: 1d",
    ],
)
def test_a_key_without_effect_is_a_warning(text):
    campaign, findings = load(text)
    assert campaign is not None
    assert [(f.code, f.severity) for f in findings] == [("no-effect", "warning")]


SAME_MEANING = [
    HEAD + "# a comment\n",
    "pattern: |\n  order.created   as o\n  then no review.posted for 240h,\n  same order_id\ncampaign: 'a'\n",
    HEAD + "title: Another\ndescription: x\nowner: y\ntags: [z]\n",
    HEAD + "lateness: 5s\nper: member\non_late: ignore\nonce: false\ntimezone: UTC\nattribution: {window: 5d}\n",
]


@pytest.mark.parametrize("text", SAME_MEANING)
def test_formatting_comments_order_titles_and_written_defaults_keep_the_version(text):
    assert version(text) == version(HEAD)


OTHER_MEANING = [
    HEAD.replace("10d", "11d"),
    HEAD.replace("order.created", "order.created[total > 1]"),
    HEAD.replace("campaign: a", "campaign: b"),
    HEAD + "where: o.total > 5",
    HEAD + "if still: o.total > 5",
    HEAD + "on_repeat: keep",
    HEAD + "cooldown: 1d",
    HEAD + "limit: 1 per 1d",
    HEAD + "once: true",
    HEAD + "per: key",
    HEAD + "lateness: 6s",
    HEAD + "on_late: cancel",
    HEAD + "timezone: Europe/Moscow",
    HEAD + "attribution: {window: 6d}",
    HEAD + SEND,
    HEAD + SEND.replace("thanks", "other"),
    HEAD + SEND + "  data: {x: o.total}",
    HEAD + SEND + "  data: {x: o.order_id}",
    HEAD + SEND + "  data: {y: o.total}",
    HEAD + SEND + "  category: transactional",
    HEAD + SEND + "  lifetime: 1h",
]


def test_every_change_of_meaning_changes_the_version():
    versions = [version(text) for text in (HEAD, *OTHER_MEANING)]
    assert len(set(versions)) == len(versions)


def test_a_version_is_the_same_for_ever():
    assert version("campaign: a\npattern: order.created[total > 5]\n") == "8733689919dbd36b"


def test_several_files_load_in_order_with_all_their_findings():
    campaigns, findings = load_campaigns(
        [("1.yaml", HEAD), ("2.yaml", "campaign: b\npattern: ordr.created"), ("3.yaml", HEAD.replace("a\n", "c\n", 1))]
    )
    assert [c.campaign for c in campaigns] == ["a", "c"]
    assert [(f.path, f.code) for f in findings] == [("2.yaml", "unknown-event")]


def test_two_files_with_one_id_are_both_refused_and_both_named():
    campaigns, findings = load_campaigns([("1.yaml", HEAD), ("2.yaml", HEAD + "once: true")])
    assert campaigns == ()
    assert [str(f) for f in findings] == ["2.yaml:1:11: campaign 'a' is already at 1.yaml:1:11; give one another id"]


@pytest.mark.parametrize("unit", ["a: b\n", "a: [", "- ", "? ", "{a: ", "a: |\n", "'", '"', "x", " ", "\t", "#", "&a "])
def test_a_hostile_file_takes_little_time(unit):
    begun = time.perf_counter()
    load((unit * 65_536)[:65_536])
    assert time.perf_counter() - begun < 5


_LINES = st.sampled_from(
    [
        "campaign: a",
        "pattern: order.created",
        "pattern: >-",
        "  order.created then",
        "  no x for 2h",
        "where: v.total > 5",
        "if still: |",
        "  member.x",
        "on_repeat: {parallel: 3}",
        "on_repeat: keep",
        "cooldown: 7d",
        "limit: 2 per 30d",
        "send:",
        "  channel: email",
        "  template: t",
        "  data:",
        "    a: v.total",
        "    b: \"'x'\"",
        "attribution: {window: 5d}",
        "timezone: UTC",
        "once: true",
        "tags: [a, {b: c}]",
        "\tx: y",
        "send: {",
        "}",
        "'",
        "- a",
        "&x a: *x",
        "lateness: 1s",
    ]
)


@given(st.one_of(st.text(max_size=200), st.lists(_LINES, max_size=20).map("\n".join)))
@example("a: \u2028b\x85")
@example('campaign: a\npattern: "order.created\\\n [x\\u0041 = 1]"')
@example("timezone: Europe")
@example("timezone: a/b\npattern: 1")
@settings(max_examples=300, deadline=None)
def test_any_text_gives_a_campaign_or_errors_in_places_of_the_file(text):
    campaign, findings = load(text)
    assert (campaign is None) == bool(errors(findings))
    lines = text.split("\n")
    for finding in findings:
        assert finding.line <= len(lines)
        assert finding.line == 0 or 1 <= finding.column <= len(lines[finding.line - 1]) + 1
