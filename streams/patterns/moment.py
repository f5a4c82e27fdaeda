"""One event as patterns see it, at its place in the log."""

from typing import Any, Final

from mypy_extensions import mypyc_attr

from streams.patterns.expressions import Data
from streams.patterns.plan import Plan

_UNKEYED: Final[list[tuple[Any, Any]]] = [(None, None)]


@mypyc_attr(acyclic=True, free_list_len=1)
class Moment:
    """One event of one member at its place in the log. `e` is clamped event time, `clock` the partition's C at it.

    `too_old`: it updates history and moves no pattern. `keys`: correlation keys by `same` clause, filled on demand.
    `begun`: instances begun by this event, for their start order.
    """

    __slots__ = ("event_id", "type", "e", "offset", "data", "profile", "clock", "too_old", "keys", "begun")

    def __init__(
        self, event_id: str, type_: str, e: int, offset: int, data: Data, profile: Data, clock: int, too_old: bool
    ) -> None:
        self.event_id = event_id
        self.type = type_
        self.e = e
        self.offset = offset
        self.data = data
        self.profile = profile
        self.clock = clock
        self.too_old = too_old
        self.keys: dict[Any, list[tuple[Any, Any]]] | None = None
        self.begun = 0

    def keys_for(self, plan: Plan) -> list[tuple[Any, Any]]:
        """List (key, correlation) of this event under the plan's `same` clause."""
        if plan.keys_of is None:
            return _UNKEYED
        if self.keys is None:
            self.keys = {}
        found = self.keys.get(plan.same)
        if found is None:
            found = self.keys[plan.same] = plan.keys_of(self.data)
        return found
