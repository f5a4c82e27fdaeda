"""What a run left behind, against what its log asks for: the oracle's commands, a pure replay's records, the mails."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from confluent_kafka import Consumer, Message

from agents.delivery_state import SENT_TOPIC, decode_entry
from agents.topics import ATTRIBUTIONS, CHANGELOG, COMMANDS, DECISIONS, EVENTS
from schemas.codec import decode_event, encode_attribution, encode_command, encode_decision
from schemas.errors import DecodeError
from schemas.events import Event, Record
from schemas.ids import event_id_at
from streams.replay import replay
from tests.faults.window import Resend, Step, in_window
from tests.oracle.evaluate import firings
from tidings.config import Settings
from tidings.demo.verify import dump

RECEIPTS = ("delivery.", "engagement.")
Ids = dict[str, set[bytes]]
"""Every different byte string that was written under an id."""


@dataclass
class Dump:
    """What the topics hold. `sent`: every step of every command, in order. `resends`: see `tests.faults.window`."""

    events: dict[int, list[Record]] = field(default_factory=dict)
    commands: Ids = field(default_factory=dict)
    decisions: Ids = field(default_factory=dict)
    attributions: Ids = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)
    sent: dict[str, list[Step]] = field(default_factory=dict)
    resends: Mapping[str, Sequence[Resend]] = field(default_factory=dict)
    changelog: tuple[int, int] = (0, 0)  # records found, offsets used


def read_dump(settings: Settings) -> Dump:
    """Read all topics from beginning to end."""
    found = Dump()
    consumer = Consumer(settings.confluent_consumer("lab-dump", {"log_level": 0}, fetch_wait_max_ms=20))
    try:
        for message in dump(consumer, EVENTS):
            records = found.events.setdefault(message.partition() or 0, [])
            records.append(Record(message.offset() or 0, message.timestamp()[1], _key(message), _value(message)))
        for topic, ids, name in (
            (COMMANDS, found.commands, "command_id"),
            (DECISIONS, found.decisions, "decision_id"),
            (ATTRIBUTIONS, found.attributions, "attribution_id"),
        ):
            for message in dump(consumer, topic):
                raw = _value(message) or b"{}"
                ids.setdefault(msgspec.json.decode(raw)[name], set()).add(raw)
                found.records[topic] = found.records.get(topic, 0) + 1
        for message in dump(consumer, SENT_TOPIC):
            entry = _value(message)
            if entry is not None:
                step = Step(decode_entry(entry), message.offset() or 0, message.timestamp()[1])
                found.sent.setdefault((_key(message) or b"").decode(), []).append(step)
        ends: dict[int, int] = {}
        count = 0
        for message in dump(consumer, CHANGELOG):
            count += 1
            ends[message.partition() or 0] = (message.offset() or 0) + 1
        found.changelog = (count, sum(ends.values()))
    finally:
        consumer.close()
    return found


@dataclass
class Verdict:
    """`wrong`: by check, the ids that fail it; empty when all is well. `counts`: what there was to check."""

    wrong: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    window: list[str] = field(default_factory=list)  # e-mails twice, inside the documented window, with the reason

    def accuse(self, check: str, ids: Iterable[str]) -> None:
        found = sorted(ids)
        if found:
            self.wrong[check] = found


def judge(
    found: Dump, campaigns: Sequence[Mapping[str, Any]], mailed: Mapping[str, int], rows: Mapping[str, Sequence[str]]
) -> Verdict:
    """Compare.

    Args:
        found: the topics.
        campaigns: as published at the head of the log.
        mailed: how often each mail arrived, by command id.
        rows: ids in each of ClickHouse's tables, as often as they stand there.
    """
    verdict = Verdict()
    _against_oracle(verdict, found, campaigns)
    wanted = read_replay(found)
    for name, got in (
        ("commands", found.commands),
        ("decisions", found.decisions),
        ("attributions", found.attributions),
    ):
        want = wanted[name]
        verdict.accuse(f"{name} lost, says a replay", want.keys() - got.keys())
        verdict.accuse(f"{name} not asked for, says a replay", got.keys() - want.keys())
        verdict.accuse(f"{name} twice with different bytes", (i for i, raws in got.items() if len(raws) > 1))
        verdict.accuse(f"{name} with other bytes than a replay's", (i for i in got if i in want and got[i] - want[i]))
        verdict.counts[name] = len(got)
        verdict.counts[f"{name} repeated"] = found.records.get(name, 0) - len(got)
    _mails(verdict, found, mailed)
    _rows(verdict, found, rows)
    verdict.counts["events"] = sum(len(records) for records in found.events.values())
    return verdict


def event_lines(partition: int, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Spell a partition's log as the oracle and `python -m tidings replay` read it: time is the broker's."""
    lines = []
    for record in records:
        try:
            decode_event(record.value)
            line = json.loads(record.value or b"")
            line.setdefault("event_id", f"{EVENTS}/{partition}/{record.offset}")
        except (DecodeError, ValueError):  # for the engine a dead letter; for the clock a record like any other
            line = {"type": "tick", "member_id": None, "occurred_at": record.append_ms}
        lines.append({**line, "appended_at": record.append_ms})
    return lines


