"""Tasks of a call centre: queued, claimed for a while, ended by an outcome; folded in the order of the log.

Many operators claim at the same moment, on any worker. The log decides: the first claim of a free task holds it until
its lease is over, the others read back that they lost. Who holds it may claim it again with the same lease, which then
holds from that record on; also after its end, if nobody else has claimed meanwhile.
"""

import msgspec

from schemas.events import Event
from schemas.ids import h128
from schemas.references import Reference

FORMAT = 1
REACHED, NOT_REACHED, REFUSED, CALLBACK = "reached", "not_reached", "refused", "callback"
OUTCOMES = (REACHED, NOT_REACHED, REFUSED, CALLBACK)
EXPIRED = "expired"
LOST_MAX = 16  # claims that lost, remembered so that those who made them learn it
_OPEN, _ENDED = b"o", b"e"


class CallTask(msgspec.Struct, frozen=True, array_like=True, tag="task"):
    """One call to be made, a record of the topic. Fields of records are only added at the end.

    `until_ms`: not made after it. `tries`: how often a member who is not reached is called, `again_ms` apart.
    """

    format: int
    message: Reference
    provider: str
    phone: str
    text: str
    at_ms: int
    until_ms: int
    tries: int
    again_ms: int


class CallClaim(msgspec.Struct, frozen=True, array_like=True, tag="claim"):
    """An operator wants a task, a record of the topic. `lease`: names this claim."""

    format: int
    lease: str
    actor: str
    span_ms: int


class CallOutcome(msgspec.Struct, frozen=True, array_like=True, tag="outcome"):
    """What came of a claimed task, a record of the topic; `again_at_ms`: when the member wants to be called."""

    format: int
    lease: str
    outcome: str
    again_at_ms: int = 0


Record = CallTask | CallClaim | CallOutcome


class CallState(msgspec.Struct, frozen=True, array_like=True):
    """One task as it stands. `outcome`: how it ended, empty while open. `told`: the last lease with an outcome."""

    task: CallTask
    due_ms: int
    tried: int = 0
    lease: str = ""
    actor: str = ""
    leased_until_ms: int = 0
    lost: tuple[str, ...] = ()
    told: str = ""
    outcome: str = ""

    def free(self, now_ms: int) -> bool:
        """Tell whether it can be claimed."""
        return not self.outcome and self.due_ms <= now_ms < self.task.until_ms and self.leased_until_ms <= now_ms

    def over(self, now_ms: int) -> bool:
        """Tell whether its time has passed without an end."""
        return not self.outcome and now_ms >= self.task.until_ms and self.leased_until_ms <= now_ms


_encode = msgspec.msgpack.Encoder().encode
_record = msgspec.msgpack.Decoder(Record).decode
_state = msgspec.msgpack.Decoder(CallState).decode


def encode_call_record(record: Record) -> bytes:
    """Spell a record of the topic."""
    return _encode(record)


def is_open(value: bytes) -> bool:
    """Tell of a stored value whether its task is open, without reading it."""
    return value.startswith(_OPEN)


def read_call(value: bytes | None) -> CallState | None:
    """Read a stored value."""
    return _state(value[1:]) if value else None


def read_brief(value: bytes) -> CallState:
    """Read a stored value, but not whom to call and what to say: for many at a time."""
    state = _state(value[1:])
    return msgspec.structs.replace(state, task=msgspec.structs.replace(state.task, phone="", text=""))


def fold_call(before: bytes | None, value: bytes, at_ms: int) -> bytes | None:
    """Take one record in; one that cannot be read, or does not hold, changes nothing. An empty one ends all."""
    if not value:
        return None
    try:
        record = _record(value)
    except msgspec.MsgspecError:
        return before
    state = read_call(before)
    if state is None:
        after = CallState(record, record.at_ms) if isinstance(record, CallTask) else None
    elif isinstance(record, CallClaim):
        after = _claimed(state, record, at_ms)
    else:
        after = _ended(state, record, at_ms) if isinstance(record, CallOutcome) else state
    return None if after is None else (_ENDED if after.outcome else _OPEN) + _encode(after)


def after_outcome(state: CallState, outcome: str) -> str:
    """Say how a task ends with this outcome; empty: it does not."""
    if outcome == CALLBACK:
        return ""
    return "" if outcome == NOT_REACHED and state.tried + 1 < state.task.tries else outcome


def outcome_event(state: CallState, lease: str, outcome: str, again_at_ms: int, at_ms: int) -> Event:
    """Make `call.outcome`; said twice it is one event."""
    message = state.task.message
    return Event(
        type="call.outcome",
        occurred_at_ms=at_ms,
        event_id=h128("call.outcome", message.command_id, lease),
        member_id=message.member_id,
        source="tidings-calls",
        causation_id=message.command_id,
        data=message.facts()
        | {"call_id": message.command_id, "actor": state.actor, "outcome": outcome, "attempt": state.tried + 1}
        | ({"again_at_ms": again_at_ms} if again_at_ms else {}),
    )


def _claimed(state: CallState, claim: CallClaim, at_ms: int) -> CallState:
    renewed = bool(claim.lease) and claim.lease == state.lease  # by its holder, who asks the log whether he still is
    if not renewed and not state.free(at_ms):
        return msgspec.structs.replace(state, lost=(*state.lost, claim.lease)[-LOST_MAX:])
    return msgspec.structs.replace(state, lease=claim.lease, actor=claim.actor, leased_until_ms=at_ms + claim.span_ms)


def _ended(state: CallState, said: CallOutcome, at_ms: int) -> CallState:
    if said.outcome == EXPIRED:
        return _over(state, EXPIRED, "") if state.over(at_ms) else state
    if state.outcome or said.lease != state.lease or not said.lease or said.outcome not in OUTCOMES:
        return state  # another one has it by now, or it has ended
    end = after_outcome(state, said.outcome)
    if end:
        return _over(state, end, said.lease)
    due_ms = said.again_at_ms if said.outcome == CALLBACK else at_ms + state.task.again_ms
    tried = state.tried + (said.outcome == NOT_REACHED)
    return msgspec.structs.replace(
        state, due_ms=due_ms, tried=tried, lease="", actor="", leased_until_ms=0, told=said.lease
    )


def _over(state: CallState, outcome: str, lease: str) -> CallState:
    """End it, and forget whom to call."""
    task = msgspec.structs.replace(state.task, phone="", text="")
    return msgspec.structs.replace(state, task=task, outcome=outcome, lease="", leased_until_ms=0, told=lease)
