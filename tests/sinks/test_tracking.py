"""Which links of a mail are led through the redirect, and that nothing else of it changes."""

import html
import re
import time
from urllib.parse import urlsplit

import msgspec
import pytest

from schemas.tracking import CLICK, OPEN, Track, read_track
from sinks.templates import Rendered
from sinks.tracking import Tracking
from tests.sinks.test_mime import COMMAND

SECRET = b"s" * 32
TRACKING = Tracking("https://t.shop.example", SECRET)
LEAVE = "https://shop.example/u/token"
_TOKEN = re.compile(r"https://t\.shop\.example/([co])/([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)")


def tracked(page: str | None = None, text: str = "text") -> Rendered:
    return TRACKING.tracked(Rendered(("subject", text, page)), COMMAND, 1_700, LEAVE)


def link(to: str, kind: str = CLICK) -> Track:
    found = _TOKEN.search(html.unescape(to))
    assert found is not None, to
    return read_track([SECRET], found[2], kind)


@pytest.mark.parametrize(
    ("tag", "url"),
    [
        ('<a href="https://shop.example/?a=1&amp;b=2#top">', "https://shop.example/?a=1&b=2#top"),
        ("<A class=x HREF='http://shop.example/x'  target=_blank>", "http://shop.example/x"),
        ('<a href="https://shop.example/a b">', "https://shop.example/a%20b"),
        ("<a\nhref=https://shop.example/x>", "https://shop.example/x"),
        ('<area alt="a > b" href=" https://shop.example/x ">', "https://shop.example/x"),
        ("<a title='href=\"https://no.example\"' href=\"https://shop.example/it's\">", "https://shop.example/it's"),
        ('<a data-href="https://no.example" href="https://shop.example/x">', "https://shop.example/x"),
        ('<a href="https://shop.example/чай?q=я">', "https://shop.example/%D1%87%D0%B0%D0%B9?q=%D1%8F"),
    ],
)  # fmt: skip
def test_a_link_of_html_leads_where_it_led(tag: str, url: str) -> None:
    page = tracked(f"<p>x</p>{tag}go</a>").html or ""
    track = link(page)
    assert (track.url, track.message.command_id, track.made_ms) == (url, COMMAND.command_id, 1_700)
    before, _, after = _TOKEN.sub("", page, count=1).partition('""')
    assert before.lower().endswith("href=") and after.partition(">")[2].startswith("go</a><img ")


@pytest.mark.parametrize(
    "tag",
    [
        '<a href="mailto:shop@shop.example">', '<a href="tel:+49151">', '<a href="#top">', '<a href="">', "<a>",
        '<a href="javascript:alert(1)">', '<a href="//shop.example/x">', '<a href="https://магазин.example/">',
        f'<a href="{LEAVE}">', f'<a href="{LEAVE}/choices">', '<img src="https://shop.example/x.png">', "<abbr href='https://shop.example'>",
        f'<a href="https://shop.example/{"x" * 2_000}">',
        '<a href="https://shop.example/\n\tx">', '<a href="https://[">',
    ],
)  # fmt: skip
def test_what_is_no_link_of_the_web_stays_as_it_is(tag: str) -> None:
    assert (tracked(f"{tag}go").html or "").startswith(f"{tag}go<img ")


@pytest.mark.parametrize(
    ("text", "url", "rest"),
    [
        ("See https://shop.example/x.", "https://shop.example/x", "."),
        ("(https://shop.example/x)", "https://shop.example/x", ")"),
        ("https://shop.example/x_(1)!", "https://shop.example/x_(1)", "!"),
        ("<https://shop.example/x>", "https://shop.example/x", ">"),
        ("https://shop.example/?a=1&b=2\nnext", "https://shop.example/?a=1&b=2", "\nnext"),
    ],
)
def test_a_link_of_text_leads_where_it_led(text: str, url: str, rest: str) -> None:
    found = tracked(text=text).text
    assert link(found).url == url and _TOKEN.sub("", found).endswith(rest)
    assert tracked(text=f"Leave: {LEAVE}\n").text == f"Leave: {LEAVE}\n"


def test_a_link_has_one_number_wherever_it_stands() -> None:
    page = '<a href="https://a.example/1">1</a><a href="https://a.example/2">2</a><a href="https://a.example/1">1</a>'
    found = tracked(page, "https://a.example/2 https://a.example/3")
    ids = [read_track([SECRET], one[2], CLICK).link_id for one in _TOKEN.finditer(found.html or "") if one[1] == "c"]
    assert ids == ["1", "2", "1"]
    assert [read_track([SECRET], one[2], CLICK).link_id for one in _TOKEN.finditer(found.text)] == ["2", "3"]


def test_the_pixel_stands_at_the_end_of_the_body() -> None:
    page = tracked("<html><body>x</BODY></html>").html or ""
    assert page.startswith("<html><body>x<img ") and page.endswith(' width="1" height="1" alt=""></BODY></html>')
    assert link(page, OPEN).kind == OPEN
    assert tracked().html is None and "<img" not in tracked().text


def test_transactional_mail_is_not_tracked() -> None:
    rendered = Rendered(
        ("subject", "https://shop.example/reset/secret", '<a href="https://shop.example/reset/s">x</a>')
    )
    transactional = msgspec.structs.replace(COMMAND, category="transactional")
    assert TRACKING.tracked(rendered, transactional, 1, LEAVE) == rendered


def test_links_hold_no_address() -> None:
    page = tracked('<a href="https://shop.example/">x</a>').html or ""
    assert COMMAND.address not in str(link(page))
    assert urlsplit(html.unescape(page.split('"')[1])).query == ""


@pytest.mark.parametrize("page", ['<a "' * 20_000, "<a href='" * 20_000, "<a " + "x=" * 40_000, "<a x=\"'>" * 20_000])
def test_text_made_to_be_slow_is_not(page: str) -> None:
    began = time.process_time()
    tracked(page, page)
    assert time.process_time() - began < 5  # quadratic, it would be minutes
