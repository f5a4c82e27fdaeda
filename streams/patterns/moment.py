"""One event as patterns see it, at its place in the log."""

from typing import Any

import msgspec

from streams.patterns.expressions import Data
from streams.patterns.plan import Plan

_UNKEYED: list[tuple[Any, Any]] = [(None, None)]


class Moment(msgspec.Struct, gc=False, eq=False):
    """One event of one member at its place in the log. `e` is clamped event time, `clock` the partition's C at it.

    `too_old`: it updates history and moves no pattern. `keys`: correlation keys by `same` clause, filled on demand.
    `begun`: instances begun by this event, for their start order.
    """

    event_id: str
    type: str
    e: int
    offset: int
    data: Data
    profile: Data
    clock: int
    too_old: bool
    keys: dict[Any, list[tuple[Any, Any]]] | None = None
    begun: int = 0

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
