"""Jinja2 for authors we do not trust: nothing in reach but the message's own values, and a bound on all work.

Jinja's own sandbox hides Python's internals but lets a template burn CPU and memory. Ours is a list of what is allowed:

- syntax: output, `if`, `for`, `set`, `with`, `block`, `extends` and `include` of a name written out; no macros, no
  imports, no calls except `loop.cycle(…)`;
- names: dictionary keys only. No attribute of a Python object is ever looked up, so no way leads to a class or method;
- filters: those of `FILTERS`, each bounded;
- work: one budget of steps per rendering for loops, includes, filters and joined text, plus bounds on text and output.

A value that is missing or null is an error where it is used (`default` and `is defined` guard it): mail that says
"Dear None" cannot be called back.
"""

import functools
import operator
import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, cast

from jinja2 import BaseLoader, StrictUndefined, Template, Undefined, nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.nodes import EvalContext
from jinja2.runtime import Context, LoopContext, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_context, pass_eval_context

MAX_SOURCE = 131_072  # bytes of one template file; the usual promotional mail has 20 to 60 KB
MAX_NODES = 5_000  # syntax nodes of one file
MAX_STEPS = 200_000  # about 0.1 s of work at the most
MAX_TEXT = 65_536  # characters of any text made by a filter, `~` or `+`
MAX_OUTPUT = 524_288  # characters of one rendered part; Gmail clips at 102 KB
MAX_NUMBER = 10**15
INCLUDE_STEPS = 200
LOOP_NAMES = frozenset({"index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "cycle"})
AUTHOR_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "e", "escape", "first", "float", "int", "items", "join", "last",
    "length", "list", "lower", "max", "min", "replace", "reverse", "round", "sort", "string", "sum", "title",
    "trim", "truncate", "unique", "upper", "urlencode", "wordcount",
)  # fmt: skip
_ALLOWED: tuple[type[nodes.Node], ...] = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Const,
    nodes.Filter, nodes.Test, nodes.If, nodes.For, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And,
    nodes.Or, nodes.Not, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Neg,
    nodes.Pos, nodes.Concat, nodes.Assign, nodes.With, nodes.Block, nodes.Extends, nodes.Include, nodes.List,
    nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.Slice, nodes.Call, nodes.Scope,
)  # fmt: skip
_DATE_PATTERN = re.compile(r"(?:[^%]|%[aAbBdHIjmMpSuUyY%])*")
_RENDER_ERRORS = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)


class RenderError(Exception):
    """A template that cannot be rendered for this message. The text names no value of the member."""


class Missing(StrictUndefined):
    """A value that is not there: an error in every use but `default` and `is defined`."""


def _weight(value: object) -> int:
    if isinstance(value, str):
        return len(value) // 64
    return len(value) if isinstance(value, list | tuple | dict) else 0


def _number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= MAX_NUMBER


