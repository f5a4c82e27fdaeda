"""The parser of patterns, by recursive descent. The grammar is in docs/patterns.md and DESIGN §4.

    pattern = step { "then" step } { "," ( "same" path { "," path } | "within" span ) }
    step    = [ n "+" ] term { "as" name | "within" span | "without" term }
            | "no" term "for" span
            | fn "(" event [ "." path ] ")" cmp number { "as" name | "within" span }
            | span "after" step                                                       (last)
            | [ span ( "before" | "after" ) | "on" ] "member." path [ "yearly" ] [ "at" hh:mm ]      (alone)
            | ( "every" ( weekday | "day" | "month" "on" n ) | "on" yyyy-mm-dd ) [ "at" hh:mm ]      (alone)
    term    = event | ( "any" | "all" ) "of" "(" event { "," event } ")"
    event   = name [ "[" expr "]" ]

A step that cannot be read is reported and skipped, so that one run shows what is wrong with the others too.
"""

import itertools
from collections.abc import Callable
from typing import NoReturn

import msgspec

from schemas.findings import ERROR, WARNING
from schemas.taxonomy import is_known, split_event_path
from streams.patterns.calendar_steps import read_calendar, read_member_date
from streams.patterns.conditions import parse_expression as parse_expression
from streams.patterns.conditions import read_expression, refuse_rest
from streams.patterns.durations import DAY_MS, parse_duration
from streams.patterns.durations import HINT as SPAN_HINT
from streams.patterns.grammar import (
    AGGREGATES,
    COMPARISONS,
    MAX_LIST,
    RESERVED,
    Cursor,
    PatternError,
    Problem,
    Token,
    number,
    tokenize,
    with_slips,
)
from streams.patterns.nodes import Absent, Aggregate, Delay, EventRef, Expr, Pattern, Pos, Positive, Step, Term

DEFAULT_WITHIN_MS = 30 * DAY_MS  # SEMANTICS 27
MAX_SAME = 8  # paths of one correlation key
MAX_WITHOUT = 8  # without-terms of one step


class Reading(msgspec.Struct, frozen=True):
    """What could be read. `complete`: no step was skipped, no slip met; `pattern` None: nothing could be read."""

    pattern: Pattern | None
    problems: tuple[Problem, ...]
    complete: bool
    aliases: frozenset[str] = frozenset()
    same_pos: tuple[Pos, ...] = ()  # places of `pattern.same`


class _Modifiers(msgspec.Struct):
    alias: str | None = None
    within_ms: int | None = None
    without: tuple[Term, ...] = ()


def parse_pattern(text: str, outer: frozenset[str] = frozenset()) -> Pattern:
    """Read a pattern.

    Raises:
        PatternError: the first thing wrong; `read_pattern` collects them all.
    """
    reading = read_pattern(text, outer)
    for problem in reading.problems:
        if problem.severity == ERROR:
            raise PatternError(problem.message, problem.pos, problem.hint, problem.code)
    if reading.pattern is None:
        raise PatternError("there is no pattern", Pos(1, 1), "name an event, e.g. order.created", "empty")
    return reading.pattern


def read_pattern(text: str, outer: frozenset[str] = frozenset()) -> Reading:
    """Read as much of a pattern as can be read, with all problems of its spelling. Never raises on any text.

    `outer`: names bound around this text, of which its conditions may speak.
    """
    slips: list[Problem] = []
    try:
        tokens = tokenize(text, slips)
    except PatternError as error:
        return Reading(None, (error.problem(),), False)
    if len(tokens) == 1:
        problem = Problem("empty", "there is no pattern", Pos(1, 1), "name an event, e.g. order.created")
        return Reading(None, tuple(slips) or (problem,), False)
    return _PatternParser(tokens, text, outer, slips).read()


