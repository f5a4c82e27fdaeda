"""What must be true once a run has come to rest: DESIGN §5's invariants by their results, liveness, bounds, the oracle.

The reference is the pure core run over the partition's final log, one record an epoch, into a store of its own.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from agents.outbox import dead_letter_entry
from agents.topics import ATTRIBUTIONS, COMMANDS_OF, DEAD_LETTERS, DECISIONS, MEMBER_COMMANDS
from schemas.codec import encode_attribution, encode_command, encode_decision
from schemas.commands import SendMessage, lane_of
from schemas.events import CAMPAIGN_STOPPED, Record
from schemas.member_commands import encode_member_command
from streams.engine import PartitionEngine
from streams.epoch import Epoch
from streams.patterns.plan import Plan
from streams.registry import named_meta
from tables.codec import decode_member, fire_at_of
from tables.digests import count_of
from tables.member_state import (
    FIRED_IDS_MAX,
    FIRED_MAX,
    HISTORY_MAX,
    INSTANCES_MAX,
    INSTANCES_PER_PLAN_MAX,
    JOURNEYS_MAX,
    NOTES_MAX,
    RECENT_IDS_MAX,
    TOUCHES_MAX,
)
from tables.store import MemoryStore
from tidings.simulation.broker import Broker, Log
from tidings.simulation.consumer import FIRINGS, json_bytes
from tidings.simulation.process import Process
from tidings.simulation.workload import Json, PartitionWork, Source
from tidings.simulation.world import World

PROMPT_MS = 8_000  # after troubles have ended: beats, clock skews, a tick and an epoch; less than a session
TOPICS = (FIRINGS, *COMMANDS_OF.values(), MEMBER_COMMANDS, DECISIONS, ATTRIBUTIONS, DEAD_LETTERS)

Said = dict[str, list[bytes]]


def spoken(epoch: Epoch) -> Said:
    """Spell an epoch's outputs as the outbox does, by topic."""
    letters = [dead_letter_entry(letter) for letter in epoch.dead_letters]
    lanes: Said = {topic: [] for topic in COMMANDS_OF.values()}
    for command in epoch.commands:
        lanes[COMMANDS_OF[lane_of(command)]].append(encode_command(command))
    return lanes | {
        FIRINGS: [json_bytes(firing) for firing in epoch.firings],
        MEMBER_COMMANDS: [encode_member_command(command) for command in epoch.member_commands],
        DECISIONS: [encode_decision(decision) for decision in epoch.decisions],
        ATTRIBUTIONS: [encode_attribution(attribution) for attribution in epoch.attributions],
        DEAD_LETTERS: [b"|".join([value or b"", *(v for _, v in headers)]) for _, value, headers in letters],
    }


def pure_replay(partition: int, log: Log, plans: list[Plan] | None) -> tuple[Said, list[Json], MemoryStore]:
    """Run the core alone over a log, record by record. The list: the messages, each with its place in the log."""
    store = MemoryStore()
    engine = PartitionEngine(partition, store, campaigns=plans)
    engine.breathe = lambda: None  # in Python, so that an engine that works for ever can be ended by a signal
    said: Said = {topic: [] for topic in TOPICS}
    sent: list[Json] = []
    for place, r in enumerate(log.records):  # offsets have holes
        epoch = engine.run([Record(r.offset, r.timestamp, r.key, r.value)])
        for topic, values in spoken(epoch).items():
            said[topic] += values
        sent += _placed(place, epoch)
        store.write(epoch.members, epoch.meta, epoch.hints, None)
        engine.written(epoch)
    return said, sent, store


def _placed(place: int, epoch: Epoch) -> list[Json]:
    timers = {d.command_id: d.due_ms is not None for d in epoch.decisions if d.outcome == "eligible"}
    return [
        {**msgspec.to_builtins(command), "offset": place, "timers": timers.get(command.command_id, False)}
        for command in epoch.commands
        if isinstance(command, SendMessage)
    ]


