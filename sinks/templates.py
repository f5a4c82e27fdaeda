"""Message templates: a directory of Jinja2 files, read when they change, checked before use, rendered in a sandbox.

An e-mail is three files: `<name>.subject.j2`, `<name>.txt.j2` and, if it has HTML, `<name>.html.j2` or, in MJML,
`<name>.mjml.j2`. The other channels have `<name>.txt.j2`, and what each knows to use of `<name>.subject.j2` (a title),
`<name>.link.j2` (a URL, and on a second line the words of its button) and `<name>.image.j2` (a URL). They see

    data              values named under `send.data` in the campaign
    member            the member's profile
    campaign          the campaign's id
    message           command_id, instance_id, step, channel, category, template, version, decided_at_ms, expires_at_ms
    unsubscribe_url   this member's own link
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, Environment, TemplateNotFound, TemplateSyntaxError, nodes

from schemas.findings import ERROR, WARNING, Finding
from sinks import mjml
from sinks.inline import inlined
from sinks.mjml import page_of
from sinks.sandbox import MAX_SOURCE, RenderError, Sandbox, refusals

MAX_URL = 2_000  # what all browsers take
MAX_SUBJECT = 200  # characters; a longer one is cut with "…" (clients show 40 to 80)
HTML_PARTS = ("html", "mjml")  # of an e-mail: one of them
MESSAGE_NAMES = frozenset(
    {
        "command_id", "instance_id", "step", "channel", "category", "template", "version", "decided_at_ms",
        "expires_at_ms",
    }
)  # fmt: skip
TOP_NAMES = frozenset({"data", "member", "campaign", "message", "unsubscribe_url", "loop"})
_MESSAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:/[A-Za-z0-9][A-Za-z0-9_-]*){0,4}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(?:/[A-Za-z0-9][A-Za-z0-9_.-]*){0,4}\.j2")
_LINK = re.compile(r"(?!(?:javascript|vbscript|data|file):)[a-z][a-z0-9+.-]{1,30}:[\x21-\x7e]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")

Source = tuple[str, str, Callable[[], bool]]


class Rendered(tuple[str, str, str | None]):
    """Subject (one line), text, HTML or None."""

    __slots__ = ()

    @property
    def subject(self) -> str:
        """One line without control characters."""
        return self[0]

    @property
    def text(self) -> str:
        """The plain text."""
        return self[1]

    @property
    def html(self) -> str | None:
        """The HTML, or None for a message of text alone."""
        return self[2]


@dataclass(frozen=True, slots=True)
class Content:
    """The rendered parts of a message that is no e-mail; what there is no file for is empty."""

    text: str = ""
    title: str = ""
    link: str = ""
    button: str = ""
    image: str = ""


class TemplateFiles(BaseLoader):
    """Reads templates from one directory, and from nowhere else: names and links that lead out are not found.

    An edit takes effect with the next message; delivery looks once in `recheck_s`. A file that is being written (empty,
    or not valid) is not used: the last good one stays until the new one is whole. Write edits to another name and
    rename: half a file can look valid.
    """

    def __init__(self, root: Path, recheck_s: float = 0.0) -> None:
        self.root = root
        self._recheck_s = recheck_s
        self._seen: dict[str, tuple[float, tuple[int, int] | None]] = {}  # when, and what `_stamp` then found
        self._good: dict[str, str] = {}
        self._inner: dict[str, str] = {}  # paths of files that were found inside; looked up for each message

    def path(self, name: str) -> Path:
        """Return the place of a file for messages to people."""
        return self.root / name

    def read(self, name: str) -> str:
        """Read one file as it is on disk.

        Raises:
            TemplateNotFound: no such file inside the directory.
            TemplateSyntaxError: larger than MAX_SOURCE, or not UTF-8.
        """
        path = self._inside(name)
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_SOURCE + 1)
        except OSError:
            raise TemplateNotFound(name) from None
        if len(raw) > MAX_SOURCE:
            raise TemplateSyntaxError(f"the file is larger than {MAX_SOURCE} bytes", 1, name)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise TemplateSyntaxError("the file is not UTF-8", 1, name) from None

    def page(self, name: str) -> str:
        """Read one file as Jinja gets it: MJML is HTML by then.

        Raises:
            TemplateNotFound, TemplateSyntaxError: as `read`; or it is no MJML.
        """
        source = self.read(name)
        return page_of(source, name) if name.endswith(mjml.ENDING) and source.strip() else source

    def exists(self, name: str) -> bool:
        """Tell whether there is such a file inside the directory."""
        if name not in self._inner:
            if self._is_fresh(name) and self._seen[name][1] is None:
                return False
            try:
                found = self._inside(name).is_file()
            except TemplateNotFound:
                return False
            if not found:
                self._seen[name] = time.monotonic(), None
                return False
            self._inner[name] = str(self.path(name))
        return self._stamp(name) is not None  # a link that leads out since then is refused by `read`

    def get_source(self, environment: Environment, template: str) -> Source:
        """Give a file's text to Jinja. See `jinja2.BaseLoader`."""
        stamp = self._stamp(template)
        try:
            source = self.page(template)
            if not source.strip():
                raise TemplateSyntaxError("the file is empty", 1, template)
            environment.compile(source, template)
        except (TemplateSyntaxError, TemplateNotFound):
            if template not in self._good:
                raise
            source = self._good[template]
        self._good[template], self._inner[template] = source, str(self.path(template))
        return source, str(self.path(template)), lambda: self._stamp(template) == stamp

    def _inside(self, name: str) -> Path:
        if not _FILE_NAME.fullmatch(name):
            raise TemplateNotFound(name)
        root = self.root.resolve()
        path = (root / name).resolve()  # follows links: one that leads out is refused
        if not path.is_relative_to(root):
            raise TemplateNotFound(name)
        return path

    def _is_fresh(self, name: str) -> bool:
        return name in self._seen and time.monotonic() - self._seen[name][0] < self._recheck_s

    def _stamp(self, name: str) -> tuple[int, int] | None:
        if self._is_fresh(name):
            return self._seen[name][1]
        try:
            stat = os.stat(self._inner.get(name) or self.path(name))
        except OSError:
            found = None
        else:
            found = stat.st_mtime_ns, stat.st_size
        self._seen[name] = time.monotonic(), found
        return found