class _PatternParser:
    """One run over one text."""

    def __init__(self, tokens: list[Token], text: str, outer: frozenset[str], slips: list[Problem]) -> None:
        self.cursor = Cursor(tokens)
        self.text = text
        self.aliases = outer | _aliases(tokens)
        self.slips = slips
        self.problems: list[Problem] = []
        self.steps: list[Step] = []
        self.same: list[tuple[str, ...]] = []
        self.same_pos: list[Pos] = []
        self.within_ms: int | None = None
        self.complete = not slips

    def read(self) -> Reading:
        self._guard(self._step)
        while self.cursor.token.kind != "end":
            token = self.cursor.accept("then")
            if token:
                if self.same or self.within_ms is not None:
                    problem = PatternError(
                        "a step follows what holds for the whole match",
                        token.pos,
                        "write same and within of the whole match at the end; without a comma, within limits one step",
                    ).problem()
                    self.problems.append(problem)
                self._guard(self._step)
            else:
                self.cursor.expect(",")
                self._guard(self._trailer)
        self._fill_windows()
        pattern = Pattern(tuple(self.steps), tuple(self.same), self.within_ms, self.text) if self.steps else None
        problems = tuple(with_slips(self.slips, self.problems))
        return Reading(pattern, problems, self.complete and pattern is not None, self.aliases, tuple(self.same_pos))

    # ------------------------------------------------------------ borders and recovery

    def _guard(self, part: Callable[[], None]) -> None:
        """Read one part up to a border; when that fails, note why and go on behind it."""
        try:
            part()
            if not self._at_border():
                self._refuse_rest()
        except PatternError as error:
            self.problems.append(error.problem())
            self.complete = False
            self.cursor.depth = 0
            while not self._at_border():
                self.cursor.take()

    def _at_border(self) -> bool:
        cursor = self.cursor
        return (
            cursor.token.kind == "end"
            or cursor.sees("then")
            or (cursor.sees(",") and cursor.ahead().text in ("same", "within"))
        )

    def _refuse_rest(self) -> NoReturn:
        hints = {
            "or": "write any of (a, b)",
            "and": "write all of (a, b), or then for one after the other",
            "where": "where has its own key in the file",
            "if": "if still has its own key in the file",
            "for": "for belongs to an absence: no … for 2h",
            "(": "write conditions in [ ]",
            "not": "write no … for 2h",
            ",": "write then between steps; only same and within stand behind a comma",
            "at": "at belongs to dates",
            "in": "write within",
            "yearly": "yearly belongs to dates of the profile: on member.birth_date yearly",
        }
        self.cursor.fail("'then', ', same …' or ', within …'", hints.get(self.cursor.token.text, ""))

    # ------------------------------------------------------------ trailers

    def _trailer(self) -> None:
        token = self.cursor.take()
        if token.text == "same":
            if self.same:
                raise PatternError("same is written twice", token.pos, "write same a, b", "twice")
            self._same_path()
            while self.cursor.sees(",") and self.cursor.ahead().text not in ("same", "within"):
                self.cursor.take()
                self._same_path()
        elif token.text == "within":
            if self.within_ms is not None:
                raise PatternError("the whole match has two limits", token.pos, "keep one within", "twice")
            self.within_ms = self._span()
        else:
            raise PatternError(
                f"expected 'same' or 'within' after the comma (got {token.text!r})",
                token.pos,
                "write then between steps",
            )

    def _same_path(self) -> None:
        token = self.cursor.token
        if token.kind != "word" or token.text in RESERVED:
            self.cursor.fail("an attribute", "e.g. same product_id")
        if len(self.same) >= MAX_SAME:
            raise PatternError(f"same takes at most {MAX_SAME} attributes", token.pos, "", "too-long")
        self.cursor.take()
        parts = tuple(token.text.split("."))
        if parts[0] == "member" or (parts[0] in self.aliases and len(parts) > 1):
            attribute = parts[-1]
            raise PatternError(
                f"same takes an attribute of the events themselves (got '{token.text}')",
                token.pos,
                f"write same {attribute}",
                "same-path",
            )
        if parts in self.same:
            self.problems.append(Problem("twice", f"'{token.text}' is written twice", token.pos, "remove one", WARNING))
            return
        self.same.append(parts)
        self.same_pos.append(token.pos)

    # ------------------------------------------------------------ steps

    def _step(self) -> None:
        cursor = self.cursor
        token = cursor.token
        if cursor.sees("no"):
            self.steps.append(self._absent())
        elif cursor.sees("every", "on"):
            read = read_calendar if token.text == "every" or cursor.ahead().kind != "word" else read_member_date
            self.steps.append(read(cursor, self.problems))
        elif token.kind == "span" and cursor.ahead().text in ("after", "before"):
            self._timed()
        elif token.kind == "word" and token.text in AGGREGATES and cursor.ahead().text == "(":
            self.steps.append(self._aggregate())
        else:
            self.steps.append(self._positive())

    def _timed(self) -> None:
        cursor = self.cursor
        start, direction, target = cursor.token, cursor.ahead(), cursor.ahead(2)
        root, _, rest = target.text.partition(".")
        dated = target.kind == "word" and root == "member" and rest and not is_known(target.text)
        if dated and "member" not in self.aliases:
            self.steps.append(read_member_date(cursor, self.problems))
            return
        if direction.text == "before":
            raise PatternError(
                "nobody knows an event before it happens",
                direction.pos,
                "before goes with dates of the profile: 3d before member.birth_date",
                "before-event",
            )
        span = self._span()
        cursor.take()
        positive = self._positive()
        self.steps.extend((positive, Delay(span, start.pos)))

    def _absent(self) -> Absent:
        pos = self.cursor.take().pos
        term = self._term()
        if self.cursor.sees("within"):
            self.cursor.fail("'for'", "an absence lasts: write for instead of within")
        if self.cursor.sees("as"):
            self.cursor.fail("'for'", "what did not happen has no name")
        self.cursor.expect("for", "say how long: no order.created for 2h")
        span = self._span()
        if self.cursor.sees("without", "within", "as"):
            self.cursor.fail("the end of the step", f"an absence takes no '{self.cursor.token.text}'")
        return Absent(term, span, pos)

    def _positive(self) -> Positive:
        cursor = self.cursor
        pos = cursor.token.pos
        count = 1
        counted = cursor.token.kind == "number"
        if counted:
            count = self._count()
        term = self._term()
        extra = self._modifiers(without=True)
        return Positive(term, count, extra.alias, extra.within_ms, extra.without, pos, counted)

    def _count(self) -> int:
        token = self.cursor.take()
        value = number(token)
        self.cursor.expect("+", f"write {token.text}+ for {token.text} or more times")
        if not isinstance(value, int):
            raise PatternError(f"a count is a whole number (got {token.text})", token.pos, "write e.g. 3+", "count")
        return value

    def _aggregate(self) -> Aggregate:
        cursor = self.cursor
        fn = cursor.take()
        cursor.take()
        word = self._event_word()
        predicate = self._predicate()
        event_type = word.text
        path: tuple[str, ...] = ()
        if predicate is None:
            event_type, path = _split(word.text, needs_path=fn.text != "count")
        if cursor.accept("."):
            if cursor.token.kind != "word":
                cursor.fail("an attribute")
            path = tuple(cursor.take().text.split("."))
        cursor.expect(")", "one event and one of its attributes: sum(order.created.total)")
        if not path and fn.text != "count":
            raise PatternError(
                f"{fn.text} needs an attribute (got '{word.text}')",
                word.pos,
                f"write {fn.text}({event_type}.attribute)",
                "aggregate-path",
            )
        if not cursor.sees(*COMPARISONS):
            cursor.fail("a comparison", f"e.g. {fn.text}(…) >= 5 within 1d")
        op = cursor.take().text
        sign = -1 if cursor.accept("-") else 1
        if cursor.token.kind != "number":
            cursor.fail("a number", "spans of time are no numbers" if cursor.token.kind == "span" else "")
        threshold = float(number(cursor.take(), sign))
        extra = self._modifiers(without=False)
        event = EventRef(event_type, predicate, word.pos)
        return Aggregate(fn.text, event, path, op, threshold, extra.within_ms or 0, fn.pos, extra.alias)

    def _modifiers(self, *, without: bool) -> _Modifiers:
        cursor, found = self.cursor, _Modifiers()
        while token := cursor.accept("as", "within", "without"):
            if token.text == "as":
                if found.alias is not None:
                    raise PatternError("the step has two names", token.pos, "keep one", "twice")
                found.alias = self._name()
            elif token.text == "within":
                if found.within_ms is not None:
                    raise PatternError("the step has two limits", token.pos, "keep one within", "twice")
                found.within_ms = self._span()
            elif without:
                found.without = (*found.without, self._term())
                if len(found.without) > MAX_WITHOUT:
                    message = f"a step takes at most {MAX_WITHOUT} without"
                    raise PatternError(message, token.pos, "write without any of (…)", "too-long")
            else:
                message = "a computed step takes no without"
                raise PatternError(message, token.pos, "put the condition in [ ]", "without-aggregate")
        return found

    def _name(self) -> str:
        token = self.cursor.token
        if token.kind != "word" or "." in token.text or "-" in token.text or token.text in RESERVED:
            self.cursor.fail("a name", "one word, e.g. as v")
        return self.cursor.take().text

    def _span(self) -> int:
        token = self.cursor.token
        if token.kind != "span":
            self.cursor.fail("a span of time", SPAN_HINT)
        self.cursor.take()
        try:
            span = parse_duration(token.text)
        except ValueError as error:
            raise PatternError(str(error), token.pos, SPAN_HINT, "span") from None
        if span == 0:
            message = f"a span of zero holds nothing (got {token.text})"
            self.problems.append(Problem("zero-span", message, token.pos, SPAN_HINT))
        return span

    # ------------------------------------------------------------ terms

    def _term(self) -> Term:
        cursor = self.cursor
        token = cursor.token
        if not cursor.sees("any", "all"):
            return Term("one", (self._event(),), token.pos)
        cursor.take()
        cursor.expect("of", f"write {token.text} of (a, b)")
        cursor.expect("(", f"write {token.text} of (a, b)")
        events = [self._event()]
        while cursor.accept(","):
            if len(events) >= MAX_LIST:
                raise PatternError(f"the list is too long (at most {MAX_LIST})", cursor.token.pos, "", "too-long")
            events.append(self._event())
        cursor.expect(")", "separate events with commas")
        return Term(token.text, tuple(events), token.pos)

    def _event(self) -> EventRef:
        word = self._event_word()
        predicate = self._predicate()
        if self.cursor.sees("."):
            self.cursor.fail("the end of the event", "attributes are compared inside [ ]")
        return EventRef(word.text, predicate, word.pos)

    def _event_word(self) -> Token:
        cursor = self.cursor
        token = cursor.token
        if token.kind != "word" or token.text in RESERVED:
            hints = {
                "any": "any of (…) does not nest",
                "all": "all of (…) does not nest",
                "not": "write no … for 2h",
                "no": "no stands at the start of a step",
            }
            cursor.fail("an event", hints.get(token.text, "e.g. order.created"))
        slip = cursor.slip(token)
        if slip and not is_known(token.text) and (token.text.lower() in RESERVED or cursor.ahead().kind == "word"):
            cursor.fail("an event", slip)
        return cursor.take()

    def _predicate(self) -> Expr | None:
        cursor = self.cursor
        if not cursor.accept("["):
            return None
        if cursor.sees("]"):
            cursor.fail("a condition", "leave out the empty brackets")
        predicate = read_expression(cursor, self.aliases)
        if not cursor.sees("]"):
            refuse_rest(cursor, "']', 'and' or 'or'")
        cursor.take()
        return predicate

    # ------------------------------------------------------------ afterwards

    def _fill_windows(self) -> None:
        """An aggregate without its own `within` takes the limit of the whole match."""
        for index, step in enumerate(self.steps):
            if isinstance(step, Aggregate) and not step.within_ms:
                if self.within_ms is None and not self._zero_at(step):
                    self.problems.append(
                        Problem(
                            "missing-within", f"{step.fn} needs to know over which time", step.pos, "add within 30d"
                        )
                    )
                self.steps[index] = msgspec.structs.replace(step, within_ms=self.within_ms or DEFAULT_WITHIN_MS)

    def _zero_at(self, step: Aggregate) -> bool:
        """Whether a zero span is already reported at or behind this step."""
        start = (step.pos.line, step.pos.column)
        return any(p.code == "zero-span" and (p.pos.line, p.pos.column) > start for p in self.problems)


def _split(text: str, *, needs_path: bool) -> tuple[str, tuple[str, ...]]:
    """Split `order.created.total`; of an unknown event the last word is the attribute, if one is needed."""
    event_type, path = split_event_path(text)
    if not path and needs_path and not is_known(event_type) and "." in event_type:
        event_type, _, path = event_type.rpartition(".")
    return event_type, tuple(path.split(".")) if path else ()


def _aliases(tokens: list[Token]) -> frozenset[str]:
    """Collect the names given by `as` anywhere outside conditions: an alias counts before its step, too."""
    found: set[str] = set()
    depth = 0
    for token, following in itertools.pairwise(tokens):
        if token.kind == "op" and token.text in "[]":
            depth = max(0, depth + (1 if token.text == "[" else -1))
        elif depth == 0 and token.kind == "word" and token.text == "as" and following.kind == "word":
            found.add(following.text)
    return frozenset(found - RESERVED)
