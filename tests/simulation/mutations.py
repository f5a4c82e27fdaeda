"""Guards taken away one by one: what each mutation breaks must make some seed red.

A mutation changes the real engine or worker in this process, for the time of a `with` block. Those that rewrite source
text fail loudly when the text is no longer there: then the guard has moved, and the mutation must follow it.
"""

import asyncio
import collections
import contextlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

import agents.batching as batching
import agents.engine_worker as engine_worker
import agents.lease as lease
import agents.outbox as outbox
import agents.pacemaker as pacemaker
import streams.arbiter as arbiter
import streams.engine as engine
import streams.intake as intake
import streams.patterns.match as match
import streams.patterns.plan as plan
import streams.policies.caps as caps
import streams.policies.judge as judge
import streams.policies.local_time as local_time
import streams.policies.receipts as receipts
import streams.registry as registry
import tables.hot as hot
import tables.store as store
import tidings.simulation.disk as disk

Undo = Callable[[], None]


class Mutation(NamedTuple):
    """One guard: its name, what is done to it, what that is expected to break."""

    name: str
    guard: str
    apply: Callable[[], list[Undo]]


def put(owner: Any, name: str, value: Any) -> Undo:
    before = owner.__dict__[name]
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before)


def rewrite(owner: Any, name: str, *changes: tuple[str, str]) -> list[Undo]:
    """Replace text in the source of a function or method."""
    function = owner.__dict__[name]
    text = textwrap.dedent(inspect.getsource(function))
    for old, new in changes:
        if text.count(old) < 1:
            raise AssertionError(f"{name}: no longer says {old!r}; move the mutation to where the guard is now")
        text = text.replace(old, new)
    home = sys.modules[function.__module__]
    scope: dict[str, Any] = {}
    code = compile(f"from __future__ import annotations\n{text}", f"<mutated {name}>", "exec")
    exec(code, home.__dict__ | {"__class__": owner}, scope)
    changed = scope[name]
    if "super()" in text:
        raise AssertionError(f"{name}: uses super(); rewrite it by hand")
    live = type(function)(changed.__code__, home.__dict__, name, function.__defaults__, function.__closure__)
    live.__kwdefaults__ = function.__kwdefaults__
    return [put(owner, name, live)]


def outputs_not_awaited() -> list[Undo]:
    original = engine_worker.Flight.__init__

    def init(self: Any, epoch: Any, events: Any, outputs: Any, began: float) -> None:
        original(self, epoch, events, [], began)

    return [put(engine_worker.Flight, "__init__", init)]


def silence_ignored() -> list[Undo]:
    return rewrite(lease.Lease, "granted", ("while self.silence_s > self.silent_s:", "while False:"))


def changelog_not_awaited() -> list[Undo]:
    return rewrite(outbox.Outbox, "send_changelog", ("offset = await sent.last_offset()", "offset = None"))


def changelog_all_at_once() -> list[Undo]:
    return rewrite(outbox.Outbox, "send_changelog", ("entries, before_each)", "entries)"))


def meta_before_members() -> list[Undo]:
    return rewrite(
        outbox.Outbox,
        "send_changelog",
        ("for key, value in epoch.members.items()]", "for key, value in epoch.meta.items()]"),
        ("entries += [(key, value, []) for key, value in epoch.meta.items()]",
         "entries += [(key, value, []) for key, value in epoch.members.items()]"),
    )  # fmt: skip


def changelog_offset_apart() -> list[Undo]:
    original = disk.Handle.write

    def write(self: Any, members: Any, meta: Any, hints: Any, changelog_offset: int | None) -> None:
        self.store.write({}, {}, [], changelog_offset)
        asyncio.get_running_loop().call_soon(lambda: original(self, members, meta, hints, changelog_offset))

    return [put(disk.Handle, "write", write)]


def lateness_ignored() -> list[Undo]:
    original = plan.Plan.__init__

    def init(self: Any, campaign: Any) -> None:
        original(self, msgspec.structs.replace(campaign, lateness_ms=0))

    return [put(plan.Plan, "__init__", init)]


def clocks_never_change() -> list[Undo]:
    undo = rewrite(local_time, "quiet_until", ("if local(end, zone).utcoffset() == shown.utcoffset()", "if True"))
    return [*undo, put(judge, "quiet_until", local_time.quiet_until)]