class Templates:
    """All messages of one directory, ready to render. For one thread. `recheck_s`: see `TemplateFiles`."""

    def __init__(self, root: Path, recheck_s: float = 0.0) -> None:
        self.files = TemplateFiles(root, recheck_s)
        self._sandbox = Sandbox(self.files)

    def render(self, name: str, values: Mapping[str, Any]) -> Rendered:
        """Render a message; `values` are the names listed at the head of this module.

        Raises:
            RenderError: for any fault of the template or of its values; nothing else, whatever the template holds.
        """
        _check_name(name)
        subject = self._sandbox.render_bounded(f"{name}.subject.j2", values)
        text = self._sandbox.render_bounded(f"{name}.txt.j2", values)
        html = self._html(name, values)
        line = one_line(subject)
        if not line:
            raise RenderError(f"{name}.subject.j2: the subject is empty")
        return Rendered((line, text, html))

    def _html(self, name: str, values: Mapping[str, Any]) -> str | None:
        file = f"{name}.html.j2"
        if self.files.exists(file):
            return inlined(self._sandbox.render_bounded(file, values), file)
        file = f"{name}{mjml.ENDING}"
        return self._sandbox.render_bounded(file, values) if self.files.exists(file) else None

    def content(
        self, name: str, values: Mapping[str, Any], required: Iterable[str], optional: Iterable[str] = ()
    ) -> Content:
        """Render the parts that a channel wants; see the head of this module.

        Raises:
            RenderError: as for `render`; also for a required part that has no file or comes out empty.
        """
        _check_name(name)
        parts = {part: self._sandbox.render_bounded(f"{name}.{part}.j2", values).strip() for part in required}
        for part, text in parts.items():
            if not text:
                raise RenderError(f"{name}.{part}.j2: it comes out empty")
        for part in optional:
            if self.files.exists(f"{name}.{part}.j2"):
                parts[part] = self._sandbox.render_bounded(f"{name}.{part}.j2", values).strip()
        link, _, button = parts.get("link", "").partition("\n")
        return Content(
            parts.get("txt", ""),
            one_line(parts.get("subject", "")),
            _url(f"{name}.link.j2", link),
            one_line(button),
            _url(f"{name}.image.j2", parts.get("image", "")),
        )


def _check_name(name: str) -> None:
    if not _MESSAGE_NAME.fullmatch(name) or len(name) > 100:
        raise RenderError("a template's name has letters, digits, '-' and '_', and '/' for folders")


def _url(file: str, text: str) -> str:
    text = text.strip()
    if text and not (len(text) <= MAX_URL and _LINK.fullmatch(text)):
        raise RenderError(f"{file}: not a URL of at most {MAX_URL} printable ASCII characters")
    return text