def _bounded_text(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise SecurityError(f"a text of more than {MAX_TEXT} characters")
    return value


def date(value: int | float, pattern: str = "%d.%m.%Y") -> str:
    """Write an instant (ms UTC) as a date; `pattern` in strftime's letters without flags or widths."""
    if len(pattern) > 64 or not _DATE_PATTERN.fullmatch(pattern):
        raise SecurityError("a date pattern that is not allowed")
    return datetime.fromtimestamp(value / 1000, UTC).strftime(pattern)


def money(value: int | float, currency: str = "") -> str:
    """Write an amount with two decimals, thousands and the currency apart by no-break spaces."""
    text = f"{value:,.2f}".replace(",", "\u00a0")
    return f"{text}\u00a0{currency}" if currency else text


def _round(value: float, precision: int = 0) -> float:
    if not 0 <= precision <= 9:
        raise SecurityError("round to other than 0 to 9 decimals")
    return round(float(value), precision)


def _replace(value: str, old: str, new: str) -> str:
    text = str(value)
    if not old or len(text) + text.count(old) * max(0, len(new) - len(old)) > MAX_TEXT:
        raise SecurityError(f"replace of an empty text, or beyond {MAX_TEXT} characters")
    # str of both: Markup.replace would escape, and autoescape does that once at the output
    return text.replace(str(old), str(new))


@pass_eval_context
def _join(eval_ctx: EvalContext, value: Iterable[Any], d: str = "") -> str:
    parts = [part if isinstance(part, str) else str(part) for part in value]
    if sum(map(len, parts)) + len(d) * len(parts) > MAX_TEXT:
        raise SecurityError(f"a text of more than {MAX_TEXT} characters")
    woven: list[Any] = [piece for part in parts for piece in (d, part)][1:]
    return markup_join(woven) if eval_ctx.autoescape else str_join(woven)


@pass_eval_context
def _concat(eval_ctx: EvalContext, value: list[Any]) -> str:
    return _join(eval_ctx, value)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one directory of templates. For one thread: the budget is the environment's."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%"})

    def __init__(self, loader: BaseLoader) -> None:
        super().__init__(
            loader=loader,
            undefined=Missing,
            autoescape=lambda name: bool(name and name.endswith((".html.j2", ".mjml.j2"))),
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            cache_size=1_000,
        )
        self.steps_left = 0
        own: dict[str, Callable[..., Any]] = {
            "date": date,
            "money": money,
            "round": _round,
            "replace": _replace,
            "join": _join,
        }
        chosen = {name: JINJA_FILTERS[name] for name in AUTHOR_FILTERS} | own
        inner = {"_concat": _concat, "_loop": self._loop, "_include": self._include}
        self.filters = {name: self._metered(one) for name, one in chosen.items()} | inner
        self.globals = {}

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        """Give a template its globals: there are none, and to look through two empty maps takes longer than a block."""
        return {} if d is None else d

    def render_bounded(self, name: str, values: Mapping[str, Any]) -> str:
        """Render one file.

        Raises:
            RenderError: a missing value, a forbidden operation, a spent budget, a file that is gone or broken.
        """
        self.steps_left = MAX_STEPS
        try:
            template: Template = self.get_template(name)
            parts: list[str] = []
            length = 0
            for part in template.root_render_func(template.new_context(dict(values))):
                length += len(part)
                if length > MAX_OUTPUT:
                    raise SecurityError(f"more than {MAX_OUTPUT} characters of output")
                parts.append(part)
        except (UndefinedError, SecurityError, TemplateSyntaxError) as error:
            # These texts are Jinja's or ours and hold names, never values.
            raise RenderError(f"{name}: {error.message}") from None
        except _RENDER_ERRORS as error:
            # Python's own texts may quote a value ("could not convert string to float: …"), which may be a member's.
            raise RenderError(f"{name}: {type(error).__name__}") from None
        return "".join(parts)

    def compile(
        self, source: Any, name: Any = None, filename: Any = None, raw: Any = False, defer_init: Any = False
    ) -> Any:
        """Compile after the check of syntax, with the meters put in. See `Environment.compile`."""
        if isinstance(source, str):
            try:
                source = self.parse(source, name, filename)
            except RecursionError:
                raise TemplateSyntaxError("the template is nested too deeply", 1, name, filename) from None
        refused = refusals(source)
        if refused:
            line, message = refused[0]
            raise TemplateSyntaxError(message, line, name, filename)
        _meter(source)
        try:
            return super().compile(source, name, filename, raw, defer_init)
        except (SyntaxError, RecursionError, MemoryError):  # Python's compiler on what Jinja generated
            raise TemplateSyntaxError("the template is nested too deeply", 1, name, filename) from None

    def spend(self, steps: int) -> None:
        """Take steps off the budget of the rendering under way."""
        self.steps_left -= steps
        if self.steps_left < 0:
            raise SecurityError(f"more than {MAX_STEPS} steps of work")

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Look up `obj.attribute`: a key of a dictionary, or one of `loop`'s names; never an attribute of Python."""
        if isinstance(obj, dict):
            value = obj.get(attribute)
            return self._missing(obj, attribute) if value is None else value
        if isinstance(obj, LoopContext) and attribute in LOOP_NAMES:
            return getattr(obj, attribute)
        return self._missing(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Look up `obj[argument]`: a key of a dictionary, or a place or slice of a list or text."""
        if isinstance(obj, dict) and isinstance(argument, str):
            return self.getattr(obj, argument)
        if isinstance(obj, list | tuple | str) and isinstance(argument, int | slice):
            self.spend(1 + _weight(obj))
            try:
                value = obj[argument]
            except IndexError:
                return self._missing(obj, argument)
            return self._missing(obj, argument) if value is None else value
        return self._missing(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse all attributes of Python objects; a second lock behind `getattr`."""
        return isinstance(obj, LoopContext) and attr in LOOP_NAMES

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Calculate with numbers of bounded size; `+` joins texts too."""
        self.spend(1)
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            if len(left) + len(right) > MAX_TEXT:
                raise SecurityError(f"a text of more than {MAX_TEXT} characters")
            self.spend(_weight(left) + _weight(right))
            return left + right
        for value in (left, right):
            if isinstance(value, Undefined):
                str(value)  # raises the error that names what is missing
            if not _number(value):
                raise SecurityError(f"'{operator}' on other than numbers up to {MAX_NUMBER}")
        return _OPERATORS[operator](left, right)

    def _missing(self, obj: Any, name: Any) -> Undefined:
        if isinstance(obj, Undefined):
            return obj
        hint = f"'{name}' is missing or null" if isinstance(name, str) else "an element is missing or null"
        return Missing(hint=hint, name=str(name))

    def _metered(self, one: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(one)  # keeps jinja_pass_arg
        def metered(*args: Any, **kwargs: Any) -> Any:
            steps = 1
            for arg in args:
                steps += _weight(arg)
            self.spend(steps)
            value = _bounded_text(one(*args, **kwargs))
            self.spend(_weight(value))
            return value

        return metered

    # pass_context on both: Jinja folds a filter over constants once, at compile time, unless it takes the context.
    @pass_context
    def _loop(self, context: Context, value: Any, weight: int) -> list[Any]:
        if isinstance(value, Undefined):
            str(value)  # raises the error that names what is missing
        if not isinstance(value, list | tuple | dict | str) and not hasattr(value, "__next__"):
            raise SecurityError("a loop over other than a list")
        found = list(value)
        self.spend(1 + len(found) * weight)
        return found

    @pass_context
    def _include(self, context: Context, name: str) -> str:
        self.spend(INCLUDE_STEPS)
        return name


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}


def refusals(tree: nodes.Template) -> list[tuple[int, str]]:
    """List what a file uses and may not use, as (line, message), in order."""
    found: list[tuple[int, str]] = []
    count = 0
    for node in _walk(tree):
        count += 1
        message = _refusal(node)
        if message:
            found.append((node.lineno or 1, message))
    if count > MAX_NODES:
        found.append((1, f"the template has too many elements (got {count}, at most {MAX_NODES})"))
    return sorted(found)


def _refusal(node: nodes.Node) -> str | None:
    if not isinstance(node, _ALLOWED):
        return f"'{type(node).__name__.lower()}' is not allowed in a template"
    if isinstance(node, nodes.Call) and not _is_cycle(node):
        return "calls are not allowed in a template"
    if isinstance(node, nodes.Filter) and (node.name not in AUTHOR_FILTERS and node.name not in ("date", "money")):
        return f"no such filter '{node.name}'"
    if isinstance(node, nodes.Filter) and (node.dyn_args or node.dyn_kwargs):
        return "'*' and '**' arguments are not allowed in a template"
    if isinstance(node, nodes.Name) and (node.name.startswith("_") or node.name in ("self", "super", "caller")):
        return f"'{node.name}' is not allowed in a template"
    if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
        return f"'{node.attr}' is not allowed in a template"
    if isinstance(node, nodes.For) and node.recursive:
        return "recursive loops are not allowed in a template"
    if isinstance(node, nodes.Include | nodes.Extends) and not _is_literal(node.template):
        return "the name of an included template must be written out"
    if isinstance(node, nodes.Include) and not node.with_context:
        return "'without context' is not allowed in a template"
    return None


def _is_literal(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, str)


def _is_cycle(node: nodes.Call) -> bool:
    target = node.node
    named = isinstance(target, nodes.Getattr) and isinstance(target.node, nodes.Name) and target.node.name == "loop"
    return named and getattr(target, "attr", "") == "cycle" and not (node.dyn_args or node.dyn_kwargs)


def _walk(tree: nodes.Node) -> Iterable[nodes.Node]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.iter_child_nodes())


def _meter(tree: nodes.Template) -> None:
    """Put the budget's filters into loops, includes and `~`. Not idempotent: each tree passes here once."""
    for node in list(_walk(tree)):
        if isinstance(node, nodes.For):
            weight = sum(1 for _ in _walk(node))
            node.iter = _filter(node.iter, "_loop", nodes.Const(weight))
        elif isinstance(node, nodes.Include):
            node.template = _filter(node.template, "_include")
    _wrap_concats(tree)


def _wrap_concats(node: nodes.Node) -> None:
    for name, value in list(node.iter_fields()):
        if isinstance(value, list):
            setattr(node, name, [_wrapped(item) for item in value])
        elif isinstance(value, nodes.Node):
            setattr(node, name, _wrapped(value))


def _wrapped(value: Any) -> Any:
    if isinstance(value, nodes.Node):
        _wrap_concats(value)
    if isinstance(value, nodes.Concat):
        return _filter(nodes.List(value.nodes, lineno=value.lineno, environment=value.environment), "_concat")
    return value


def _filter(node: nodes.Expr | nodes.Node, name: str, *args: nodes.Expr) -> nodes.Filter:
    for arg in args:
        arg.set_lineno(node.lineno)
        arg.environment = node.environment
    return nodes.Filter(
        cast(nodes.Expr, node), name, list(args), [], None, None, lineno=node.lineno, environment=node.environment
    )