async def _nothing(*_: Any) -> None:
    """Do nothing."""


def one_message_too_many() -> list[Undo]:
    undo = rewrite(caps, "judge_caps", ("allowed = cap.count if", "allowed = 1 + cap.count if"))
    return [*undo, put(judge, "judge_caps", caps.judge_caps)]


def _never(*_: Any) -> bool:
    return False


def ack_of_any_generation() -> list[Undo]:
    """Late acks come only from a revoke that does not wait, so both guards are taken away."""
    return [
        put(engine_worker.EngineWorker, "_quiesce", _nothing),
        put(engine_worker.EngineWorker, "_released", _nothing),
        *rewrite(
            batching.BatchConsumer,
            "ack",
            ("if message.generation_id == self.app.consumer_generation_id:", "if True:"),
            ("self.tracker.ack(message.tp, message.offset)", "self.tracker.force(message.tp, message.offset)"),
        ),
        _force(),
    ]


def _force() -> Undo:
    """An ack that is believed, whatever was delivered: what Faust's own bookkeeping does."""

    def force(self: Any, tp: Any, offset: int) -> bool:
        if offset not in self._delivered.setdefault(tp, collections.deque()):
            self._delivered[tp].append(offset)
        self._acked.setdefault(tp, set()).add(offset)
        return True

    batching.OffsetTracker.force = force  # type: ignore[attr-defined]
    return lambda: delattr(batching.OffsetTracker, "force")


