"""MJML with Jinja in it becomes HTML with Jinja in it, once, when the file is read: pure.

mrml does the MJML; what is Jinja's stands as a word of its own in between. So a value never goes through the compiler,
and a message costs no more than one of HTML. mrml is lenient (what it does not know it leaves out) and may end the
process on a file that is nested without end: so tags are looked at here first.
"""

import re
from collections.abc import Iterator

import mrml
from jinja2 import TemplateSyntaxError

from schemas.ids import h128

ENDING = ".mjml.j2"
DEPTH_MAX = 100  # of tags in one another; mails have 5 to 20
PAGE_MAX = 1_048_576  # characters of what comes out, before any value is in it
COMPONENTS = frozenset(
    {
        "mj-accordion", "mj-accordion-element", "mj-accordion-text", "mj-accordion-title", "mj-all", "mj-attributes",
        "mj-body", "mj-breakpoint", "mj-button", "mj-carousel", "mj-carousel-image", "mj-class", "mj-column",
        "mj-divider", "mj-font", "mj-group", "mj-head", "mj-hero", "mj-image", "mj-navbar", "mj-navbar-link",
        "mj-preview", "mj-raw", "mj-section", "mj-social", "mj-social-element", "mj-spacer", "mj-style", "mj-table",
        "mj-text", "mj-title", "mj-wrapper",
    }
)  # fmt: skip
_BEGIN = re.compile(r"\{[{%#]")
_END = {"{{": "}}", "{%": "%}", "{#": "#}"}
_OPENING = re.compile(r"\{(?=[{%#])")
_TAG = re.compile(  # the last: one that has no end, which is looked for once
    r"<!--.*?(?:-->|\Z)|<(/?)([A-Za-z][A-Za-z0-9-]*)((?:\"[^\"]*\"|'[^']*'|[^\"'>])*+)>|<[A-Za-z/]", re.DOTALL
)
_VOID = frozenset({"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"})
_PLACE = re.compile(r" at position (\d+):\d+")


def page_of(source: str, name: str) -> str:
    """Compile a file.

    Raises:
        TemplateSyntaxError: with the line; the file's name is `name`.
    """
    pieces: list[tuple[str, int]] = []
    mark = f"jinja{h128(source)[:10]}"
    plain, at = [], 0
    for start, end in _jinja(source):
        # Lines stay where they are, so that what is wrong further down is told with its line.
        plain += [source[at:start], f"{mark}x{len(pieces)}x", "\n" * source.count("\n", start, end)]
        pieces.append((source[start:end], source.count("\n", 0, start) + 1))
        at = end
    text = "".join((*plain, source[at:]))
    _check_tags(text, name)
    try:
        page: str = mrml.to_html(text).content
    except OSError as error:  # mrml's own kind, for whatever is wrong
        raise TemplateSyntaxError(f"not MJML: {_PLACE.sub('', str(error))}", _line(text, str(error)), name) from None
    if len(page) > PAGE_MAX:
        raise TemplateSyntaxError(f"the page has more than {PAGE_MAX} characters", 1, name)
    kept = set(re.findall(rf"{mark}x(\d+)x", page))
    for number, (piece, line) in enumerate(pieces):
        if str(number) not in kept and not piece.startswith("{#"):
            shown = piece.splitlines()[0][:40]
            raise TemplateSyntaxError(f"MJML drops '{shown}' here: no such attribute, or no text", line, name)
    page = _OPENING.sub("{ ", page)  # of CSS: two that meet would be Jinja's
    return re.sub(rf"{mark}x(\d+)x", lambda found: pieces[int(found[1])][0], page)


def _jinja(source: str) -> Iterator[tuple[int, int]]:
    """Find what is Jinja's. Each kind's end is looked for once in vain, for authors may begin it ever so often."""
    at, without = 0, set[str]()
    while (begin := _BEGIN.search(source, at)) is not None:
        end = -1 if begin[0] in without else source.find(_END[begin[0]], begin.end())
        if end < 0:
            without.add(begin[0])
            at = begin.start() + 1
        else:
            at = end + 2
            yield begin.start(), at


def _check_tags(text: str, name: str) -> None:
    """Refuse components that there are none of, tags that do not meet, and what is nested too deeply."""
    stack: list[tuple[str, int]] = []
    for found in _TAG.finditer(text):
        tag = (found[2] or "").lower()
        line = text.count("\n", 0, found.start()) + 1
        if len(found[0]) == 2:
            raise TemplateSyntaxError("a tag that has no end", line, name)
        if not tag or (tag in _VOID and not tag.startswith("mj")):
            continue
        if tag == "mj-include":
            raise TemplateSyntaxError("'mj-include' is not allowed; use {% include %} of a .html.j2 file", line, name)
        if tag.startswith("mj-") and tag not in COMPONENTS:
            raise TemplateSyntaxError(f"MJML has no '{tag}'", line, name)
        if found[1]:
            if not stack or stack[-1][0] != tag:
                opened = f"; <{stack[-1][0]}> of line {stack[-1][1]} is open" if stack else ""
                raise TemplateSyntaxError(f"</{tag}> closes nothing{opened}", line, name)
            stack.pop()
        elif not found[3].rstrip().endswith("/"):
            stack.append((tag, line))
            if len(stack) > DEPTH_MAX:
                raise TemplateSyntaxError(f"more than {DEPTH_MAX} tags in one another", line, name)
    if stack:
        raise TemplateSyntaxError(f"<{stack[-1][0]}> is not closed", stack[-1][1], name)


def _line(text: str, message: str) -> int:
    found = _PLACE.search(message)
    raw = text.encode()
    return raw.count(b"\n", 0, len(raw) - len(raw[int(found[1]) :].lstrip())) + 1 if found else 1
