"""The parser of expressions: what stands in `[…]`, in `where`, in `if still` and in `send.data`.

    expr    = all { "or" all }                 all = one { "and" one }             one = { "not" } test
    test    = operand [ cmp operand | [ "not" ] "in" list | "is" [ "not" ] "null" | "contains" operand ]
    operand = literal | path | function "(" [ expr { "," expr } ] ")" | "(" expr ")"
    list    = "(" operand { "," operand } ")" | "[" … "]" | path

Recursion is bounded by `grammar.MAX_DEPTH`; reading is linear in the length of the text.
"""

from typing import NoReturn

from streams.patterns.expressions import FUNCTIONS
from streams.patterns.grammar import (
    COMPARISONS,
    MAX_LIST,
    RESERVED,
    Cursor,
    PatternError,
    Problem,
    Token,
    number,
    tokenize,
)
from streams.patterns.nodes import And, Call, Compare, Expr, In, IsNull, Literal, Not, Or, Path
from streams.patterns.spell import nearest

_WORD_VALUES = {"true": True, "false": False, "null": None}
_STRANGERS = {
    "like": "write contains",
    "between": "write x >= 1 and x <= 5",
    "exists": "write is not null",
    "none": "write null",
    "equals": "write =",
    "has": "write contains",
}
_VALUES = Literal | Path | Call


def parse_expression(text: str, aliases: frozenset[str] = frozenset(), slips: list[Problem] | None = None) -> Expr:
    """Read an expression; `aliases` are the names that steps of its pattern carry, `slips` see `grammar.tokenize`.

    Raises:
        PatternError: the text is no expression; positions count from 1 inside `text`.
    """
    cursor = Cursor(tokenize(text, slips))
    expr = read_expression(cursor, aliases)
    if cursor.token.kind != "end":
        refuse_rest(cursor)
    return expr


def read_expression(cursor: Cursor, aliases: frozenset[str]) -> Expr:
    """Read one expression where the cursor stands and stop behind it."""
    pos = cursor.token.pos
    items = [_all(cursor, aliases)]
    while cursor.accept("or"):
        items.append(_all(cursor, aliases))
    return items[0] if len(items) == 1 else Or(tuple(items), pos)


def make_path(token: Token, aliases: frozenset[str]) -> Path:
    """Settle what a dotted word names: an alias wins over `member`-less attributes; `member.` is always the profile."""
    first, *rest = token.text.split(".")
    if first == "member" and rest:
        return Path("member", tuple(rest), token.pos)
    if first in aliases:
        if not rest:
            raise PatternError(
                f"'{first}' is a whole event, not a value",
                token.pos,
                f"write {first}.attribute",
                "alias-without-attribute",
            )
        return Path("alias", tuple(rest), token.pos, first)
    return Path("event", (first, *rest), token.pos)


def refuse_rest(cursor: Cursor, wanted: str = "a comparison, 'and', 'or' or the end") -> NoReturn:
    """Refuse what follows a complete expression, with a hint for what people bring from other languages."""
    token = cursor.token
    hint = _STRANGERS.get(token.text.lower(), "") if token.kind == "word" else ""
    if cursor.sees(*COMPARISONS):
        hint = "compare two values at a time: 1 < x and x < 3"
    elif token.kind == "op" and token.text in "+-":
        hint = "there is no arithmetic"
    cursor.fail(wanted, hint)


def _all(cursor: Cursor, aliases: frozenset[str]) -> Expr:
    pos = cursor.token.pos
    items = [_one(cursor, aliases)]
    while cursor.accept("and"):
        items.append(_one(cursor, aliases))
    return items[0] if len(items) == 1 else And(tuple(items), pos)


def _one(cursor: Cursor, aliases: frozenset[str]) -> Expr:
    token = cursor.accept("not")
    if token is None:
        return _test(cursor, aliases)
    cursor.enter()
    inner = Not(_one(cursor, aliases), token.pos)
    cursor.leave()
    return inner