MUTATIONS = [
    Mutation("outputs not awaited", "I2: outputs acked before the changelog is sent", outputs_not_awaited),
    Mutation("changelog not awaited", "I3: changelog acked before the local write", changelog_not_awaited),
    Mutation("changelog all at once", "members acked before meta leaves, lease before each", changelog_all_at_once),
    Mutation("meta before members", "members first, meta last in the changelog", meta_before_members),
    Mutation("changelog offset apart", "I6: changelog offset in the same write as its data", changelog_offset_apart),
    Mutation(
        "commit past what is not durable",
        "I1: a batch is acked only when durable",
        lambda: rewrite(
            batching.OffsetTracker,
            "committable",
            ("while waiting and acked and waiting[0] in acked:", "while waiting:"),
        ),
    ),
    Mutation(
        "no commit in revoke",
        "a revoke commits what landed",
        lambda: [put(batching.BatchConsumer, "on_partitions_revoked", _revoke_without_commit)],
    ),
    Mutation(
        "no waiting in revoke",
        "I4: a revoke waits for epochs in flight, then stops them",
        lambda: [
            put(engine_worker.EngineWorker, "_quiesce", _nothing),
            put(engine_worker.EngineWorker, "_released", _nothing),
        ],
    ),
    Mutation("ack of any generation", "I5: acks of another generation move nothing", ack_of_any_generation),
    Mutation(
        "batches of any generation",
        "a batch fetched under another generation is not processed",
        lambda: rewrite(
            engine_worker.EngineWorker,
            "process",
            (" or message.generation_id != self._app.consumer_generation_id", ""),
        ),
    ),
    Mutation(
        "gathering while closing",
        "an epoch gathers nothing from a queue of which batches may have been dropped",
        lambda: rewrite(
            engine_worker.PartitionTask,
            "_pile_up",
            ("(self.closing or self._incoming.empty())", "self._incoming.empty()"),
        ),
    ),
    # The lease's two rules stand in for one another at a pause: each shows only without the other.
    Mutation(
        "no lease",
        "a paused worker stops",
        lambda: [put(lease.Lease, "check", lambda self: None), *silence_ignored()],
    ),
    Mutation(
        "renewal hides a pause",
        "a renewal after a pause sees the pause",
        lambda: [*rewrite(lease.Lease, "renew", ("self.check()", "")), *silence_ignored()],
    ),
    Mutation("silence ignored", "a worker that no heartbeat is accepted of writes nothing", silence_ignored),
    Mutation(
        "records applied twice by the partition",
        "records up to `applied_offset` are skipped",
        lambda: (
            rewrite(
                engine.PartitionEngine,
                "run",
                ("if offset <= self.applied_offset:", "if False:"),
            )
            + rewrite(intake.Intake, "_read", ("if record.offset <= self.applied_offset:", "if False:"))
        ),
    ),
    Mutation(
        "records applied twice by a member",
        "records up to a member's `applied` are skipped",
        lambda: rewrite(engine.PartitionEngine, "_apply", ("if offset <= member.applied:", "if False:")),
    ),
    Mutation(
        "timers fired twice by a member",
        "timers of a member brought past a record by an interrupted epoch are skipped",
        lambda: rewrite(engine, "queue_timers", ("offset > member.applied", "True")),
    ),
    Mutation(
        "clock starts at 0",
        "the clock is part of the meta record",
        lambda: rewrite(
            engine.PartitionEngine,
            "__init__",
            ("self.clock_ms = int(head[1]), int(head[2])", "self.clock_ms = int(head[1]), 0"),
        ),
    ),
    Mutation(
        "members leave memory too early",
        "a member changed by an epoch in flight stays in memory",
        lambda: rewrite(hot.HotMembers, "shrink", (" or member.epoch > written", "")),
    ),
    Mutation(
        "no hints on recovery",
        "timer hints are derived from members read back",
        lambda: rewrite(store, "fold_changelog", ("if before != after:", "if False:")),
    ),
    Mutation(
        "no pacemaker",
        "an idle partition gets a tick when a timer is due",
        lambda: [put(pacemaker.Pacemaker, "beat", _nothing)],
    ),
    Mutation("one message too many", "a cap lets through as many as it says", one_message_too_many),
    Mutation(
        "what came gives its slot back",
        "a message that was delivered keeps its slot, whatever else is told of it",
        lambda: rewrite(receipts, "_settled", ("if came", "if False")),
    ),
    Mutation(
        "first come, first served",
        "of those that compete the highest priority is judged first",
        lambda: rewrite(arbiter.Arbiter, "contest", ("-priority", "0")),
    ),
    Mutation(
        "every leg is capped",
        "caps count a cascade once",
        lambda: (
            rewrite(judge, "judge", ("command_digest(request.cascade) if request.cascade else None", "None"))
            + [put(arbiter, "judge", judge.judge)]
        ),
    ),
    Mutation("clocks never change", "quiet hours end on the wall clock, over a change of it too", clocks_never_change),
    Mutation(
        "an edit ends journeys",
        "what migrates goes on in the new version",
        lambda: rewrite(registry.Registry, "after_edits", ("if mode != MIGRATE", "if True")),
    ),
    Mutation(
        "share without rows",
        "what members take from a budget is in the changelog before them",
        lambda: rewrite(
            engine.PartitionEngine,
            "_close",
            ("out.meta_first = self._arbiter.take_rows()", "out.meta_first = {}"),
        ),
    ),
    Mutation("lateness ignored", "a timer waits for due + lateness", lateness_ignored),
    Mutation(
        "timers after the record",
        "timers fire before the record that moved the clock is applied",
        lambda: rewrite(
            engine.PartitionEngine,
            "run",
            ("if timers.first <= self.clock_ms:", "if False:"),
            (
                "while self._fired:",
                "if timers.first <= self.clock_ms:\n            self._fire_due(record)\n        while self._fired:",
            ),
        ),
    ),
    Mutation(
        "closed window",
        "windows are half-open",
        lambda: rewrite(
            match,
            "_meets_absence",
            ("instance.e_prev <= moment.e < instance.due", "instance.e_prev <= moment.e <= instance.due"),
        ),
    ),
    Mutation(
        "no cancelling by an earlier B",
        "a B read before A cancels",
        lambda: [put(match, "_absence_broken", _never)],
    ),
    Mutation(
        "duplicates count",
        "an event id read lately is not applied again",
        lambda: rewrite(engine.PartitionEngine, "_apply", ("if holds(", "if False and holds(")),
    ),
]


async def _revoke_without_commit(self: Any, revoked: Any) -> None:
    if self.quiesce is not None:
        await self.quiesce(revoked)
    self.tracker.forget(revoked)
    await super(batching.BatchConsumer, self).on_partitions_revoked(revoked)
    if self.released is not None:
        await self.released(revoked)


@contextlib.contextmanager
def applied(mutation: Mutation) -> Iterator[None]:
    """Run a block with a guard taken away."""
    undo = mutation.apply()
    try:
        yield
    finally:
        for step in reversed(undo):
            step()
