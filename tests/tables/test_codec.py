"""Member records: what is written is read again, old bytes are understood, torn and newer ones refused."""

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.workload import START_MS
from schemas.errors import StateError
from schemas.events import Record
from streams.campaigns import load_campaign
from streams.engine import PartitionEngine
from streams.patterns.plan import Plan
from tables.codec import FORMAT, decode_member, encode_member, fire_at_of
from tables.digests import DIGEST_BYTES, add, count_of, digest_of, holds
from tables.member_state import Fired, Instance, Member, PlanState
from tables.plan_codec import pack_plan, unpack_plan
from tables.store import MemoryStore

AT = START_MS
OLD: dict[str, Any] = json.loads((Path(__file__).parent / "format1.json").read_text())


def old_members() -> dict[bytes, bytes]:
    return {base64.b64decode(key): base64.b64decode(value) for key, value in OLD["members"].items()}


def plain(key: Any, event_id: str, at: int, offset: int) -> Instance:
    instance = Instance("v1", key, key, event_id, (offset, 1), at, at)
    instance.step, instance.due, instance.wake = 1, at + 100, at + 105
    instance.matched, instance.own = ((0, event_id, at),), (offset,)
    return instance


def fired(event_id: str, due: int, **differs: Any) -> Fired:
    fields: tuple[Any, ...] = (
        "p",
        due - 100,
        due,
        {},
        "p",
        event_id,
        "v1",
        False,
        due + 5,
        "eligible",
        "no_send",
        digest_of(event_id),
    )
    entry = Fired(*fields)
    for name, value in differs.items():
        setattr(entry, name, value)
    return entry


def crowded() -> Member:
    """Build a member with one of everything, plain and not."""
    member = Member("m")
    member.applied, member.hint = 900, AT + 105
    for number in range(16):
        member.recent = add(member.recent, digest_of(f"e{number}"), 16)
    odd = Instance("v2", ("a", 1), ["a", 1], "e3", (50, 2), AT - 30, AT - 10)
    odd.step, odd.e_prev, odd.end, odd.wake, odd.blocked_e = 2, AT - 5, AT + 400, AT + 405, AT - 7
    odd.aliases, odd.last = {"v": {"category": "toys"}}, {"price": 5}
    odd.matched, odd.own = ((0, "e3", AT - 10), (1, "e4", AT - 5)), (50, 51)
    odd.seen, odd.counted, odd.seen_without = {0: [AT, 5]}, ((AT, 5),), {64: [AT, 6]}
    waiting = plain("p5", "e9", AT - 1, 700)
    waiting.due, waiting.end = None, waiting.due
    state = PlanState()
    state.instances = [
        plain("p1", "e7", AT, 800),
        plain("p2", "e1", AT + 3, 810),
        odd,
        plain(None, "x", AT, 820),
        waiting,
    ]
    state.counts, state.counts_version = {"toys": [[AT, 5, "e5"]], ("a", 2): [[AT, 6, "e6"]]}, "shape"
    state.fired = {None: [AT - 50, AT - 20], ("a", 1): [AT]}
    caught = fired("e2", AT - 40, aliases={"v": {"price": 1}}, key=("a",), correlation=["a"])
    state.late = (fired("e0", AT - 60), caught, fired("gone", AT - 9, sent=True))
    state.armed, state.fired_ids = (AT + 9, "2026-03-02", "v2", AT + 99), digest_of("f")
    only_fired = PlanState()
    only_fired.late = (fired("e0", AT - 60),)  # the same anchor in two campaigns
    member.plans = {"b": state, "a": only_fired, "none": PlanState()}
    member.history = {"s": [[AT, 5, ["p1"], None, {"tier": 1}, True]]}
    member.profile = {"email": "a@shop.example"}
    member.notes = [[AT, "b", "suppressed", "limit", b"0123456789abcdef"]]
    member.touches = [[AT, "c", "b", "v1", "i", "email", 5]]
    return member


def as_values(thing: Any) -> Any:
    """Spell a member out for comparison, field by field."""
    if isinstance(thing, Member | PlanState | Instance | Fired):
        left_out = {"epoch", "scheduled", "digest", "hint", "cost", "instance_id", "plain", "as_begun"}
        if isinstance(thing, PlanState) and not thing.counts:
            left_out.add("counts_version")
        names = [name for name in thing.__slots__ if not name.startswith("_")]
        if isinstance(thing, Instance):
            names += [name for name, value in vars(Instance).items() if isinstance(value, property)]
        return {name: as_values(getattr(thing, name)) for name in names if name not in left_out}
    if isinstance(thing, dict):
        return {
            key: as_values(value)
            for key, value in thing.items()
            if not (isinstance(value, PlanState) and value.empty())
        }
    if isinstance(thing, list | tuple):
        return [as_values(value) for value in thing]
    return thing


def test_every_field_is_found_again() -> None:
    member = crowded()
    record = encode_member(member, AT + 105)
    again = decode_member("m", record)
    assert as_values(again) == as_values(member)
    assert encode_member(again, again.hint) == record
    assert fire_at_of(record) == again.hint == AT + 105


