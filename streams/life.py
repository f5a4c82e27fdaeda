"""When a campaign begins journeys: between its dates, and as long as its operator has not said otherwise.

Dates are judged on the partition's clock, half-open: `start <= C < end`. What an operator says is a control record on
every partition of the log, so a replay says it at the same place.
"""

from collections.abc import Iterable
from typing import Final

from schemas.campaign import Campaign
from schemas.events import CAMPAIGN_DRAINED, CAMPAIGN_PAUSED, CAMPAIGN_RESUMED
from streams.patterns.plan import Plan
from tables.member_state import NEVER

LIVE, SCHEDULED, ENDED = "live", "scheduled", "ended"
PAUSED, DRAINING, STOPPED = "paused", "draining", "stopped"
SAID: Final = {CAMPAIGN_PAUSED: PAUSED, CAMPAIGN_DRAINED: DRAINING}
LOOK_MS_MAX: Final = 3_600_000
PAUSE_STEP_MS: Final = 15 * 60_000  # how often what a pause holds asks again: what waited leaves spread over as long
NEVER_MS: Final = 2**62  # in meta
HELD_MS: Final = 8 * 86_400_000  # a date is decided at most 7 days after it came: the longest lateness
HELD_MAX: Final = 8  # spans; an operator who pauses more often within a lateness is forgotten the first ones


class Life:
    """What operators said of the campaigns of one partition.

    `said`: by id, `paused` or `draining`; others run. `stops`: by id, the offset of the record that stopped it last:
    journeys begun before it are over. `held`: by id, the last spans of the clock in which it was paused or drained,
    oldest first, the end NEVER_MS while it still is: a date is decided a lateness after it came.
    """

    __slots__ = ("said", "stops", "held")

    def __init__(self) -> None:
        """Begin with nothing said."""
        self.said: dict[str, str] = {}
        self.stops: dict[str, int] = {}
        self.held: dict[str, list[tuple[int, int]]] = {}

    def follow(self, name: str, type_: str, clock_ms: int, *, runs: bool) -> bool:
        """Take a control record about a campaign; tell whether it changes anything. `runs`: there is such a campaign.

        A pause of a draining campaign makes it paused: resumed, it begins journeys again.
        """
        if type_ == CAMPAIGN_RESUMED:
            return self.release(name, clock_ms)
        wanted = SAID[type_]
        if not runs or self.said.get(name) == wanted:
            return False
        if name not in self.said:
            known = [span for span in self.held.get(name, ()) if span[1] > clock_ms - HELD_MS]
            self.held[name] = [*known, (clock_ms, NEVER_MS)][-HELD_MAX:]
        self.said[name] = wanted
        return True

    def release(self, name: str, clock_ms: int) -> bool:
        """Let a campaign begin again; tell whether it was paused or drained."""
        if self.said.pop(name, None) is None:
            return False
        if name in self.held:
            self.held[name][-1] = (self.held[name][-1][0], clock_ms)
        return True

    def forget(self, name: str) -> None:
        """Learn that a campaign is over."""
        self.said.pop(name, None)
        self.held.pop(name, None)

    def begins(self, plan: Plan, clock_ms: int) -> bool:
        """Tell whether a live campaign begins something at a clock."""
        return self.state_of(plan, clock_ms) == LIVE

    def state_of(self, plan: Plan, clock_ms: int) -> str:
        """Name the state of a live campaign at a clock."""
        return self.said.get(plan.id) or state_by_dates(plan.campaign, clock_ms)

    def free_at(self, name: str, due_ms: int) -> bool:
        """Tell whether operators let a campaign begin something at a clock not long ago, whatever its dates."""
        if name in self.said and name not in self.held:  # a store from before `held`
            return False
        return all(not begin <= due_ms < end for begin, end in self.held.get(name, ()))

    def pauses(self, name: str) -> bool:
        """Tell whether a campaign is paused."""
        return bool(self.said) and self.said.get(name) == PAUSED


def state_by_dates(campaign: Campaign, clock_ms: int) -> str:
    """Name where a clock stands to a campaign's dates: `scheduled`, `live` or `ended`."""
    if campaign.start_ms is not None and clock_ms < campaign.start_ms:
        return SCHEDULED
    return ENDED if campaign.end_ms is not None and clock_ms >= campaign.end_ms else LIVE


def next_turn(plans: Iterable[Plan], clock_ms: int) -> int:
    """Return the clock at which the next of the campaigns' dates is reached."""
    dates = [date for plan in plans for date in (plan.campaign.start_ms, plan.campaign.end_ms) if date is not None]
    return min((date for date in dates if date > clock_ms), default=NEVER)


def look_again(clock_ms: int, since_ms: int) -> int:
    """Return when a command that a pause holds since a clock asks again.

    It has no lifetime, and a pause may last for months: what has waited long asks less often, once an hour.
    """
    return clock_ms + min(max(PAUSE_STEP_MS, (clock_ms - since_ms) // 8), LOOK_MS_MAX)


def hold_until(clock_ms: int, expires_ms: int) -> int:
    """Return when a message that a pause holds asks again: soon, and once more just before it is of no use."""
    return min(clock_ms + PAUSE_STEP_MS, expires_ms - 1)
