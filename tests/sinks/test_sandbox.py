"""Templates of a hostile author: nothing but values in reach, and a bound on all work."""

import time

import pytest
from jinja2 import DictLoader

from sinks.sandbox import MAX_OUTPUT, MAX_TEXT, RenderError, Sandbox

VALUES = {
    "data": {
        "a": "A",
        "n": 5,
        "list": list(range(100)),
        "long": "z" * 60_000,
        "items": [1, 2],
        "price": 1234.5,
        "none": None,
        "secret": "ivan@mail.example",
    },
    "member": {},
}


def render(source: str, name: str = "x.txt.j2", **others: str) -> str:
    return Sandbox(DictLoader({name: source, **others})).render_bounded(name, VALUES)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ data.a.__class__ }}",
        "{{ data['__class__'] }}",
        "{{ data.a['__class__'] }}",
        "{{ data.a|attr('__class__') }}",
        "{{ data.a.format(1) }}",
        "{{ data.update({}) }}",
        "{{ ('x'|e).__init__.__globals__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ self }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__ }}",
        "{{ namespace(a=1) }}",
        "{{ config }}",
        "{{ caller() }}",
        "{% import 'x.txt.j2' as y %}",
        "{% from 'x.txt.j2' import y %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% call x() %}{% endcall %}",
        "{% filter upper %}x{% endfilter %}",
        "{% autoescape false %}x{% endautoescape %}",
        "{{ data.a|safe }}",
        "{{ data.list|map('upper')|list }}",
        "{{ data.list|join(*data.list) }}",
        "{% include data.a %}",
        "{% include ['x.txt.j2'] %}",
        "{% include 'nope.j2' without context %}",
        "{% block a %}{{ self.a() }}{% endblock %}",
        "{% for x in data.list recursive %}{{ loop(data.list) }}{% endfor %}",
    ],
)
def test_no_way_leads_to_python(source: str) -> None:
    with pytest.raises(RenderError):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ 'x' * 999999999 }}",
        "{{ data.list * 999999999 }}",
        "{{ 9**9**9**9 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 1700000000000|date('%999999999d') }}",
        "{{ 5|round(-999999999) }}",
        "{{ data.long|replace('z', data.long) }}",
        "{{ data.list|join(data.long) }}",
        "{% set a = 'xxxxxxxxxxxxxxxx' %}" + "{% set a = a ~ a %}" * 60 + "{{ a }}",
        "{% set a = 'xxxxxxxxxxxxxxxx' %}" + "{% set a = a + a %}" * 60 + "{{ a }}",
        "{% for a in data.list %}{% for b in data.list %}{% for c in data.list %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in data.list %}{{ data.long }}{% endfor %}",
        "{% for a in data.list %}{% for b in data.list %}{{ data.long|upper|lower|title }}{% endfor %}{% endfor %}",
        "{% include 'x.txt.j2' %}",
        "{% include 'x.txt.j2' %}{% include 'x.txt.j2' %}",
        "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
        "{{ " + "-" * 3_000 + "1 }}",
        "{% for a in data.list %}" * 25 + "{% endfor %}" * 25,
        "{{ 1 }}" * 6_000,
    ],
)
def test_work_is_bounded(source: str) -> None:
    started = time.process_time()
    with pytest.raises(RenderError):
        render(source)
    assert time.process_time() - started < 2


def test_includes_that_double_end_at_the_budget() -> None:
    files = {f"f{i}.j2": f"{{% include 'f{i + 1}.j2' %}}" * 2 for i in range(30)}
    started = time.process_time()
    with pytest.raises(RenderError):
        render("{% include 'f0.j2' %}", **files, **{"f30.j2": ""})
    assert time.process_time() - started < 2


def test_errors_quote_no_value() -> None:
    for source in (
        "{{ data.secret + 1 }}",
        "{{ data.secret|round }}",
        "{{ data.secret.x }}",
        "{{ data.secret|money }}",
    ):
        with pytest.raises(RenderError) as caught:
            render(source)
        assert "ivan" not in str(caught.value)


def test_bounds_are_above_real_messages() -> None:
    assert MAX_OUTPUT > 102 * 1024  # Gmail's clip
    assert len(render("{% for x in data.list %}{{ x }} " + "y" * 1_000 + "{% endfor %}")) > 100_000
    assert len(render("{{ data.long }}")) < MAX_TEXT


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ data.items[0] }} {{ data['items'][1] }}", "1 2"),
        ("{{ data.price|money('EUR') }}", "1\u00a0234.50\u00a0EUR"),
        ("{{ 1700000000000|date }}", "14.11.2023"),
        ("{{ data.a ~ data.n ~ '!' }}", "A5!"),
        ("{{ data.n * 2 - 1 }}", "9"),
        (
            "{% for x in data.list if x > 97 %}{{ loop.index }}:{{ x }}{{ loop.cycle('a', 'b') }}{% endfor %}",
            "1:98a2:99b",
        ),
        ("{% for k, v in {'x': 1}|items %}{{ k }}={{ v }}{% endfor %}", "x=1"),
        (
            "{{ member.city|default('town') }} {{ member.a.b.c|default('deep') }} {{ data.none|default('null') }}",
            "town deep null",
        ),
        ("{% if member.x is defined %}yes{% else %}no{% endif %}", "no"),
        ("{{ data.list[3:5] }}", "[3, 4]"),
        ("{% with b = data.n %}{{ b }}{% endwith %}", "5"),
    ],
)
def test_what_authors_need_works(source: str, text: str) -> None:
    assert render(source) == text


@pytest.mark.parametrize(
    "source", ["{{ data.missing }}", "{{ data.none }}", "{% if member.x %}{% endif %}", "{{ nope }}"]
)
def test_missing_and_null_are_errors_where_used(source: str) -> None:
    with pytest.raises(RenderError):
        render(source)


def test_html_escapes_every_value() -> None:
    sandbox = Sandbox(
        DictLoader({"x.html.j2": "{{ a }}{{ a ~ '<i>' }}{{ [a, '<']|join('<br>') }}{{ a|replace('x', '<') }}"})
    )
    out = sandbox.render_bounded("x.html.j2", {"a": "<script>x"})
    assert "<" not in out
