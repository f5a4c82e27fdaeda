"""Rules of `<style>` move into `style` attributes of the elements, for mail programs that know no `<style>`.

It happens to the rendered page: selectors then see what loops and branches made of it, and a layout's rules reach the
blocks of those who extend it. css-inline (Rust) needs some 0.1 ms for a usual page; no `<style>`, no cost.
What cannot be inlined (`@media`, `:hover`) stays in `<style>`; a page with nothing else there stays as it is.

A page is made by authors we do not trust, and what html5ever makes of tags that do not meet can be far larger than the
page, or end the process: so they are counted first.
"""

import re
from collections import Counter

from css_inline import CSSInliner, InlineError

from sinks.sandbox import RenderError

OPEN_MAX = 400  # tags open at the same time; mails have 20 to 60
WORK_MAX = 400_000  # tags, times those open at the same time: what a parser may have to make again and again
MATCH_MAX = 20_000_000  # tags times characters of rules
_TAG = re.compile(r"<(/?)([A-Za-z][^\s/>]*)")
_VOID = frozenset({"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"})
_STYLE = re.compile(r"<style[\s>][^<]*", re.IGNORECASE)
# A `<style>` with nothing but `@media`, as in pages whose author wrote the rest into the elements: nothing to inline.
_MEDIA_ALONE = re.compile(r"<style>(?:\s*+@media[^{}<]*+\{(?:[^{}<]*+\{[^{}<]*+\})*+\s*+\})*+\s*+</style>")
_inliner = CSSInliner(keep_style_tags=True, remove_inlined_selectors=True, load_remote_stylesheets=False)


def inlined(page: str, name: str) -> str:
    """Inline a page's rules; one without any stays as it is.

    Raises:
        RenderError: more tags and rules than can be worked on; `name` is the file's.
    """
    if "<style" not in page and "<STYLE" not in page:
        return page
    if len(_MEDIA_ALONE.findall(page)) == len(_STYLE.findall(page)):
        return page
    few = page.count("<")
    tags, most = (few, few) if few <= OPEN_MAX else _tags(page)  # to count properly takes as long as to inline
    rules = sum(len(found) for found in _STYLE.findall(page))
    if most > OPEN_MAX or tags * most > WORK_MAX or tags * rules > MATCH_MAX:
        raise RenderError(f"{name}: too many tags and rules to inline (got {tags} tags, {most} of them open at once)")
    try:
        return _inliner.inline(page)
    except InlineError:
        raise RenderError(f"{name}: the rules of <style> cannot be inlined") from None


def _tags(page: str) -> tuple[int, int]:
    """Count tags, and how many are open at the most: by name, for a tag that closes another one closes none."""
    opened: Counter[str] = Counter()
    count = depth = most = 0
    for close, tag in _TAG.findall(page):
        count += 1
        tag = tag.lower()
        if not close:
            if tag not in _VOID:
                opened[tag] += 1
                depth += 1
                most = max(most, depth)
        elif opened[tag]:
            opened[tag] -= 1
            depth -= 1
    return count, most
