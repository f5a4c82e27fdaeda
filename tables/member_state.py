"""What is remembered of one member: profile, history, live instances, caps, touches."""

from collections.abc import Sequence
from typing import Any, Final

from mypy_extensions import mypyc_attr

RECENT_IDS_MAX: Final = 16  # SEMANTICS 6: a repeat within the member's last 16 read is a duplicate
INSTANCES_PER_PLAN_MAX: Final = 8  # DESIGN §4: live instances per campaign and member
INSTANCES_MAX: Final = 64  # DESIGN §4: live instances per member
HISTORY_MAX: Final = 64  # entries per history series; the earliest read goes first, counted
CAP_KEYS_MAX: Final = 256  # keys whose firings `per: key` remembers; beyond, the one idle longest may fire again
KEYS_MAX: Final = 64  # correlation keys with a running count per campaign; the one idle longest goes first
TOUCHES_MAX: Final = 16  # messages that may still earn a conversion
NOTES_MAX: Final = 4  # recent decisions kept for the operator's page, beside those of the firings below
FIRED_IDS_MAX: Final = 16  # instance ids remembered as fired, beside the firings below; sinks drop what repeats beyond
UNKNOWN: Final = -1  # of a wake: to be worked out
JOURNEYS_MAX: Final = 32  # running journeys per member; one more is not begun, and the decision says so
DEAD_MAX: Final = 16  # addresses given up per member; the one given up longest ago may be tried again
FIRED_MAX: Final = 4  # firings of a campaign that may still meet a late cancelling event

NEVER: Final = 1 << 60  # beyond every clock value

# Most members have none of most things: they share these two. So a field that may hold one is replaced, never
# changed in place, unless the code has just put a container of its own there.
NO_MAP: Final[dict[Any, Any]] = {}
NO_ROWS: Final[tuple[Any, ...]] = ()

Key = Any
"""Correlation key: a normalised scalar, a tuple of them for several `same` paths, None without `same`."""


@mypyc_attr(acyclic=True)
class Rare:
    """What few instances have; in an `Instance` without it all of it is empty. What each is, is said there."""

    __slots__ = ("aliases", "last", "seen", "counted", "seen_without", "blocked_e", "matched", "own")

    def __init__(self) -> None:
        self.aliases: dict[str, dict[str, Any]] = NO_MAP
        self.last: dict[str, Any] = NO_MAP
        self.seen: dict[int, Any] = NO_MAP
        self.counted: Sequence[tuple[int, Any]] = NO_ROWS
        self.seen_without: dict[int, Any] = NO_MAP
        self.blocked_e: int | None = None
        self.matched: Sequence[tuple[int, str, int]] = NO_ROWS
        self.own: Sequence[int] = NO_ROWS


