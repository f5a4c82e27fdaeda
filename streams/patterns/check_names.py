"""Names in patterns against the schemas: events, attributes, aliases, correlation paths."""

import functools
from collections.abc import Callable, Iterable, Mapping

import msgspec

from schemas.commands import CHANNELS
from schemas.findings import WARNING
from schemas.taxonomy import (
    EVENT_TYPES,
    attribute_paths,
    is_internal,
    is_known,
    known_attribute,
    suggest_attribute,
    suggest_type,
)
from streams.patterns.expressions import conjuncts, paths_of
from streams.patterns.grammar import Problem
from streams.patterns.nodes import (
    Absent,
    Aggregate,
    Compare,
    EventRef,
    Expr,
    In,
    Path,
    Pattern,
    Pos,
    Positive,
    Step,
    Term,
)
from streams.patterns.spell import nearest
from streams.policies.contact import ADDRESS_OF, TOPICS

MAX_SUGGESTIONS = 32  # per text: bounds the work that a hostile text can ask for
_LONGEST = 64  # a longer word is no slip of a name we know
CONSENT = "consent"
CONSENTS = frozenset({*CHANNELS, TOPICS})
PROFILE = frozenset({*ADDRESS_OF.values(), CONSENT, "timezone"})


class _Scope(msgspec.Struct, frozen=True):
    """Where an expression stands: types of its own event, aliases bound there, and the place in words."""

    types: tuple[str, ...]
    bound: frozenset[str]
    place: str = ""


