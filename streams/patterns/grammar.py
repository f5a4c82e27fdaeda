"""The words of the pattern language: tokens, reserved words, limits, and problems with their places."""

import re
from typing import NoReturn

import msgspec

from schemas.errors import TidingsError
from schemas.findings import ERROR
from streams.patterns.durations import HINT as SPAN_HINT
from streams.patterns.nodes import Pos
from streams.patterns.spell import nearest

MAX_TEXT = 4_096  # characters of one pattern or expression; the longest of the 39 Loymax triggers has 180
MAX_DEPTH = 32  # brackets and `not` inside one another; bounds recursion here and in evaluation
MAX_LIST = 256  # entries of one list
MAX_DIGITS = 15  # more digits than a double keeps exactly
AGGREGATES = frozenset({"count", "sum", "avg", "min", "max", "distinct"})
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
PATTERN_WORDS = frozenset(
    {
        "then",
        "as",
        "within",
        "without",
        "no",
        "for",
        "any",
        "all",
        "of",
        "same",
        "after",
        "before",
        "on",
        "every",
        "yearly",
        "at",
    }
)
EXPRESSION_WORDS = frozenset({"and", "or", "not", "in", "is", "contains", "null", "true", "false"})
RESERVED = PATTERN_WORDS | EXPRESSION_WORDS
COMPARISONS = frozenset({"=", "!=", "<", "<=", ">", ">="})
SLIPS = {  # of other languages: what is meant, and what to say
    "==": ("=", "write = for equal"),
    "<>": ("!=", "write != for unequal"),
    "=<": ("<=", "write <="),
    "=>": (">=", "write >="),
    "&&": ("and", "write and"),
    "||": ("or", "write or"),
    "!": ("not", "write not, or != for unequal"),
}

BEFORE_SPANS = frozenset({"within", "for", "then"})