@mypyc_attr(acyclic=True)
class Instance:
    """One live match of one campaign for one key.

    `step` is the index of the awaited step. `due` (absence, delay) or `end` (positive) is the event-time deadline of
    that step in ms; exactly one is set. `e_first` begins the whole-match window, `e_anchor` is the first step's event
    time, `e_prev` that of the step before. `blocked_e`: a `without` event read before this step
    at this time blocks later ones.
    `seen`: (e, offset) by index of an event reference, for an awaited `all of`; `counted`: (e, offset) of an awaited
    `n+` or (e, values) of an aggregate. `started`: (offset, ordinal), the start order. `wake`: clock value at which the
    awaited step's deadline has surely passed. `aliases`: attributes of matched events that later steps name; `last`:
    those of the latest matched event that firing needs. `digest`: of the anchor, once computed; memory only.

    A member has several of these, and to touch them is most of what an event costs: what few of them have is apart.
    """

    __slots__ = (  # first what every look at a member's timers reads
        "wake", "_at", "key", "step", "e_prev", "e_anchor", "e_first", "started", "version", "correlation", "anchor",
        "digest", "_rare", "_ends", "_begun", "_reached",
    )  # fmt: skip

    def __init__(
        self,
        version: str,
        key: Key,
        correlation: Any,
        anchor: str,
        started: tuple[int, int],
        e_first: int,
        e_anchor: int,
    ) -> None:
        self.wake = NEVER
        self._at = NEVER  # due or end; NEVER: neither
        self.key = key
        self.step = 0
        self.e_prev = e_anchor
        self.e_anchor = e_anchor
        self.e_first = e_first
        self.started = started
        self.version = version
        self.correlation = correlation
        self.anchor = anchor
        self.digest = b""
        self._rare: Rare | None = None
        self._ends = False
        self._begun = False  # `matched` and `own` tell of one event
        self._reached = False  # and `matched` of the deadline after it

    def _rest(self) -> Rare:
        found = self._rare
        if found is None:
            found = self._rare = Rare()
        return found

    @property
    def due(self) -> int | None:
        """Deadline of an absence or a delay."""
        return None if self._ends or self._at == NEVER else self._at

    @due.setter
    def due(self, due: int | None) -> None:
        if due is not None:
            self._at, self._ends = due, False
        elif not self._ends:
            self._at = NEVER

    @property
    def end(self) -> int | None:
        """Deadline of a positive step."""
        return self._at if self._ends and self._at != NEVER else None

    @end.setter
    def end(self, end: int | None) -> None:
        if end is not None:
            self._at, self._ends = end, True
        elif self._ends:
            self._at = NEVER

    @property
    def undated(self) -> bool:
        """Tell whether it has no `due`."""
        return self._ends or self._at == NEVER

    @property
    def deadline(self) -> int | None:
        """Event time after which, plus lateness, the clock ends or fires the awaited step."""
        return None if self._at == NEVER else self._at

    @property
    def aliases(self) -> dict[str, dict[str, Any]]:
        """See the class."""
        return NO_MAP if self._rare is None else self._rare.aliases

    @aliases.setter
    def aliases(self, aliases: dict[str, dict[str, Any]]) -> None:
        if aliases or self._rare is not None:
            self._rest().aliases = aliases

    @property
    def last(self) -> dict[str, Any]:
        """See the class."""
        return NO_MAP if self._rare is None else self._rare.last

    @last.setter
    def last(self, last: dict[str, Any]) -> None:
        if last or self._rare is not None:
            self._rest().last = last

    @property
    def seen(self) -> dict[int, Any]:
        """See the class."""
        return NO_MAP if self._rare is None else self._rare.seen

    @seen.setter
    def seen(self, seen: dict[int, Any]) -> None:
        if seen is not NO_MAP or self._rare is not None:
            self._rest().seen = seen

    @property
    def counted(self) -> Sequence[tuple[int, Any]]:
        """See the class."""
        return NO_ROWS if self._rare is None else self._rare.counted

    @counted.setter
    def counted(self, counted: Sequence[tuple[int, Any]]) -> None:
        if counted or self._rare is not None:
            self._rest().counted = counted

    @property
    def seen_without(self) -> dict[int, Any]:
        """See the class."""
        return NO_MAP if self._rare is None else self._rare.seen_without

    @seen_without.setter
    def seen_without(self, seen: dict[int, Any]) -> None:
        if seen is not NO_MAP or self._rare is not None:
            self._rest().seen_without = seen

    @property
    def blocked_e(self) -> int | None:
        """See the class."""
        return None if self._rare is None else self._rare.blocked_e

    @blocked_e.setter
    def blocked_e(self, e: int | None) -> None:
        if e is not None or self._rare is not None:
            self._rest().blocked_e = e

    @property
    def matched(self) -> Sequence[tuple[int, str, int]]:
        """(step, event id, e) of the steps matched, in their order, at most 8."""
        if self._begun:
            first = (0, self.anchor, self.e_anchor)
            return (first, (self.step, "", self._at)) if self._reached else (first,)
        return NO_ROWS if self._rare is None else self._rare.matched

    @matched.setter
    def matched(self, rows: Sequence[tuple[int, str, int]]) -> None:
        self._tell()
        self._rest().matched = rows

    @property
    def own(self) -> Sequence[int]:
        """Offsets of its own records at `e_prev`: they may not end it."""
        if self._begun:
            return (self.started[0],)
        return NO_ROWS if self._rare is None else self._rare.own

    @own.setter
    def own(self, offsets: Sequence[int]) -> None:
        self._tell()
        self._rest().own = offsets

    def _tell(self) -> None:
        """Spell out what `begun` has said."""
        if self._begun:
            matched, own = self.matched, self.own
            self._begun = self._reached = False
            rest = self._rest()
            rest.matched, rest.own = matched, own

    def begun(self) -> None:
        """Say that one event began it and no more has happened: `matched` and `own` then tell of that one."""
        self._begun = True

    def reach(self) -> None:
        """Say of one that is `plain` that its deadline has passed, and that it ends."""
        self._reached = True

    @property
    def as_begun(self) -> bool:
        """Tell whether nothing has happened since `begun`."""
        return self._begun

    def tidy(self) -> None:
        """Take the form of `begun` if it has come to no more."""
        rare = self._rare
        if rare is None or self._begun or len(rare.matched) != 1 or len(rare.own) != 1:
            return
        if rare.own[0] != self.started[0] or tuple(rare.matched[0]) != (0, self.anchor, self.e_anchor):
            return
        self._begun = True
        rare.matched = rare.own = NO_ROWS
        if not (rare.aliases or rare.last or rare.seen or rare.counted or rare.seen_without) and rare.blocked_e is None:
            self._rare = None

    @property
    def plain(self) -> bool:
        """Tell whether it is as begun, with nothing rare."""
        return self._begun and self._rare is None