class NameCheck:
    """Checks of one pattern and of the expressions beside it."""

    def __init__(
        self, pattern: Pattern, same_pos: tuple[Pos, ...] = (), outer: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        """Collect what the steps bind.

        Args:
            pattern: the pattern.
            same_pos: where the paths of `same` stand, if known.
            outer: names bound around the pattern, with the types of their events; () for what has no schema.
        """
        self.outer = frozenset(outer or ())
        self.same_pos = dict(zip(pattern.same, same_pos, strict=False))
        self.pattern = pattern
        self.left = MAX_SUGGESTIONS
        self.near: dict[str, str | None] = {}  # unknown event -> the known one it is likely a slip of
        for ref in (ref for step in pattern.steps for ref in _refs(step)):
            if not is_known(ref.type) and ref.type not in self.near:
                find = functools.partial(_near_event, ref.type)
                self.near[ref.type] = self._suggest(find, ref.type)
        self.types_of: dict[str, tuple[str, ...]] = dict(outer or {})
        for step in pattern.steps:
            alias = _alias(step)
            if alias is not None and alias not in self.types_of:
                self.types_of[alias] = self._types(step)

    # ------------------------------------------------------------ the pattern

    def check_events(self) -> list[Problem]:
        """Events, the attributes in their predicates, and the paths of aggregates and `same`."""
        found: list[Problem] = []
        bound = self.outer
        for step in self.pattern.steps:
            for ref in _refs(step):
                found += self._event(ref)
                found += self._paths(ref.predicate, _Scope((self._likely(ref.type),), bound))
            if isinstance(step, Aggregate) and step.path:
                path = Path("event", step.path, step.event.pos)
                found += self._attribute(path, (self._likely(step.event.type),))
            alias = _alias(step)
            if alias:
                bound |= {alias}
        return found + self._same()

    def check_aliases(self) -> list[Problem]:
        """Aliases given twice, and such as hide the profile."""
        found: list[Problem] = []
        seen: set[str] = set()
        for step in self.pattern.steps:
            alias = _alias(step)
            if alias is None:
                continue
            if alias == "member":
                found.append(
                    Problem(
                        "alias-member", "'member' is the profile and names no step", step.pos, "choose another name"
                    )
                )
            elif alias in seen:
                found.append(Problem("duplicate-alias", f"two steps are named '{alias}'", step.pos, "rename one"))
            seen.add(alias)
        return found

    def _likely(self, event_type: str) -> str:
        """The type that is meant, so that a slip in it does not hide what is wrong behind it."""
        return self.near.get(event_type) or event_type

    def _types(self, step: Step) -> tuple[str, ...]:
        return tuple(self._likely(name) for name in step_types(step))

    def _event(self, ref: EventRef) -> list[Problem]:
        if is_internal(ref.type):
            return [
                Problem(
                    "internal-event",
                    f"'{ref.type}' moves the log and belongs to no member",
                    ref.pos,
                    "name an event of a member",
                )
            ]
        if is_known(ref.type):
            return []
        near = self.near.get(ref.type)
        hint = f"did you mean '{near}'?" if near else f"name your own events custom.{_custom(ref.type)}"
        return [Problem("unknown-event", f"no schema defines event '{_clip(ref.type)}'", ref.pos, hint)]

    def _same(self) -> list[Problem]:
        found: list[Problem] = []
        for parts in self.pattern.same:
            path = ".".join(parts)
            refs = [ref for step in self.pattern.steps for ref in _refs(step) if is_known(ref.type)]
            lacking = [ref for ref in refs if not known_attribute(ref.type, path)]
            if refs and len(lacking) == len(refs):
                near = self._suggest(functools.partial(_near_attribute, path, [ref.type for ref in refs]), path)
                hint = f"did you mean '{near}'?" if near else "name an attribute that all steps have"
                pos = self.same_pos.get(parts, lacking[0].pos)
                found.append(Problem("unknown-same", f"no event of the pattern has '{_clip(path)}'", pos, hint))
            elif lacking:
                names = ", ".join(list(dict.fromkeys(f"'{ref.type}'" for ref in lacking))[:4])
                found.append(
                    Problem(
                        "unknown-same",
                        f"same '{_clip(path)}' can never hold: {names} has no such attribute",
                        lacking[0].pos,
                        "name an attribute that all steps have, or compare in [ ]",
                    )
                )
        return found

    # ------------------------------------------------------------ expressions beside the pattern

    def check_where(self, expr: Expr) -> list[Problem]:
        """`where`: bare names mean the event of each step in turn."""
        steps = [step for step in self.pattern.steps if isinstance(step, Positive | Aggregate)]
        if not steps and isinstance(self.pattern.steps[0], Absent):
            steps_types = [self._types(self.pattern.steps[0])]
        else:
            steps_types = [self._types(step) for step in steps]
        if not steps_types:
            return [
                Problem(
                    "where-without-step",
                    "where is judged when an event matches, and a date has none",
                    Pos(1, 1),
                    "write it under 'if still'",
                )
            ]
        every = tuple(dict.fromkeys(t for types in steps_types for t in types))
        found = self._paths(expr, _Scope(every, frozenset(self.types_of)))
        first = {_alias(steps[0])} if steps else set()
        firm = {path for part in conjuncts(expr) if isinstance(part, Compare | In) for path in _operands(part)}
        for path in paths_of(expr):
            if path.root == "alias" and path.alias not in first:
                message = f"where is judged from the first step on, and '{path.alias}' is not known there"
                severity = {} if path in firm else {"severity": WARNING}
                found.append(
                    Problem("alias-early", message, path.pos, "put the condition into that step's [ ]", **severity)
                )
        return found

    def check_at_firing(self, expr: Expr, key: str) -> list[Problem]:
        """`if still` and `send.data`: bare names mean the event that matched last."""
        happened = [step for step in self.pattern.steps if isinstance(step, Positive | Aggregate)]
        if not happened and isinstance(self.pattern.steps[0], Absent):
            happened = [self.pattern.steps[0]]  # type: ignore[list-item]
        if happened:
            return self._paths(expr, _Scope(self._types(happened[-1]), frozenset(self.types_of)))
        return [
            Problem(
                "no-event",
                f"{key}: a date has no event, so '{_clip('.'.join(path.parts))}' means nothing",
                path.pos,
                "name the profile: member.…",
            )
            for path in paths_of(expr)
            if path.root == "event"
        ] + self._paths(expr, _Scope((), frozenset(self.types_of)))

    # ------------------------------------------------------------ paths

    def _paths(self, expr: Expr | None, scope: _Scope) -> list[Problem]:
        found: list[Problem] = []
        for path in paths_of(expr):
            if path.root == "alias" and path.alias is not None:
                if path.alias in scope.bound:
                    found += self._attribute(path, self.types_of.get(path.alias, ()))
                elif path.alias in self.types_of:
                    found.append(
                        Problem(
                            "alias-early",
                            f"'{path.alias}' is not matched yet where it is used",
                            path.pos,
                            "name an earlier step",
                        )
                    )
            elif path.root == "event" and scope.types:
                found += self._attribute(path, scope.types)
            elif path.root == "member":
                found += self._profile(path)
        return found

    def _profile(self, path: Path) -> list[Problem]:
        """Name slips of what we ourselves read of a profile; all else of it is the shop's own."""
        place = 1 if path.parts[0] == CONSENT and len(path.parts) > 1 else 0
        word, known = path.parts[place], CONSENTS if place else PROFILE
        near = None if word in known else self._suggest(lambda: nearest(word, known), word)
        if near is None:
            return []
        meant = ".".join(("member", *path.parts[:place], near, *path.parts[place + 1 :]))
        said = f"'member.{_clip('.'.join(path.parts))}' is none of the names in use"
        hint = f"the profile is open, so this may be right; did you mean '{meant}'?"
        return [Problem("unknown-attribute", said, path.pos, hint, WARNING)]

    def _attribute(self, path: Path, types: tuple[str, ...]) -> list[Problem]:
        text = ".".join(path.parts)
        known = [t for t in types if is_known(t)]
        lacking = [t for t in known if not known_attribute(t, text)]
        if not lacking:
            return []
        names = " and ".join(f"'{t}'" for t in dict.fromkeys(lacking[:4]))
        if len(lacking) < len(types):
            return [
                Problem(
                    "attribute-not-everywhere",
                    f"{names} has no attribute '{_clip(text)}', so a comparison with it is false there",
                    path.pos,
                    "put the condition into the [ ] of the event that has it",
                    WARNING,
                )
            ]
        if path.root == "event" and len(path.parts) > 1:
            stranger = self._unknown_alias(path, lacking)
            if stranger is not None:
                return [stranger]
        near = self._suggest(lambda: _near_attribute(text, lacking), text)
        if near:
            return [
                Problem(
                    "unknown-attribute",
                    f"{names} has no attribute '{_clip(text)}'",
                    path.pos,
                    f"did you mean '{near}'?",
                )
            ]
        loose = self._suggest(lambda: suggest_attribute(lacking[0], text), text)
        hint = "data is open, so this may be right" + (f"; the schema has '{loose}'" if loose else "")
        return [Problem("unknown-attribute", f"{names} has no attribute '{_clip(text)}'", path.pos, hint, WARNING)]

    def _unknown_alias(self, path: Path, types: list[str]) -> Problem | None:
        """A dotted name whose first part is neither an attribute nor an alias is most likely a mistaken alias."""
        head = path.parts[0]
        if any(known_attribute(t, head) for t in types):
            return None
        near = self._suggest(lambda: nearest(head, [*self.types_of, "member"]), head)
        if near is None and len(head) > 2:
            return None
        named = f"the named steps are {', '.join(self.types_of)}" if self.types_of else f"name a step: … as {head}"
        hint = f"did you mean '{near}'?" if near else named
        return Problem("unknown-alias", f"no step is named '{_clip(head)}'", path.pos, hint)

    def _suggest(self, find: Callable[[], str | None], word: str) -> str | None:
        if self.left <= 0 or len(word) > _LONGEST:
            return None
        self.left -= 1
        return find()


def _near_event(name: str) -> str | None:
    return nearest(name, EVENT_TYPES) or suggest_type(name)


def _near_attribute(path: str, types: Iterable[str]) -> str | None:
    return nearest(path, {known for t in types for known in attribute_paths(t)})


def _operands(expr: Compare | In) -> list[Path]:
    sides = (expr.left, expr.right) if isinstance(expr, Compare) else (expr.left,)
    return [side for side in sides if isinstance(side, Path)]


def _custom(name: str) -> str:
    return _clip(name.rsplit(".", 1)[-1])


def _clip(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def _alias(step: Step) -> str | None:
    return step.alias if isinstance(step, Positive | Aggregate) else None


def _terms(step: Step) -> tuple[Term, ...]:
    if isinstance(step, Positive):
        return (step.term, *step.without)
    return (step.term,) if isinstance(step, Absent) else ()


def _refs(step: Step) -> tuple[EventRef, ...]:
    if isinstance(step, Aggregate):
        return (step.event,)
    return tuple(ref for term in _terms(step) for ref in term.events)


def step_types(step: Step) -> tuple[str, ...]:
    """Types of the events that match a step (not of those that block it)."""
    if isinstance(step, Aggregate):
        return (step.event.type,)
    if isinstance(step, Positive | Absent):
        return tuple(dict.fromkeys(ref.type for ref in step.term.events))
    return ()