def _against_oracle(verdict: Verdict, found: Dump, campaigns: Sequence[Mapping[str, Any]]) -> None:
    wanted = {
        firing["command_id"]
        for partition, records in found.events.items()
        for firing in firings(campaigns, event_lines(partition, records))
    }
    verdict.accuse("commands lost, says the oracle", wanted - found.commands.keys())
    verdict.accuse("commands not asked for, says the oracle", found.commands.keys() - wanted)
    verdict.counts["oracle's commands"] = len(wanted)


def read_replay(found: Dump) -> dict[str, Ids]:
    """What the pure core says about the same log."""
    ids: dict[str, Ids] = {"commands": {}, "decisions": {}, "attributions": {}}
    for partition, records in sorted(found.events.items()):
        for epoch in replay(((r, _event(r)) for r in records), None, partition=partition, topic=EVENTS):
            for command in epoch.commands:
                ids["commands"].setdefault(command.command_id, set()).add(encode_command(command))
            for decision in epoch.decisions:
                ids["decisions"].setdefault(decision.decision_id, set()).add(encode_decision(decision))
            for credit in epoch.attributions:
                ids["attributions"].setdefault(credit.attribution_id, set()).add(encode_attribution(credit))
    return ids


def _mails(verdict: Verdict, found: Dump, mailed: Mapping[str, int]) -> None:
    verdict.accuse("mails lost", found.commands.keys() - mailed.keys())
    verdict.accuse("mails nobody commanded", mailed.keys() - found.commands.keys())
    outside: list[str] = []
    for ident, times in sorted(mailed.items()):
        if times > 1:
            steps = found.sent.get(ident, [])
            told = " ".join(f"{step.entry.status}/{step.entry.attempt}@{step.offset}" for step in steps)
            resends = found.resends.get(ident, ())
            inside = in_window(steps, times, resends)
            (verdict.window if inside else outside).append(f"{ident} x{times}: {told} {list(resends) or ''}".strip())
    verdict.accuse("mails twice, outside the window", outside)
    verdict.counts["mails"] = len(mailed)
    verdict.counts["mails twice, inside the window"] = len(verdict.window)


def _rows(verdict: Verdict, found: Dump, rows: Mapping[str, Sequence[str]]) -> None:
    receipts = {
        event.event_id or event_id_at(EVENTS, partition, record.offset)
        for partition, records in found.events.items()
        for record in records
        if (event := _event(record)) is not None and event.type.startswith(RECEIPTS)
    }
    tables: dict[str, set[str]] = {
        "messages": set(found.commands),
        "decisions": set(found.decisions),
        "attributions": set(found.attributions),
        "receipts": receipts,
    }
    for table, want in tables.items():
        got = set(rows[table])
        verdict.accuse(f"rows lost in {table}", want - got)
        verdict.accuse(f"rows of nothing in {table}", got - want)
        verdict.counts[f"rows of {table}"] = len(got)


def _event(record: Record) -> Event | None:
    try:
        return decode_event(record.value)
    except DecodeError:
        return None


def _value(message: Message) -> bytes | None:
    raw = message.value()
    return raw.encode() if isinstance(raw, str) else raw


def _key(message: Message) -> bytes | None:
    raw: Any = message.key()
    return raw.encode() if isinstance(raw, str) else raw