@mypyc_attr(acyclic=True)
class Fired:
    """An absence that fired: what a later event needs to be recognised as late, and what was decided, for operators.

    `sent`: a command went out. `clock_ms`, `outcome`, `reason` of the decision; an empty outcome: noted elsewhere.
    `digest` is that of the anchor. `instance_id` is known of what fired in this process, "" otherwise; memory only.
    """

    __slots__ = (
        "due", "e_prev", "anchor", "key", "version", "clock_ms", "digest", "correlation", "aliases", "sent", "outcome",
        "reason", "instance_id",
    )  # fmt: skip

    def __init__(
        self,
        key: Key,
        e_prev: int,
        due: int,
        aliases: dict[str, dict[str, Any]],
        correlation: Any,
        anchor: str,
        version: str,
        sent: bool,
        clock_ms: int,
        outcome: str,
        reason: str,
        digest: bytes,
        instance_id: str = "",
    ) -> None:
        self.instance_id = instance_id
        self.due = due
        self.e_prev = e_prev
        self.anchor = anchor
        self.key = key
        self.version = version
        self.clock_ms = clock_ms
        self.digest = digest
        self.correlation = correlation
        self.aliases = aliases
        self.sent = sent
        self.outcome = outcome
        self.reason = reason


Armed = tuple[int, str, str, int]
"""A calendar date: due in ms, label, the version it is of ("": not known), the clock value to look at it."""


@mypyc_attr(acyclic=True)
class PlanState:
    """What one campaign remembers of one member.

    `instances`: oldest first. `counts`: per key, what the first step has counted and not yet spent. `fired`: clock
    values of firings per cap key, ascending, only as many as the caps need. `late`: recent absence firings, newest
    last, at most 4. `fired_ids`: digests of the instance ids that fired and are not in `late`, newest last, at most 16.
    `armed`: the next calendar date, None if the campaign has none.
    """

    __slots__ = ("instances", "counts", "counts_version", "fired", "late", "armed", "fired_ids")

    def __init__(self) -> None:
        self.instances: list[Instance] = []
        self.counts: dict[Key, list[Any]] = NO_MAP
        self.counts_version = ""
        self.fired: dict[Key, list[int]] = NO_MAP
        self.late: Sequence[Fired] = NO_ROWS
        self.armed: Armed | None = None
        self.fired_ids = b""

    def empty(self) -> bool:
        """Tell whether nothing is left to remember."""
        return not (self.instances or self.counts or self.fired or self.late or self.armed or self.fired_ids)