class Judge:
    """Compares a run that has come to rest with what its logs ask for."""

    def __init__(self, world: World, broker: Broker, works: list[PartitionWork], source: Source) -> None:
        self._world = world
        self._broker = broker
        self._works = works
        self._source = source
        self.firings = 0
        self.journeys = 0
        self.bounds = 0

    def judge(self, owners: Mapping[int, Process], committed: Mapping[int, int], calm_ms: int) -> None:
        """Accuse of everything that is not as it must be. `calm_ms`: when troubles had ended."""
        for partition, work in enumerate(self._works):
            log = self._broker.events[partition]
            said, sent, store = pure_replay(partition, log, work.plans)
            events = self._events(partition)
            self._outputs(partition, said)
            self._oracle(partition, work, events, said)
            if work.guarded:
                self._exceeded(partition, events, sent)
            self._rest(partition, owners.get(partition), committed.get(partition, 0))
            self._states(partition, owners.get(partition), store)
            self._bounds(partition, store)
            self._times(partition, work, calm_ms)

    def _emitted(self, topic: str, partition: int) -> list[bytes]:
        return [r.value or b"" for r in self._broker.outputs.get(topic, ()) if r.origin == partition]

    def _outputs(self, partition: int, said: Said) -> None:
        """Everything that was said, and nothing else: repeats have equal bytes."""
        for topic in TOPICS:
            got, want = set(self._emitted(topic, partition)), set(said[topic])
            for value in sorted(want - got)[:1]:
                self._world.accuse(f"{topic} lost", f"partition {partition}: {len(want - got)}, first {value[:400]!r}")
            for value in sorted(got - want)[:1]:
                text = f"partition {partition}: {len(got - want)} not asked for, first {value[:400]!r}"
                self._world.accuse(f"{topic} wrong", text)
        for value in said[DEAD_LETTERS]:
            if b"campaign-failed" in value:
                self._world.accuse("campaign failed", f"partition {partition}: {value[-200:]!r}")

    def _events(self, partition: int) -> list[Json]:
        """Give the log as the oracle reads it: the offset is the index."""
        events: list[Json] = []
        for r in self._broker.events[partition].records:
            event = msgspec.json.decode(r.value or b"{}")
            event.setdefault("event_id", f"events/{partition}/{r.offset}")
            events.append({**event, "appended_at": r.timestamp})
        return events

    def _exceeded(self, partition: int, events: list[Json], sent: list[Json]) -> None:
        """Caps, budgets, quiet hours and shared addresses, counted again from what went out."""
        found, looked = self._source.exceeded(events, sent, partition)
        self.bounds += looked
        for text in found[:1]:
            self._world.accuse("exceeded", f"partition {partition}: {len(found)}, first {text}")

    def _oracle(self, partition: int, work: PartitionWork, events: list[Json], said: Said) -> None:
        if work.edited or (_evicted(said) and any(event["type"] == CAMPAIGN_STOPPED for event in events)):
            return  # what a stopped campaign holds counts towards a member's bound until it is looked at
        lines, firings = self._source.journeys(work.campaigns, events, partition)
        self._journeys(partition, work.campaigns, lines, said)
        want = {f["instance_id"]: f for f in firings}
        self.firings += len(want)
        got: dict[str, list[Any]] = {}
        for value in self._emitted(FIRINGS, partition):
            firing = msgspec.json.decode(value)
            got.setdefault(firing["instance_id"], []).append(firing)
        for name in sorted(want.keys() | got.keys()):
            expected = want.get(name)
            if expected is None or not any(_same(firing, expected) for firing in got.get(name, ())):
                core = any(name.encode() in value for value in said[FIRINGS])
                text = (
                    f"partition {partition}, instance {name}: oracle {expected}, got {got.get(name)} "
                    f"(the core alone {'has it' if core else 'has it not'})"
                )
                self._world.accuse("oracle", text)
                return

    def _journeys(self, partition: int, campaigns: list[Json], lines: list[Json], said: Said) -> None:
        """What journeys and messages are told, by oracle and core; what was emitted is compared with the core's."""
        decisions = [msgspec.json.decode(value) for value in said[DECISIONS]]
        if any(d["reason"] == "journeys_full" for d in decisions):
            return  # the oracle knows no bound
        flows = {c["campaign"] for c in campaigns if "flow" in c}
        again = _fired_again(said[FIRINGS])
        own = [d for d in decisions if (d["inputs"].get("step") if d["campaign"] in flows else _of_message(d))]
        keys = ("instance_id", "outcome", "reason", "decided_at_ms")
        got = Counter(tuple(d[key] for key in keys) for d in own if d["instance_id"] not in again)
        lines = [line for line in lines if line["instance"] not in again]
        want = Counter((line["instance"], line["outcome"], line["reason"], line["at"]) for line in lines)
        self.journeys += len(lines)
        if got != want:
            text = f"partition {partition}: oracle has {list(want - got)[:3]}, the core {list(got - want)[:3]}"
            self._world.accuse("journeys", text)

    def _rest(self, partition: int, owner: Process | None, committed: int) -> None:
        """Liveness: everything read, every timer fired, everything committed."""
        log = self._broker.events[partition]
        if owner is None:
            self._world.accuse("liveness", f"partition {partition} has no owner")
            return
        engine: Any = owner.worker.tasks[partition].engine
        last = log.records[-1].offset if log.records else -1
        if engine.applied_offset != last:
            self._world.accuse("liveness", f"partition {partition}: applied {engine.applied_offset} of {last}")
        if engine.next_fire_ms is not None and engine.next_fire_ms <= self._world.now:
            self._world.accuse("liveness", f"partition {partition}: a timer of {engine.next_fire_ms} never fired")
        if committed != last + 1:
            self._world.accuse("liveness", f"partition {partition}: committed {committed} of {last + 1}")

    def _states(self, partition: int, owner: Process | None, reference: MemoryStore) -> None:
        """The changelog's fold, the owner's store and a fresh replay hold the same bytes; hints follow from members."""
        fold = self._broker.fold[partition]
        compacted = {r.key: r.value for r in self._broker.changelog[partition].records if r.value is not None}
        live = {key: value for key, value in compacted.items() if fold.get(key or b"") is not None}
        if live != fold:
            self._world.accuse("I7", f"partition {partition}: the compacted changelog folds to something else")
        if owner is not None:
            store = owner.disk[partition]
            if {**store.members, **store.metas} != fold:
                self._world.accuse("I7", f"partition {partition}: store of {owner.name} is not the changelog's fold")
            hints = sorted((due, k) for k, v in store.members.items() if (due := fire_at_of(v)) is not None)
            if hints != store.hints:
                self._world.accuse("hints", f"partition {partition}: {store.hints}, members say {hints}")
        expected = {**reference.members, **named_meta(reference.metas)}
        found = {key: value for key, value in fold.items() if key[:1] != b"\x00"} | named_meta(fold)
        for key in sorted(expected.keys() | found.keys()):
            if expected.get(key) != found.get(key):
                text = f"partition {partition}, {key!r}: {_difference(found.get(key), expected.get(key))}"
                self._world.accuse("states", text)
                return

    def _bounds(self, partition: int, store: MemoryStore) -> None:
        for key, value in store.members.items():
            member = decode_member(key.decode(), value)
            states = member.plans.values()
            sizes = [
                (member.live_instances(), INSTANCES_MAX),
                (max((len(s.instances) for s in states), default=0), INSTANCES_PER_PLAN_MAX),
                (max((len(s.late) for s in states), default=0), FIRED_MAX),
                (max((count_of(s.fired_ids) for s in states), default=0), FIRED_IDS_MAX),
                (max((len(h) for h in member.history.values()), default=0), HISTORY_MAX),
                (count_of(member.recent), RECENT_IDS_MAX),
                (len(member.touches), TOUCHES_MAX),
                (len(member.notes), NOTES_MAX),
                (len(member.journeys), JOURNEYS_MAX),
            ]
            if any(size > bound for size, bound in sizes):
                self._world.accuse("bounds", f"partition {partition}, {key!r}: {sizes}")

    def _times(self, partition: int, work: PartitionWork, calm_ms: int) -> None:
        """Nothing before due + L, nothing before its cause; once troubles have ended, nothing long after it is due."""
        first: dict[bytes, int] = {}
        for record in self._broker.outputs.get(FIRINGS, ()):
            if record.origin == partition:
                first.setdefault(record.value or b"", record.written_ms)
        for value, written_ms in first.items():
            firing = msgspec.json.decode(value)
            if written_ms < firing["fired_at"]:
                self._world.accuse("too early", f"written {written_ms}, before its cause: {firing}")
            if firing["due"] is None or work.edited:
                continue
            ripe = firing["due"] + work.lateness_ms[firing["campaign"]]
            if firing["fired_at"] < ripe:
                self._world.accuse("too early", f"fired before {ripe}: {firing}")
            if written_ms - max(ripe, calm_ms) > PROMPT_MS:
                self._world.accuse("liveness", f"written {written_ms - ripe} ms after it was due: {firing}")