def one_line(text: str) -> str:
    """Make one line without control characters, cut at MAX_SUBJECT: what a header can hold."""
    line = " ".join(_CONTROL.sub(" ", text).split())
    return line if len(line) <= MAX_SUBJECT else line[: MAX_SUBJECT - 1].rstrip() + "…"


def check_template(
    name: str,
    loader: TemplateFiles,
    data_names: frozenset[str],
    required: Iterable[str] = ("subject", "txt"),
    optional: Iterable[str] = HTML_PARTS,
) -> tuple[Finding, ...]:
    """Find every fault of a message's files before one is sent.

    `data_names`: the names under `send.data`; `required` and `optional`: the parts that its channel uses.

    A `member.x` that is neither given a default nor inside `{% if member.x is defined %}` is a warning: profiles
    differ, and for a member without it the message fails as `template_error`.
    """
    if not _MESSAGE_NAME.fullmatch(name) or len(name) > 100:
        message = f"a template's name has letters, digits, '-' and '_', and '/' for folders (got '{name}')"
        return (Finding("template-name", str(loader.root), 0, 0, message, "rename it"),)
    found: list[Finding] = []
    needed, wanted = tuple(required), tuple(optional)
    for part in (*needed, *wanted):
        file = f"{name}.{part}.j2"
        if loader.exists(file):
            found.extend(_Check(loader, data_names).file(file))
        elif part in needed:
            remedy = f"write it; a message of this channel needs {' and '.join(needed)}"
            found.append(Finding("template-missing", str(loader.path(file)), 0, 0, "no such file", remedy))
    if all(part in wanted and loader.exists(f"{name}.{part}.j2") for part in HTML_PARTS):
        message, place = "there is a page in HTML, too", str(loader.path(f"{name}{mjml.ENDING}"))
        found.append(Finding("template-double", place, 0, 0, message, f"remove it or {name}.html.j2: that one is sent"))
    return tuple(dict.fromkeys(found))