@mypyc_attr(acyclic=True)
class Journey:
    """One member's run through a campaign's flow, after the match that began it.

    It always stands at the step named `step`, reached at the instant `since`, until `due` on the watermark, which is
    `wake` on the clock. `wanted`: clock value at which a held message was asked for first; None at a wait. `joined`:
    offset of the record at which it came under its version. `started`: as of its instance, the order among equals.
    `e_anchor`: events from before it concern the journey no more. `aliases`: attributes of matched and awaited events
    that later steps name; `last`: those of the match's last event. `outcomes`: what came of each step that has one.
    `packed`: its bytes, until it moves; memory only.
    """

    __slots__ = (
        "campaign", "version", "instance_id", "key", "correlation", "anchor", "started", "joined", "e_anchor", "step",
        "since", "due", "wake", "wanted", "aliases", "last", "outcomes", "packed",
    )  # fmt: skip

    def __init__(self, campaign: str, version: str, instance_id: str, instance: Instance, joined: int) -> None:
        self.campaign = campaign
        self.version = version
        self.instance_id = instance_id
        self.key = instance.key
        self.correlation = instance.correlation
        self.anchor = instance.anchor
        self.started = instance.started
        self.joined = joined
        self.e_anchor = instance.e_anchor
        self.step = ""
        self.since = 0
        self.due = 0
        self.wake = 0
        self.wanted: int | None = None
        self.aliases: dict[str, dict[str, Any]] = instance.aliases
        self.last: dict[str, Any] = instance.last
        self.outcomes: dict[str, str] = NO_MAP
        self.packed: Any = None


@mypyc_attr(acyclic=True)
class Contacts:
    """What the arbiter remembers of one member (streams/policies).

    `sent`: per cap scope, [clock ms, digest of the command id] of the newest messages, as many as its caps count.
    `dead`: [channel, digest of the address, why, e] of addresses given up, newest last. Both are replaced, not changed.
    """

    __slots__ = ("sent", "dead")

    def __init__(
        self, sent: dict[str, Sequence[Sequence[Any]]] | None = None, dead: Sequence[Sequence[Any]] = NO_ROWS
    ) -> None:
        self.sent: dict[str, Sequence[Sequence[Any]]] = {} if sent is None else sent
        self.dead = dead

    def packed(self) -> list[Any] | None:
        """Give what is stored; None when there is nothing."""
        return [dict(sorted(self.sent.items())), self.dead] if self.sent or self.dead else None


@mypyc_attr(acyclic=True)
class Member:
    """One member. `applied`: offset of the last record that changed it. `hint`: timer hint in the store, None for none.

    `recent`: digests of the last 16 event ids read (tables.digests). `history`: per series id, entries [e, offset,
    keys, data, profile, anchors] in read order. `touches`: [e, command id, campaign, version, instance id, channel,
    window ms], in read order. `notes`: [clock, campaign, outcome, reason, instance id as 16 bytes], but those of
    firings in `late`. `journeys`: oldest first. `contacts`: None until the arbiter has something to remember.
    `scheduled`, `epoch` and `cost` live in memory only, and so do `packed_journeys` and `journeys_wake`: their bytes
    and the earliest of their wakes, until one of them moves.
    """

    __slots__ = (
        "member_id", "applied", "recent", "profile", "history", "plans", "touches", "notes", "hint", "scheduled",
        "epoch", "cost", "journeys", "contacts", "packed_journeys", "journeys_wake",
    )  # fmt: skip

    def __init__(self, member_id: str) -> None:
        self.member_id = member_id
        self.applied = -1
        self.recent = b""
        self.profile: dict[str, Any] = NO_MAP
        self.history: dict[str, list[Any]] = NO_MAP
        self.plans: dict[str, PlanState] = {}
        self.touches: Sequence[Sequence[Any]] = NO_ROWS
        self.notes: Sequence[Sequence[Any]] = NO_ROWS
        self.journeys: Sequence[Journey] = NO_ROWS
        self.contacts: Contacts | None = None
        self.hint: int | None = None
        self.scheduled = NEVER  # earliest wake-up in the engine's queue; memory only
        self.epoch = 0  # the last epoch that changed it; memory only
        self.cost = 0  # bytes it takes in memory, by estimate; memory only
        self.packed_journeys: Any = None
        self.journeys_wake = NEVER

    def journeys_moved(self) -> None:
        """Forget what was worked out of its journeys."""
        self.packed_journeys = None
        self.journeys_wake = UNKNOWN

    def live_instances(self) -> int:
        """Count live instances over all campaigns."""
        return sum(len(state.instances) for state in self.plans.values())
