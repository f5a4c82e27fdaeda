"""The oracle of cascades, straight from docs/flows.md: the legs one by one, and every receipt ever heard of them.

Nothing is derived step by step: what is to be done is found anew from the list of all that was told of each leg.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from schemas.ids import command_id
from tests.oracle.definitions import Read
from tests.oracle.language import span_ms

if TYPE_CHECKING:
    from tests.oracle.journeys import Follower

FAILURES = ("undelivered", "bounced", "rejected", "expired", "failed", "cancelled")


def word_of(r: Read) -> str:
    """What an event says of a delivery."""
    kind, _, status = r.type.partition(".")
    if kind == "engagement" or r.type == "delivery.delivered":
        return "delivered"
    unsure = status == "failed" and (r.data or {}).get("reason") in ("outcome_unknown", "reply_lost")
    return status if kind == "delivery" and status in FAILURES and not unsure else ""


@dataclass
class Cascade:
    """One cascade on its way. `leg`: the number of the leg that is awaited; `told`: by leg, the words heard."""

    name: str
    written: Any
    leg: int = -1
    over: bool = False
    told: dict[int, list[str]] = field(default_factory=dict)

    @property
    def shared(self) -> Mapping[str, Any]:
        """What stands beside the legs."""
        return self.written if isinstance(self.written, Mapping) else {}

    @property
    def legs(self) -> list[tuple[str, int | None, str]]:
        """Channel, time and template of each."""
        found = []
        for text in self.written["legs"] if isinstance(self.written, Mapping) else self.written:
            channel, *rest = text.split()
            span = span_ms(rest.pop(0)) if rest and rest[0][0].isdigit() else None
            found.append((channel, span, rest[0] if rest else self.shared.get("template", "")))
        return found

    def step(self, number: int) -> str:
        """The name of a leg's messages."""
        return f"{self.name}.{self.legs[number][0]}"

    def go_on(self, f: "Follower", why: str) -> bool:
        """Ask for the next leg, and the next, until one is sent; True when the cascade has come to its end."""
        while self.leg + 1 < len(self.legs):
            self.leg += 1
            channel, span, template = self.legs[self.leg]
            name = self.step(self.leg)
            f.send(name, {"channel": channel, "template": template, "data": self.shared.get("data", {})})
            why = f.outcomes[name]
            if why == "sent":
                self.told[self.leg] = []
                f.until = f.now + (span_ms(self.shared.get("lifetime", "1d")) if span is None else span)
                f.waiting = {"cascade": self}
                return False
        self.end(f, why)
        return True

    def end(self, f: "Follower", outcome: str, recalled: Sequence[str] = ()) -> None:
        """Come to an end; `recalled`: the commands that are called back."""
        self.over = True
        f.outcomes = f.outcomes | {self.name: outcome}
        f.say("assigned", "cascade", step=self.name, variant=outcome, recalled=sorted(recalled))

    def hear(self, f: "Follower", r: Read, clock: int) -> bool:
        """Read an event; True when it moved the journey."""
        word = word_of(r)
        numbers = [n for n in self.told if command_id(f.id, self.step(n), "") == (r.data or {}).get("command_id")]
        if not word or not numbers:
            return False
        (number,) = numbers
        first = word == "delivered" and "delivered" not in self.told[number]
        failed = word != "delivered" and not self.told[number]
        self.told[number].append(word)
        if not first and not (failed and number == self.leg and not self.over):
            return False
        reached = sorted(n for n, words in self.told.items() if "delivered" in words)
        before = (f.clock, f.due, f.by)
        f.clock, f.due, f.by = clock, None, r.event_id
        if first and len(reached) > 1:
            f.say("noted", "double_delivery", step=self.name)
        if self.over:
            f.clock, f.due, f.by = before
            return False
        f.move(r.e, clock, None, r.event_id, r.profile)
        if first:
            later = [n for n, words in self.told.items() if n > number and not words]
            self.end(f, self.legs[number][0], [command_id(f.id, self.step(n), "") for n in later])
        elif not self.go_on(f, word):
            return True
        f.walk()
        return True
