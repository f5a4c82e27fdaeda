"""Links of a mail are led through our redirect, and a pixel tells that it was opened: pure.

Rewritten are `href` of `<a>` and `<area>` in HTML and bare URLs in text; not the unsubscribe link, and nothing but http
and https. Text around a link stays byte for byte as the template wrote it.
"""

import html
import re
from collections.abc import Callable
from dataclasses import dataclass

from schemas.commands import SendMessage
from schemas.references import reference_of
from schemas.tracking import CLICK, FORMAT, OPEN, Track, sign_track, web_url
from sinks.templates import Rendered

TRACKED = "marketing"  # links of transactional mail may be secrets (reset a password), and must not go to analytics
# Possessive and bounded, so that no text makes them slow; a tag beyond the bounds stays as it is.
_TAG = re.compile(r"""<(?:a|area)(?=[\s/])(?:"[^"]{0,3000}+"|'[^']{0,3000}+'|[^"'>]{1,500}+){0,100}+>""", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"""([^\s"'>/=]++)\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]++)""")
_BARE = re.compile(r"https?://[^\s<>\"]+", re.IGNORECASE)
_AFTER = ".,;:!?'"  # what follows a URL in a sentence
_PAIRS = {")": "(", "]": "[", "}": "{"}


@dataclass(frozen=True, slots=True)
class Tracking:
    """Where links lead: `<base_url>/c/<token>`; the pixel: `<base_url>/o/<token>`."""

    base_url: str
    secret: bytes

    def tracked(self, rendered: Rendered, command: SendMessage, at_ms: int, direct: str) -> Rendered:
        """Rewrite a message; `at_ms`: now; `direct`: begins URLs that stay: the unsubscribe link."""
        if command.category != TRACKED:
            return rendered
        message = reference_of(command)
        ids: dict[str, str] = {}

        def lead(link: str) -> str | None:
            url = web_url(link)
            if url is None or link.strip().startswith(direct):
                return None
            link_id = ids.setdefault(url, str(len(ids) + 1))
            track = Track(FORMAT, CLICK, message, at_ms, link_id, url)
            return f"{self.base_url}/c/{sign_track(self.secret, track)}"

        page = rendered.html
        if page is not None:  # first: its links give the numbers
            pixel = f"{self.base_url}/o/{sign_track(self.secret, Track(FORMAT, OPEN, message, at_ms))}"
            page = _with_pixel(_html(page, lead), pixel)
        return Rendered((rendered.subject, _plain(rendered.text, lead), page))


def _html(page: str, lead: Callable[[str], str | None]) -> str:
    def tag(found: re.Match[str]) -> str:
        text = found[0]
        for attribute in _ATTRIBUTE.finditer(text):
            if attribute[1].lower() == "href":  # the first one counts, as in browsers
                value = attribute[2][1:-1] if attribute[2][0] in "\"'" else attribute[2]
                to = lead(html.unescape(value))
                if to is None:
                    break
                return f'{text[: attribute.start(2)]}"{html.escape(to)}"{text[attribute.end(2) :]}'
        return text

    return _TAG.sub(tag, page)


def _plain(text: str, lead: Callable[[str], str | None]) -> str:
    def link(found: re.Match[str]) -> str:
        url = found[0]
        while url and (url[-1] in _AFTER or (url[-1] in _PAIRS and url.count(_PAIRS[url[-1]]) < url.count(url[-1]))):
            url = url[:-1]
        return (lead(url) or url) + found[0][len(url) :]

    return _BARE.sub(link, text)


def _with_pixel(page: str, url: str) -> str:
    image = f'<img src="{html.escape(url)}" width="1" height="1" alt="">'
    at = page.lower().rfind("</body>")
    at = len(page) if at < 0 or len(page.lower()) != len(page) else at
    return page[:at] + image + page[at:]
