"""Rules of <style> in the elements themselves, within bounds."""

from pathlib import Path

import pytest

from sinks.inline import OPEN_MAX, inlined
from sinks.sandbox import RenderError
from sinks.templates import Templates

STYLE = (
    "<style>p { color: red } .b { color: blue } a:hover { color: green } @media print { p { color: black } }</style>"
)


def test_rules_move_into_the_elements_and_the_rest_stays() -> None:
    page = inlined(f'<html><head>{STYLE}</head><body><p>a</p><p class="b" style="margin:0">b</p></body></html>', "x")
    assert '<p style="color: red;">a</p>' in page
    assert 'style="color: blue;margin: 0"' in page.replace("margin:0", "margin: 0").replace(';"', '"')
    assert "a:hover" in page and "@media print" in page
    assert ".b {" not in page


def test_a_page_without_rules_stays_byte_for_byte() -> None:
    page = "<p>not <b>closed &nbsp;<!--[if mso]><td><![endif]-->"
    assert inlined(page, "x") == page


@pytest.mark.parametrize(
    ("rules", "stays"),
    [
        ("@media print { p { color: black } }\n@media (x) { .a, p { b: c } .d { e: f } }\n", True),
        ("", True),
        ("@media print { p { color: black } } p { color: red }", False),
        ("p { color: red } @media print { p { color: black } }", False),
        ("@media print { } } p { color: red }", False),
    ],
)
def test_a_page_whose_rules_are_for_media_alone_stays_byte_for_byte(rules: str, stays: bool) -> None:
    page = f"<style>{rules}</style><p>a&nbsp;b"
    assert (inlined(page, "x") == page) == stays


def test_one_style_with_rules_for_elements_is_enough_to_inline() -> None:
    page = "<style>@media print { p { color: black } }</style><style>p { color: red }</style><p>a</p>"
    assert 'style="color: red;"' in inlined(page, "x")


def test_comments_for_outlook_stay() -> None:
    comment = "<!--[if mso]><table><tr><td><![endif]-->"
    assert comment in inlined(f"{STYLE}{comment}<p>x</p>", "x")


def test_rules_of_a_layout_reach_what_loops_made(tmp_path: Path) -> None:
    (tmp_path / "base.html.j2").write_text("<style>.row { color: red }</style>{% block rows %}{% endblock %}")
    (tmp_path / "x.html.j2").write_text(
        "{% extends 'base.html.j2' %}{% block rows %}{% for n in data.n %}<p class=\"row\">{{ n }}</p>{% endfor %}"
        "{% endblock %}"
    )
    (tmp_path / "x.subject.j2").write_text("s")
    (tmp_path / "x.txt.j2").write_text("t")
    html = str(Templates(tmp_path).render("x", {"data": {"n": ["<b>", 2]}}).html)
    assert html.count('style="color: red') == 2 and "&lt;b&gt;" in html


def test_no_file_and_no_address_is_read_for_rules(tmp_path: Path) -> None:
    rules = tmp_path / "rules.css"
    rules.write_text("p { color: red }")
    for link in (rules.as_uri(), str(rules), "http://127.0.0.1:9/x.css"):
        page = inlined(f'<style>b {{}}</style><link rel="stylesheet" href="{link}"><p>x</p>', "x")
        assert "color" not in page


@pytest.mark.parametrize(
    "page",
    [
        "<div>" * 100_000,  # would overflow the parser's stack
        "<div>" * (OPEN_MAX + 1),
        "".join(f"<b id={n}>" for n in range(400)) + "<p>x</p>" * 50_000,  # would be made 400 times 50,000 elements
        "".join(f"<b id={n}></i>" for n in range(OPEN_MAX + 1)),  # a tag that closes another one closes none
        "<style>" + "* * * i { color: red } " * 2_000 + "</style>" + "<i></i>" * 2_000,
    ],
)
def test_a_page_that_would_become_far_larger_is_refused(page: str) -> None:
    with pytest.raises(RenderError, match="x: too many tags"):
        inlined(STYLE + page, "x")