def test_key_that_was_a_tuple_is_a_tuple_again() -> None:
    state = decode_member("m", encode_member(crowded(), None)).plans["b"]
    assert state.instances[2].key == ("a", 1)
    assert ("a", 2) in state.counts
    assert ("a", 1) in state.fired
    assert state.late[1].key == ("a",)


def test_member_without_timers_keeps_its_times() -> None:
    member = crowded()
    again = decode_member("m", encode_member(member, None))
    assert again.hint is None
    assert as_values(again) == as_values(member)


@pytest.mark.parametrize("applied", [-1, 0, 7])
def test_new_member_takes_few_bytes(applied: int) -> None:
    member = Member("m")
    member.applied = applied
    record = encode_member(member, None)
    assert len(record) <= 5
    assert as_values(decode_member("m", record)) == as_values(member)


def test_campaign_that_remembers_nothing_leaves_no_bytes() -> None:
    assert b"none" not in encode_member(crowded(), None)


def test_recent_ids_keep_their_order_whatever_is_an_anchor() -> None:
    member = crowded()
    again = decode_member("m", encode_member(member, None))
    assert again.recent == member.recent
    assert add(again.recent, digest_of("new"), 16)[:DIGEST_BYTES] == digest_of("e1")  # the oldest goes first


def test_digest_is_found_only_where_one_begins() -> None:
    digests = add(b"", b"abcdef", 3)
    digests = add(digests, b"ghijkl", 3)
    assert holds(digests, b"ghijkl")
    assert not holds(digests, b"defghi")
    assert holds(add(digests, b"defghi", 3), b"defghi")
    assert count_of(add(add(digests, b"mnopqr", 3), b"stuvwx", 3)) == 3


def test_record_of_format_1_gives_what_it_said() -> None:
    for key, record in old_members().items():
        _, fire_at, applied, recent, profile, history, plans, touches, notes = msgspec.msgpack.decode(record)
        member = decode_member(key.decode(), record)
        assert (member.hint, member.applied, fire_at_of(record)) == (fire_at, applied, fire_at)
        assert (member.profile, member.history, list(member.touches)) == (profile, history, touches)
        assert count_of(member.recent) == len(recent) // 8
        assert [note[4].hex() for note in member.notes] == [note[4] for note in notes[-4:]]
        assert {name: len(state.instances) for name, state in member.plans.items()} == {
            name: len(packed[0]) for name, packed in plans.items()
        }


def test_record_of_format_1_is_written_in_the_present_format() -> None:
    for key, record in old_members().items():
        member = decode_member(key.decode(), record)
        written = encode_member(member, member.hint)
        assert written[1] == FORMAT
        assert as_values(decode_member(key.decode(), written)) == as_values(member)


def test_engine_goes_on_from_a_store_of_format_1_as_the_build_that_wrote_it() -> None:
    store = MemoryStore()
    store.members = old_members()
    store.hints = sorted((due, key) for key, value in store.members.items() if (due := fire_at_of(value)) is not None)
    store.metas = {base64.b64decode(key): base64.b64decode(value) for key, value in OLD["meta"].items()}
    plans = []
    for text in OLD["campaigns"]:
        campaign, findings = load_campaign(text, "old.yaml")
        assert campaign is not None, findings
        plans.append(Plan(campaign))
    records = [Record(OLD["applied"] + n, at, None, value.encode()) for n, (at, value) in enumerate(OLD["log"])]
    epoch = PartitionEngine(0, store, campaigns=plans).run(records)
    firings = [[f.campaign, f.member_id, f.anchor, f.instance_id, f.fired_at] for f in epoch.firings]
    assert firings == OLD["firings"]
    assert [[d.decision_id, d.outcome, d.reason] for d in epoch.decisions] == OLD["decisions"]


def test_record_of_format_2_is_read_as_one_without_journeys() -> None:
    for key, record in old_members().items():
        written = bytearray(encode_member(decode_member(key.decode(), record), None))
        written[1] = 2
        member = decode_member(key.decode(), bytes(written))
        assert member.journeys == ()
        assert as_values(member) == as_values(decode_member(key.decode(), encode_member(member, None)))


@pytest.mark.parametrize("record", [b"\x94\x05\xc0\x05\x00", b"\x92\x05\xa1x", b"\x94\x63\xc0\x05\x00"])
def test_record_of_a_newer_format_is_refused(record: bytes) -> None:
    with pytest.raises(StateError, match="deploy a newer build|not a msgpack array of ours|unreadable"):
        decode_member("m", record)


def test_newer_format_is_named_even_if_the_rest_is_unreadable() -> None:
    with pytest.raises(StateError, match="format 9, this build reads up to"):
        decode_member("m", msgspec.msgpack.encode([9, None, "another form"]))


def test_a_date_that_an_earlier_build_wrote_is_looked_at_after_the_least_lateness() -> None:
    state = PlanState()
    state.armed = (AT, "every/2026-03-02", "v", AT + 9)
    packed = pack_plan(state, 0, 0, [])
    packed[6] = packed[6][:2]
    assert unpack_plan(packed, 0, 0, []).armed == (AT, "every/2026-03-02", "", AT + 5_000)


@pytest.mark.parametrize("cut", [0, 1, 5, 60, -1])
def test_torn_record_is_refused(cut: int) -> None:
    with pytest.raises(StateError, match="unreadable"):
        decode_member("m", encode_member(crowded(), None)[:cut])
