"""Campaign files, patterns and templates from a hostile author: refused or bounded, and never out of their sandbox."""

import itertools
import random
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from sinks.sandbox import RenderError
from sinks.templates import Templates
from streams.campaigns import load_campaign
from streams.patterns.conditions import parse_expression
from streams.patterns.expressions import PAIRS_MAX, compile_judge
from streams.patterns.plan import Plan
from tests.helpers.runs import event, run

VIEW, ORDER = "catalog.product.viewed", "order.created"
T = 1_772_409_600_000
CPU_S = 2.0  # of a file at its largest: what it costs is milliseconds, a bomb would take hours

FILES = {
    "billion laughs": "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b]\ncampaign: *c\n",
    "anchor that holds itself": "campaign: &a [*a]\n",
    "merge keys": "<<: *x\ncampaign: a\n",
    "python object": "campaign: !!python/object/apply:os.system ['touch {d}/owned']\npattern: a.b.c\n",
    "python name": "campaign: !!python/name:os.system\n",
    "python module": "campaign: !!python/object/new:subprocess.Popen [['touch', '{d}/owned']]\n",
    "tag of another library": "campaign: !include {d}/secret\npattern: !ENV ${HOME}\n",
    "tag directive": "%TAG ! tag:evil,2000:\n---\ncampaign: !x a\n",
    "deep lists": "campaign: " + "[" * 60_000,
    "deep maps": "campaign: " + "{a: " * 16_000,
    "deep blocks": "".join(" " * n + "a:\n" for n in range(300)),
    "deep dashes": "- " * 30_000,
    "questions": "? " * 30_000,
    "many keys": "\n".join(f"k{n}: 1" for n in range(6_000)),
    "one key many times": "\n".join("campaign: a" for _ in range(5_000)),
    "many documents": "---\na: 1\n" * 6_000,
    "many anchors": "".join(f"k{n}: &a{n} x\n" for n in range(4_000)),
    "a huge text": f"campaign: {'x' * 60_000}\n",
    "a huge escaped text": 'campaign: "' + "\\n" * 30_000 + '"\n',
    "a file too large": "#" * 10_000_000,
    "control characters": "\x00\x01\x02",
    "half a character": "campaign: \ud800",
    "path as id": f"campaign: ../../x\npattern: {VIEW}\n",
    "path as template": f"campaign: a\npattern: {VIEW}\nsend: {{channel: email, template: ../../../etc/passwd}}\n",
    "path as time zone": f"campaign: a\npattern: {VIEW}\ntimezone: ../../../../etc/passwd\n",
    "absolute time zone": f"campaign: a\npattern: {VIEW}\ntimezone: /etc/localtime\n",
    "endless parallel": f"campaign: a\npattern: {VIEW}\non_repeat: {{parallel: 99999999999}}\n",
}

PATTERNS = {
    "brackets": "(" * 4_000,
    "not not not": f"{VIEW}[{'not ' * 1_000}price]",
    "nested calls": f"{VIEW}[{'abs(' * 1_000}price{')' * 1_000} > 1]",
    "nested parentheses": f"{VIEW}[{'(' * 1_000}price{')' * 1_000} > 1]",
    "many conditions": f"{VIEW}[{' and '.join(['price > 1'] * 400)}]",
    "a long list": f"{VIEW}[price in ({', '.join(map(str, range(800)))})]",
    "any of many": f"any of ({', '.join(f'custom.a{n}' for n in range(300))})",
    "all of many": f"all of ({', '.join(f'custom.a{n}' for n in range(300))}), within 7d",
    "many steps": " then ".join([VIEW] * 150),
    "nine steps": " then ".join([VIEW] * 9),
    "a huge number": f"{VIEW}[price > {'9' * 3_000}]",
    "a huge exponent": f"{VIEW}[price > 1e999999999]",
    "a huge count": f"{'9' * 3_000}+ {VIEW} within 1h",
    "a large count": f"1000000000+ {VIEW} within 1h",
    "a huge span": f"no {VIEW} for {'9' * 3_000}d",
    "a span of many parts": f"no {VIEW} for 1d{'1h' * 1_000}",
    "a long path": f"{VIEW}[{'.'.join(['a'] * 1_500)} > 1]",
    "a regular expression": f"{VIEW}[title matches '(a+)+$']",
    "Python": f"{VIEW}[__import__('os').system('touch {{d}}/owned')]",
    "a lambda": f"{VIEW}[(lambda: 1)() = 1]",
    "arithmetic": f"{VIEW}[price ** 999999999 > 1]",
    "multiplied text": f"{VIEW}['x' * 999999999 = 'x']",
    "an unknown function": f"{VIEW}[open('/etc/passwd') = '']",
    "half a character": f"{VIEW}[title = '\ud800']",
    "format": f"{VIEW}[title = '{{0.__class__}}'.format]",
}


@pytest.fixture(autouse=True)
def no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_args: Any, **_more: Any) -> None:
        raise AssertionError("a campaign reached out")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(subprocess, "Popen", refused)


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused_with_a_finding_and_at_little_cost(name: str, tmp_path: Path) -> None:
    began = time.process_time()
    campaign, findings = load_campaign(FILES[name].replace("{d}", str(tmp_path)), "c.yaml")
    assert time.process_time() - began < CPU_S
    assert campaign is None
    assert 0 < len(findings) <= 101 and all(len(str(finding)) < 1_000 for finding in findings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PATTERNS)
