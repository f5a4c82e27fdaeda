"""Short hands for journeys: a campaign text, events by minute, and what came of them."""

from schemas.codec import encode_event
from schemas.events import Event, Record
from streams.engine import PartitionEngine
from streams.policies.contact import judge
from tables.store import MemoryStore

START = 1_772_445_600_000  # Monday, 2 March 2026, 10:00 UTC
MINUTE = 60_000
PROFILE = {"email": "m@x.example", "phone": "+1", "consent": {"email": True, "sms": True}}
HEAD = "campaign: cart\npattern: cart.item.added as c, same product_id\n"


class Shop:
    """One partition whose campaigns are published on its log; `restart` makes a new engine on the same store."""

    def __init__(self, *, arbiter=judge):
        self.store = MemoryStore()
        self.arbiter = arbiter
        self.offset = 0
        self.decisions, self.commands, self.letters, self.told = [], [], [], []
        self.counts = {}
        self.restart()

    def restart(self):
        self.engine = PartitionEngine(0, self.store, arbiter=self.arbiter)

    def put(self, minute, type_, member="m", late_s=0, **data):
        """Append an event that happened `late_s` before it was read."""
        at = START + round(minute * MINUTE)
        event = Event(type_, at - late_s * 1000, f"{type_}@{minute:g}/{self.offset}", member, data)
        epoch = self.engine.run([Record(self.offset, at, None, encode_event(event))])
        self.offset += 1
        self.store.write(epoch.members, epoch.meta, epoch.hints, None)
        self.engine.written(epoch)
        self.decisions += epoch.decisions
        self.commands += epoch.commands
        self.told += epoch.member_commands
        self.letters += epoch.dead_letters
        for name, count in epoch.counters.items():
            self.counts[name] = self.counts.get(name, 0) + count
        return self

    def publish(self, minute, flow, head=HEAD):
        return self.put(minute, "campaign.published", None, campaign="cart", yaml=f"{head}{flow}", path="c.yaml")

    def withdraw(self, minute):
        return self.put(minute, "campaign.withdrawn", None, campaign="cart")

    def join(self, minute=0, **profile):
        return self.put(minute, "member.registered", **{**PROFILE, **profile})

    def tick(self, minute):
        return self.put(minute, "tick", None)

    def said(self):
        """List what was decided, as text: `outcome reason step @minute`."""
        return [
            f"{d.outcome} {d.reason} {d.inputs.get('step', '-')} @{(d.decided_at_ms - START) / MINUTE:g}"
            for d in self.decisions
        ]

    def sent(self):
        return [(c.step, round((c.decided_at_ms - START) / MINUTE, 2)) for c in self.commands]

    def journeys(self, member="m"):
        return (self.engine.member_view(member) or {"journeys": []})["journeys"]