class _Check:
    """The check of one part with all files that it includes or extends."""

    def __init__(self, loader: TemplateFiles, data_names: frozenset[str]) -> None:
        self.loader = loader
        self.data_names = data_names
        self.environment = Sandbox(loader)
        self.found: list[Finding] = []
        self.trees: dict[str, tuple[nodes.Template, list[str]]] = {}

    def file(self, name: str) -> list[Finding]:
        self._parse(name)
        names = [one for tree, _ in self.trees.values() for one in tree.find_all(nodes.Name)]
        stored = frozenset(one.name for one in names if one.ctx in ("store", "param"))
        for file, (tree, lines) in self.trees.items():
            self._visit(file, lines, tree, frozenset(), TOP_NAMES | stored)
        return sorted(self.found, key=lambda one: (one.path, one.line, one.column))

    def _parse(self, name: str) -> None:
        try:
            source = self.loader.read(name)
            tree = self.environment.parse(source, name)
        except TemplateSyntaxError as error:
            self._add("template-syntax", name, error.lineno, 1, error.message or "not a template", "mend the syntax")
            return
        except RecursionError:
            self._add("template-syntax", name, 1, 1, "the template is nested too deeply", "simplify it")
            return
        lines = source.splitlines()
        self.trees[name] = tree, lines
        if not source.strip():
            self._add("template-empty", name, 1, 1, "the file is empty", "write the message's text")
        refused = refusals(tree)
        for line, message in refused:
            self._add("template-forbidden", name, line, 1, message, "see docs/campaigns.md for what templates may use")
        references: list[nodes.Include | nodes.Extends] = [*tree.find_all(nodes.Include), *tree.find_all(nodes.Extends)]
        for reference in references:
            target = reference.template.value if isinstance(reference.template, nodes.Const) else None
            if isinstance(target, str) and target not in self.trees:
                if self.loader.exists(target):
                    self._parse(target)
                elif not (isinstance(reference, nodes.Include) and reference.ignore_missing):
                    remedy = "name a .j2 file inside the templates' directory"
                    self._add("template-missing", name, reference.lineno, 1, f"no such file (got '{target}')", remedy)
        if not refused:
            self._compile(name)

    def _compile(self, name: str) -> None:
        try:
            self.environment.compile(self.loader.page(name), name, str(self.loader.path(name)))
        except TemplateSyntaxError as error:
            self._add("template-syntax", name, error.lineno, 1, error.message or "not a template", "mend the syntax")

    def _visit(
        self, file: str, lines: list[str], node: nodes.Node, safe: frozenset[str], known: frozenset[str]
    ) -> None:
        path = _path(node)
        if path is not None:
            self._use(file, lines, node, path, safe, known)
            return
        if isinstance(node, nodes.Filter) and node.name in ("default", "d") and node.node is not None:
            safe_here = safe | {p for p in (_path(node.node),) if p}
            self._visit(file, lines, node.node, safe_here, known)
            for arg in [*node.args, *node.kwargs]:
                self._visit(file, lines, arg, safe, known)
            return
        if isinstance(node, nodes.Test) and node.name in ("defined", "undefined"):
            return
        if isinstance(node, nodes.If | nodes.CondExpr):
            self._branch(file, lines, node, safe, known)
            return
        if isinstance(node, nodes.And):
            self._visit(file, lines, node.left, safe, known)
            self._visit(file, lines, node.right, safe | _defined(node.left), known)
            return
        for child in node.iter_child_nodes():
            self._visit(file, lines, child, safe, known)

    def _branch(
        self, file: str, lines: list[str], node: nodes.If | nodes.CondExpr, safe: frozenset[str], known: frozenset[str]
    ) -> None:
        self._visit(file, lines, node.test, safe, known)
        inside = safe | _defined(node.test)
        if isinstance(node, nodes.CondExpr):
            self._visit(file, lines, node.expr1, inside, known)
            if node.expr2 is not None:
                self._visit(file, lines, node.expr2, safe, known)
            return
        for child in node.body:
            self._visit(file, lines, child, inside, known)
        for child in [*node.elif_, *node.else_]:
            self._visit(file, lines, child, safe, known)

    def _use(
        self, file: str, lines: list[str], node: nodes.Node, path: str, safe: frozenset[str], known: frozenset[str]
    ) -> None:
        top, _, rest = path.partition(".")
        first = rest.partition(".")[0]
        line = node.lineno or 1
        column = _column(lines, line, path)
        if isinstance(node, nodes.Name) and node.ctx != "load":
            return
        if top not in known:
            remedy = "templates see data, member, campaign, message and unsubscribe_url"
            self._add("unknown-name", file, line, column, f"no such name (got '{top}')", remedy)
        elif top == "data" and first and first not in self.data_names and path not in safe:
            names = ", ".join(sorted(self.data_names)) or "none"
            message = f"send.data gives no '{first}'"
            self._add("unknown-data-name", file, line, column, message, f"add it to the campaign; it gives: {names}")
        elif top == "message" and first and first not in MESSAGE_NAMES:
            remedy = f"message has: {', '.join(sorted(MESSAGE_NAMES))}"
            self._add("unknown-name", file, line, column, f"message has no '{first}'", remedy)
        elif top == "member" and first and path not in safe:
            message = f"not every member has '{path}'"
            remedy = f"write {{{{ {path}|default('…') }}}}, or the message fails for those without"
            self._add("member-without-default", file, line, column, message, remedy, WARNING)

    def _add(
        self, code: str, file: str, line: int, column: int, message: str, hint: str, severity: str = ERROR
    ) -> None:
        self.found.append(Finding(code, str(self.loader.path(file)), line, column, message, hint, severity))


def _path(node: nodes.Node) -> str | None:
    """Spell a chain of names, `data.product.title` or `data["product"].title`, with dots; None if it is none."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.Getattr):
        before = _path(node.node)
        return f"{before}.{node.attr}" if before else None
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        before = _path(node.node)
        return f"{before}.{node.arg.value}" if before else None
    return None


def _defined(test: nodes.Node) -> frozenset[str]:
    """Collect the paths that are certainly there when `test` holds."""
    return frozenset(_defined_paths(test))


def _defined_paths(test: nodes.Node) -> Iterator[str]:
    if isinstance(test, nodes.And):
        yield from _defined_paths(test.left)
        yield from _defined_paths(test.right)
    elif isinstance(test, nodes.Test) and test.name == "defined":
        path = _path(test.node)
        if path:
            yield path


def _column(lines: list[str], line: int, path: str) -> int:
    """Find where on the line the name stands, as Jinja keeps lines only; 1 if it cannot be told."""
    text = lines[line - 1] if 0 < line <= len(lines) else ""
    last = path.rpartition(".")[2]
    for spelling in (path, f"'{last}'", f'"{last}"', path.partition(".")[0]):
        if spelling in text:
            return text.index(spelling) + 1
    return 1