def _test(cursor: Cursor, aliases: frozenset[str]) -> Expr:
    left = _operand(cursor, aliases)
    token = cursor.token
    if cursor.accept(*COMPARISONS, "contains"):
        right = _operand(cursor, aliases)
        for side in (left, right):
            _value_only(side)
        return Compare(token.text, left, right, token.pos)
    negated = cursor.sees("not") and cursor.ahead().text == "in"
    if negated:
        cursor.take()
    if cursor.accept("in"):
        _value_only(left)
        return In(left, _options(cursor, aliases), negated, token.pos)
    if cursor.accept("is"):
        _value_only(left)
        negated = cursor.accept("not") is not None
        cursor.expect("null", "use = to compare with other values")
        return IsNull(left, negated, token.pos)
    return left


def _value_only(expr: Expr) -> None:
    if not isinstance(expr, _VALUES):
        raise PatternError("a condition stands where a value is needed", expr.pos, "join conditions with and, or, not")


def _operand(cursor: Cursor, aliases: frozenset[str]) -> Expr:
    token = cursor.token
    if token.kind == "string":
        return Literal(cursor.take().text, token.pos)
    if token.kind == "number":
        return Literal(number(cursor.take()), token.pos)
    if token.kind == "op" and token.text == "-" and cursor.ahead().kind == "number":
        cursor.take()
        return Literal(number(cursor.take(), -1), token.pos)
    if token.kind == "op" and token.text == "(":
        cursor.take()
        cursor.enter()
        inner = read_expression(cursor, aliases)
        cursor.leave()
        if not cursor.sees(")"):
            refuse_rest(cursor, "')', 'and' or 'or'")
        cursor.take()
        return inner
    if token.kind == "word" and token.text in _WORD_VALUES:
        cursor.take()
        return Literal(_WORD_VALUES[token.text], token.pos)
    if token.kind == "word" and token.text not in RESERVED:
        return _named(cursor, aliases)
    return _no_operand(cursor)


def _no_operand(cursor: Cursor) -> Expr:
    hints = {
        "span": "spans of time are no values; use within, for or after",
        "date": "put the date in quotes",
        "clock": "put the time in quotes",
    }
    hint = hints.get(cursor.token.kind, "")
    if cursor.sees("["):
        hint = "lists stand only after in"
    elif cursor.token.text in RESERVED:
        hint = f"'{cursor.token.text}' is a word of the language; put text in quotes"
    return cursor.fail("a value", hint)


def _named(cursor: Cursor, aliases: frozenset[str]) -> Expr:
    token = cursor.take()
    if not cursor.sees("("):
        if token.text in ("True", "False", "None", "NULL", "TRUE", "FALSE") and token.text not in aliases:
            raise PatternError(f"'{token.text}' is not in lower case", token.pos, "write true, false or null")
        return make_path(token, aliases)
    if token.text not in FUNCTIONS:
        near = nearest(token.text, FUNCTIONS)
        hint = f"did you mean '{near}'?" if near else f"there are {', '.join(sorted(FUNCTIONS))}"
        raise PatternError(f"there is no function '{token.text}'", token.pos, hint, "unknown-function")
    cursor.take()
    cursor.enter()
    args: list[Expr] = []
    while not cursor.sees(")"):
        if args:
            cursor.expect(",")
        _room(args, cursor)
        args.append(read_expression(cursor, aliases))
    cursor.take()
    cursor.leave()
    fewest, most = FUNCTIONS[token.text]
    if not fewest <= len(args) <= most:
        wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
        raise PatternError(f"{token.text}() takes {wanted} values (got {len(args)})", token.pos, "", "arity")
    return Call(token.text, tuple(args), token.pos)


def _options(cursor: Cursor, aliases: frozenset[str]) -> tuple[Expr, ...]:
    opened = cursor.accept("(", "[")
    if opened is None:
        single = _operand(cursor, aliases)
        if isinstance(single, Literal):
            raise PatternError("a list is needed after in", single.pos, "write in ('a', 'b'), or = for one value")
        _value_only(single)
        return (single,)
    closing = ")" if opened.text == "(" else "]"
    cursor.enter()
    options: list[Expr] = []
    while not cursor.sees(closing) or not options:
        if options:
            cursor.expect(",", "separate the values of a list with commas")
        _room(options, cursor)
        option = _operand(cursor, aliases)
        _value_only(option)
        options.append(option)
    cursor.take()
    cursor.leave()
    return tuple(options)


def _room(items: list[Expr], cursor: Cursor) -> None:
    if len(items) >= MAX_LIST:
        raise PatternError(f"the list is too long (at most {MAX_LIST})", cursor.token.pos, "", "too-long")
