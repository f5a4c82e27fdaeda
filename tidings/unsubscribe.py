"""What the unsubscribe address answers (RFC 8058), apart from any web framework.

- GET: a page with one button. It changes nothing: mail scanners follow every link.
- POST: takes consent back, at once and without login; the body is not needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.events import Event
from schemas.tokens import TokenError
from schemas.unsubscribe import revocation, verify

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="robots" content="noindex"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:32em;margin:4em auto;padding:0 1em}}
button{{font:inherit;padding:.6em 1.2em}}</style>
</head><body><h1>{title}</h1>{body}</body></html>
"""
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the address of the page is a key
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    ),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer with `HEADERS`, and the event that must be on `events` (key: its member_id) before it is given."""

    status: int
    body: str
    event: Event | None = None


def answer(method: str, token: str, secrets: Sequence[bytes], now_ms: int) -> Answer:
    """Answer one request for `<base url>/<token>`; `now_ms`: wall clock."""
    try:
        leaving = verify(secrets, token)
    except TokenError:
        text = "<p>This link is not complete. Please use the link in your message again.</p>"
        return Answer(404, PAGE.format(title="Not found", body=text))
    if method == "POST":
        text = "<p>You will get no more of these messages.</p>"
        return Answer(200, PAGE.format(title="Unsubscribed", body=text), revocation(leaving, now_ms))
    if method in ("GET", "HEAD"):
        form = '<p>Do you want no more of these messages?</p><form method="post"><button>Unsubscribe</button></form>'
        form += f'<p><a href="{token}/choices">More choices</a></p>'  # verified: nothing in it needs to be escaped
        return Answer(200, PAGE.format(title="Unsubscribe", body=form))
    return Answer(405, PAGE.format(title="Not allowed", body=""))


def not_written() -> Answer:
    """Answer a POST whose event could not be written: it has not happened, and the mail program may ask again."""
    return Answer(503, PAGE.format(title="Not yet", body="<p>Please try again in a moment.</p>"))


def too_large() -> Answer:
    """Answer a request with a body that no mail program sends."""
    return Answer(413, PAGE.format(title="Too large", body=""))