_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<word>[^\W\d][\w-]*(?:\.\w[\w-]*)*)"
    r"|(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2}(?!\w))"
    r"|(?P<clock>[0-9]{1,2}:[0-9]{2}(?!\w))"
    r"|(?P<span>(?:[0-9]+[wdhms])+(?!\w))"
    r"|(?P<number>[0-9]+(?:\.[0-9]+)?(?![\w.]))"
    r"|(?P<slip>[0-9][\w.]*)"
    r"|(?P<string>'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")"
    r"|(?P<op>==|!=|<=|>=|<>|=<|=>|&&|\|\||[=<>()\[\],+.!-])"
)


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong in a pattern or expression; `code` is a permanent kebab-case word."""

    code: str
    message: str
    pos: Pos
    hint: str = ""
    severity: str = ERROR


class PatternError(TidingsError):
    """A text that cannot be read as a pattern or expression: what is wrong, where in the text, and a hint."""

    def __init__(self, message: str, pos: Pos, hint: str = "", code: str = "syntax") -> None:
        """Keep the parts; positions count lines and columns from 1 inside the text."""
        super().__init__(f"{pos.line}:{pos.column}: {message}" + (f"; {hint}" if hint else ""))
        self.message = message
        self.pos = pos
        self.hint = hint
        self.code = code

    def problem(self) -> Problem:
        """The same as a value."""
        return Problem(self.code, self.message, self.pos, self.hint)


class Token(msgspec.Struct, frozen=True, gc=False):
    """`kind`: word, date, clock, span, number, string, op, end. `text` of a string excludes its quotes."""

    kind: str
    text: str
    pos: Pos


def tokenize(text: str, slips: list[Problem] | None = None) -> list[Token]:
    """Cut a text into tokens; the last one is of kind `end`.

    With a list `slips`, what is misspelt is noted there, and what was likely meant stands in its place, so that one run
    shows what is wrong behind it too; at a character that means nothing the text then ends.

    Raises:
        PatternError: the text is too long or, without `slips`, holds what is no token.
    """
    if len(text) > MAX_TEXT:
        raise PatternError(
            f"the text is too long (got {len(text)} characters, at most {MAX_TEXT})",
            Pos(1, 1),
            "split it into several campaigns",
            "too-long",
        )
    tokens: list[Token] = []
    at, line, line_start = 0, 1, 0
    while at < len(text):
        pos = Pos(line, at - line_start + 1)
        match = _TOKEN.match(text, at)
        if match is None:
            _note(_stranger(text[at], pos), slips)
            break
        kind, found = str(match.lastgroup), match.group()
        at = match.end()
        if kind == "space":
            if "\n" in found:
                line += found.count("\n")
                line_start = match.start() + found.rindex("\n") + 1
            continue
        if kind == "slip":
            message = f"this is neither a number nor a span of time (got {_clip(found)})"
            _note(PatternError(message, pos, SPAN_HINT), slips)
            kind, found = ("span", "1h") if not tokens or tokens[-1].text in BEFORE_SPANS else ("number", "1")
        elif kind == "op" and found in SLIPS:
            meant, hint = SLIPS[found]
            _note(PatternError(f"there is no operator {found}", pos, hint), slips)
            kind, found = "word" if meant.isalpha() else "op", meant
        tokens.append(Token(kind, _unquote(found) if kind == "string" else found, pos))
    tokens.append(Token("end", "", Pos(line, at - line_start + 1)))
    return tokens


def with_slips(slips: list[Problem], problems: list[Problem]) -> list[Problem]:
    """Join what `tokenize` noted with what was found later, in the order of the text.

    What was found where a slip stands is left out: it would speak of what was put there.
    """
    slipped = {slip.pos for slip in slips}
    found = slips + [problem for problem in problems if problem.pos not in slipped]
    return sorted(found, key=lambda problem: (problem.pos.line, problem.pos.column))


def _note(error: PatternError, slips: list[Problem] | None) -> None:
    if slips is None:
        raise error
    slips.append(error.problem())


def _stranger(char: str, pos: Pos) -> PatternError:
    if char in "'\"":
        return PatternError("the quote is not closed", pos, f"add a {char} at the end of the text")
    hint = {
        "“": 'write straight quotes: "…"',
        "”": 'write straight quotes: "…"',
        "*": "there are no wildcards; use any of (…)",
        "≥": "write >=",
        "≤": "write <=",
        "≠": "write !=",
        ";": "separate with a comma",
        "#": "quote the text",
    }.get(char, "")
    return PatternError(f"this character means nothing here (got {char!r})", pos, hint)


def _unquote(text: str) -> str:
    body = text[1:-1]
    return re.sub(r"\\(.)", r"\1", body) if "\\" in body else body


def _clip(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")


class Cursor:
    """Reads tokens from left to right; one token of look-ahead, more on request."""

    def __init__(self, tokens: list[Token]) -> None:
        """Stand before the first token."""
        self.tokens = tokens
        self.at = 0
        self.depth = 0

    @property
    def token(self) -> Token:
        """The next token; stays at the end."""
        return self.tokens[self.at]

    def ahead(self, count: int = 1) -> Token:
        """The token after the next one."""
        return self.tokens[min(self.at + count, len(self.tokens) - 1)]

    def take(self) -> Token:
        """Read one token."""
        token = self.tokens[self.at]
        if token.kind != "end":
            self.at += 1
        return token

    def sees(self, *words: str) -> bool:
        """Whether the next token is one of these words or operators."""
        return self.token.kind in ("word", "op") and self.token.text in words

    def accept(self, *words: str) -> Token | None:
        """Read the next token if it is one of these words or operators."""
        return self.take() if self.sees(*words) else None

    def expect(self, word: str, hint: str = "") -> Token:
        """Read this word or operator, or refuse."""
        if not self.sees(word):
            self.fail(f"'{word}'", hint)
        return self.take()

    def enter(self) -> None:
        """Go one level deeper, or refuse."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise PatternError(
                f"too many brackets inside one another (at most {MAX_DEPTH})",
                self.token.pos,
                "split the condition",
                "too-deep",
            )

    def leave(self) -> None:
        """Come back from `enter`."""
        self.depth -= 1

    def fail(self, wanted: str, hint: str = "", code: str = "syntax") -> NoReturn:
        """Refuse the next token; names a slip of a reserved word if it is one."""
        token = self.token
        got = "the end" if token.kind == "end" else _clip(token.text)
        raise PatternError(f"expected {wanted} (got {got})", token.pos, self.slip(token) or hint, code)

    @staticmethod
    def slip(token: Token) -> str:
        """A hint when the token looks like a mistyped reserved word, else nothing."""
        if token.kind != "word" or "." in token.text or token.text in RESERVED:
            return ""
        if token.text.lower() in RESERVED:
            return f"words of the language are written in lower case: {token.text.lower()}"
        near = nearest(token.text, RESERVED) if len(token.text) > 3 else None
        return f"did you mean '{near}'?" if near else ""


def number(token: Token, sign: int = 1) -> int | float:
    """Read a number token: int without a fraction, else float.

    Raises:
        PatternError: more digits than are kept exactly.
    """
    if len(token.text.replace(".", "")) > MAX_DIGITS:
        message = f"the number is too long (got {_clip(token.text)})"
        raise PatternError(message, token.pos, f"at most {MAX_DIGITS} digits", "too-long")
    return sign * (float(token.text) if "." in token.text else int(token.text))