def _of_message(decision: Json) -> bool:
    """Tell whether a decision of a plain send is the arbiter's, or ends what it held: not the campaign's own word."""
    repeated = decision["reason"] == "duplicate" and "address" not in decision["inputs"]
    return decision["outcome"] in ("eligible", "held", "suppressed", "exited") and not (
        repeated or decision["reason"] in ("if_still", "once", "limit", "cooldown", "no_send", "campaign_failed")
    )


def _evicted(said: Said) -> bool:
    return any(msgspec.json.decode(value)["reason"] == "instances_full" for value in said[DECISIONS])


def _fired_again(firings: list[bytes]) -> set[str]:
    """Name instances that fired again when their member had forgotten the firing; the oracle forgets none."""
    fired: dict[tuple[str, str], list[str]] = {}
    again: set[str] = set()
    for firing in map(msgspec.json.decode, firings):
        known, name = fired.setdefault((firing["member_id"], firing["campaign"]), []), firing["instance_id"]
        if name in known and len(known) - known.index(name) > FIRED_IDS_MAX:
            again.add(name)
        known.append(name)
    return again


def _same(firing: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    return all(firing[name] == value for name, value in expected.items())


def _difference(got: bytes | None, want: bytes | None) -> str:
    """Name the first place at which two stored values differ."""
    if got is None or want is None:
        return f"got {got!r}, a replay gives {want!r}"
    return _first_difference(msgspec.msgpack.decode(got), msgspec.msgpack.decode(want), "")


def _first_difference(got: Any, want: Any, path: str) -> str:
    if isinstance(got, dict) and isinstance(want, dict):
        if list(got) == list(want):
            pairs = [(got[name], want[name], f"{path}.{name}") for name in got]
            return next((_first_difference(*pair) for pair in pairs if pair[0] != pair[1] or _order(pair)), path)
    elif isinstance(got, list) and isinstance(want, list) and len(got) == len(want):
        pairs = [(a, b, f"{path}[{n}]") for n, (a, b) in enumerate(zip(got, want, strict=True))]
        return next((_first_difference(*pair) for pair in pairs if pair[0] != pair[1] or _order(pair)), path)
    return f"at {path}: got {got!r}, a replay gives {want!r}"


def _order(pair: tuple[Any, Any, str]) -> bool:
    return bool(msgspec.msgpack.encode(pair[0]) != msgspec.msgpack.encode(pair[1]))