def test_a_hostile_pattern_is_refused_with_a_finding_and_at_little_cost(name: str, tmp_path: Path) -> None:
    text = "campaign: a\npattern: >-\n  " + PATTERNS[name].replace("{d}", str(tmp_path)) + "\n"
    began = time.process_time()
    campaign, findings = load_campaign(text, "c.yaml")
    assert time.process_time() - began < CPU_S
    assert campaign is None
    assert findings and all(len(str(finding)) < 1_000 for finding in findings)
    assert list(tmp_path.iterdir()) == []


def test_a_text_at_the_bound_is_judged_in_bounded_time() -> None:
    """The longest condition on the fullest event that passes the door: 256 KiB of items."""
    worst = " or ".join(["items.product_id = items.category"] * 100)
    text = f"campaign: a\npattern: {ORDER}[{worst}]\n"
    campaign, findings = load_campaign(text, "c.yaml", lenient=True)
    assert campaign is not None, findings
    items = [{"product_id": f"p{n}", "category": f"c{n}"} for n in range(7_000)]
    began = time.process_time()
    assert not [f for e in run([Plan(campaign)], event(ORDER, T, "o1", items=items)) for f in e.firings]
    assert time.process_time() - began < 10 * CPU_S  # the square of it would take an hour


@pytest.mark.parametrize("op", ["=", "!=", "<", "<=", ">", ">=", "in", "not in"])
def test_many_leaves_are_compared_as_few_are(op: str) -> None:
    """Above PAIRS_MAX pairs another way is taken; the definition, pair by pair, is the judge of both."""
    judge = compile_judge(parse_expression(f"left {op} right"))
    single = compile_judge(parse_expression(f"one {op} {'[other]' if op.endswith('in') else 'other'}"))
    chance = random.Random(7)
    pool = [0, 1, 1.0, 2, -3.5, True, False, "a", "b", "", "1", "true"]
    for _ in range(300):
        left = chance.choices(chance.sample(pool, chance.randint(1, 4)), k=chance.randint(9, 12))
        right = chance.choices(chance.sample(pool, chance.randint(1, 4)), k=chance.randint(9, 12))
        assert len(left) * len(right) > PAIRS_MAX
        if op == "not in":
            want = any(all(single({"one": a, "other": b}, {}, {}, 0) for b in right) for a in left)
        else:
            want = any(single({"one": a, "other": b}, {}, {}, 0) for a, b in itertools.product(left, right))
        assert judge({"left": left, "right": right}, {}, {}, 0) is want, (left, op, right)


@pytest.mark.parametrize("path", ["data.__class__", "data.items.__len__", "data.keys", "__class__", "member.__dict__"])
def test_a_path_reaches_keys_of_the_event_and_no_attribute_of_python(path: str) -> None:
    assert compile_judge(parse_expression(f"{path} is null"))({"data": {"items": [1]}}, {}, {"a": 1}, 0)


# ---------------------------------------------------------------- templates; more: tests/sinks/test_sandbox.py


@pytest.mark.parametrize(
    "source",
    [
        "{% include '../secret.txt' %}",
        "{% include '/etc/passwd' %}",
        "{% extends '../../secret.txt' %}",
        "{% include 'linked.txt.j2' %}",
        "{% include 'file:///etc/passwd' %}",
        "{% include 'http://127.0.0.1:1/x' %}",
        "{{ data.x.__class__.__base__.__subclasses__() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__()[0]('/etc/passwd').read() }}",
        "{{ joiner.__init__.__globals__.os.environ }}",
        "{{ request.application.__globals__ }}",
        "{{ url_for.__globals__ }}",
        "{{ data|attr('__class__')|attr('__mro__') }}",
        "{{ ('%c' % 95) * 2 }}",
        "{% for a in 'x' * 10**9 %}{% endfor %}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% import 'os' as os %}{{ os.system('id') }}",
        "{{ 10**10**10 }}",
        "{{ 'x'|center(10**9) }}",
        "{{ 'x'|indent(10**9) }}",
        "{{ 'x'|format(1) }}",
        "{{ [1]|batch(10**9)|list }}",
        "{{ 'x'.join(data.x) }}",
        "{{ data.x|xmlattr }}",
        "{{ data.x|tojson(indent=10**9) }}",
        "{{ data.x|urlize }}",
        "{% debug %}",
        "{% do data.x %}",
        "{% trans %}x{% endtrans %}",
    ],
)
def test_a_hostile_template_fails_alone(source: str, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("not-for-authors")
    place = tmp_path / "templates"
    place.mkdir()
    (place / "linked.txt.j2").symlink_to(tmp_path / "secret.txt")
    (place / "x.subject.j2").write_text("About")
    (place / "x.txt.j2").write_text(source)
    (place / "good.subject.j2").write_text("Good")
    (place / "good.txt.j2").write_text("{{ data.x }} {{ unsubscribe_url }}")
    templates = Templates(place)
    values = {"data": {"x": "X"}, "member": {}, "campaign": "c", "message": {}, "unsubscribe_url": "https://u.example/"}
    began = time.process_time()
    with pytest.raises(RenderError) as refused:
        templates.render("x", values)
    assert time.process_time() - began < CPU_S
    assert "not-for-authors" not in str(refused.value)
    assert templates.render("good", values).subject == "Good"
