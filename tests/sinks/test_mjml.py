"""MJML templates: compiled once, values put in afterwards, every fault told with its line."""

from pathlib import Path

import pytest
from jinja2 import TemplateSyntaxError

from sinks.mjml import DEPTH_MAX, page_of
from sinks.sandbox import RenderError
from sinks.templates import Templates, check_template

FRAME = "<mjml>\n<mj-body>\n{}\n</mj-body>\n</mjml>\n"
TEXT = "<mj-section><mj-column><mj-text>{}</mj-text></mj-column></mj-section>"
VALUES = {"data": {"a": "1 < 2 & 3", "n": [1, 2], "url": "https://shop.example/?a=1&b=2"}, "member": {}}


def write(root: Path, mjml: str, **more: str) -> Templates:
    (root / "x.subject.j2").write_text("s")
    (root / "x.txt.j2").write_text("t")
    (root / "x.mjml.j2").write_text(mjml)
    for part, text in more.items():
        (root / f"x.{part}.j2").write_text(text)
    return Templates(root)


def page(root: Path, inner: str) -> str:
    html = write(root, FRAME.format(inner)).render("x", VALUES).html
    assert html is not None
    return html


def faults(root: Path, mjml: str) -> list[tuple[int, str]]:
    found = check_template("x", write(root, mjml).files, frozenset(VALUES["data"]))
    assert {Path(fault.path).name for fault in found} <= {"x.mjml.j2"}
    return [(fault.line, fault.message) for fault in found]


def test_values_are_escaped_and_are_no_mjml(tmp_path: Path) -> None:
    html = page(tmp_path, TEXT.format("{{ data.a }}") + '<mj-raw>{{ "<mj-text>" }}</mj-raw>')
    assert "1 &lt; 2 &amp; 3" in html and "&lt;mj-text&gt;" in html and "mj-text>" not in html


def test_values_stand_in_attributes(tmp_path: Path) -> None:
    button = '<mj-section><mj-column><mj-button href="{{ data.url }}">Go</mj-button></mj-column></mj-section>'
    assert 'href="https://shop.example/?a=1&amp;b=2"' in page(tmp_path, button)


@pytest.mark.parametrize(("before", "after"), [("<mj-raw>", "</mj-raw>"), ("", "")])
def test_branches_and_loops_go_around_sections(tmp_path: Path, before: str, after: str) -> None:
    html = page(
        tmp_path,
        f"{before}{{% for n in data.n if n < 2 or n > 1 %}}{after}" + TEXT.format("no. {{ n }}")
        + f"{before}{{% endfor %}}{{% if data.a is defined and false %}}{after}" + TEXT.format("hidden")
        + f"{before}{{% endif %}}{after}",
    )  # fmt: skip
    assert "no. 1" in html and "no. 2" in html and "hidden" not in html


def test_braces_of_rules_are_not_taken_for_jinja(tmp_path: Path) -> None:
    style = "<mj-head><mj-style>@media print{#a{color:red}}</mj-style></mj-head>"
    html = write(tmp_path, f"<mjml>{style}<mj-body>{TEXT.format('x')}</mj-body></mjml>").render("x", VALUES).html
    assert html is not None and "color:red" in html


def test_an_edit_of_mjml_is_live_and_a_broken_one_is_not_used(tmp_path: Path) -> None:
    templates = write(tmp_path, FRAME.format(TEXT.format("one")))
    for text, want in (("one", "one"), ("three", "three"), ("<mj-nothing/>", "three")):
        (tmp_path / "x.mjml.j2").write_text(FRAME.format(TEXT.format(text)))
        assert want in str(templates.render("x", VALUES).html)


@pytest.mark.parametrize(
    ("inner", "line", "words"),
    [
        ("\n<mj-sectoin></mj-sectoin>", 4, "no 'mj-sectoin'"),
        ("<mj-section>\n<mj-column>\n</mj-section>", 5, "<mj-column> of line 4 is open"),
        ("\n\n<mj-section>", 6, "<mj-section> of line 5 is open"),
        ('\n<mj-section\nnope="{{ data.a }}" />', 5, "drops"),
        ("<mj-section><mj-column><mj-social>\n{{ data.a }}</mj-social></mj-column></mj-section>", 4, "not MJML"),
        (TEXT.format("{{ data.zzz }}"), 3, "gives no 'zzz'"),
        (TEXT.format("{% if data.a %}\nx"), 4, "end of template"),
        ('\n<mj-include path="/etc/passwd" />', 4, "not allowed"),
        ("<mj-wrapper>" * (DEPTH_MAX + 1), 3, "in one another"),
        (TEXT.format("<b>" * 30_000), 3, "in one another"),
    ],
)
def test_check_tells_each_fault_with_its_line(tmp_path: Path, inner: str, line: int, words: str) -> None:
    found = faults(tmp_path, FRAME.format(inner))
    assert any(at == line and words in message for at, message in found), found


@pytest.mark.parametrize("mjml", ["hello", "<mjml></mjml", "<mjml><mj-body></mj-body>", "<p>x</p>", "<mjml>{{ x"])
def test_what_is_no_mjml_is_told_and_not_sent(tmp_path: Path, mjml: str) -> None:
    assert faults(tmp_path, mjml)
    with pytest.raises(RenderError):
        write(tmp_path, mjml).render("x", VALUES)


def test_two_pages_of_one_message_are_an_error(tmp_path: Path) -> None:
    templates = write(tmp_path, FRAME.format(TEXT.format("from mjml")), html="<p>from html</p>")
    assert [f.code for f in check_template("x", templates.files, frozenset())] == ["template-double"]
    assert "from html" in str(templates.render("x", VALUES).html)


@pytest.mark.parametrize("hostile", ["<a" * 60_000, '<a "' * 30_000])
def test_tags_that_never_end_are_looked_at_once(hostile: str) -> None:
    with pytest.raises(TemplateSyntaxError, match="a tag that has no end"):
        page_of(hostile, "x.mjml.j2")


@pytest.mark.parametrize("hostile", ["{{" * 30_000, "{#{%{{" * 10_000 + "}}"])
def test_jinja_that_never_ends_is_looked_at_once(hostile: str) -> None:
    page = page_of(FRAME.format(TEXT.format(hostile)), "x.mjml.j2")
    assert page.count("{") >= 3
