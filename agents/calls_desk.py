"""The call centre's queue, on the topic `CALLS`: every delivery worker reads it whole, operators ask any of them."""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import msgspec
import structlog
from confluent_kafka import KafkaException

from agents.desk import Desk
from agents.replica import Replica
from agents.topics import CALLS, CALLS_KEPT_MS
from schemas.calls import (
    EXPIRED,
    FORMAT,
    NOT_REACHED,
    CallClaim,
    CallOutcome,
    CallState,
    CallTask,
    after_outcome,
    encode_call_record,
    fold_call,
    is_open,
    outcome_event,
    read_brief,
    read_call,
)
from schemas.references import told_event

CLAIM_S = 10.0
EXPIRE_S = 15.0
HELD_MS = 60_000  # while an outcome is written; longer than whoever asked for it waits

log = structlog.get_logger("agents.desk")


def _holds(state: CallState | None, lease: str) -> TypeGuard[CallState]:
    return state is not None and bool(lease) and state.lease == lease and not state.outcome


class Gone(Exception):
    """The task is held by somebody else by now, has ended, or never was."""


class CallsDesk(Desk):
    """See the head of this module."""

    def __init__(self, kafka: Mapping[str, Any], path: Path, clock_ms: Callable[[], int]) -> None:
        super().__init__(kafka, path, CALLS, fold_call, CALLS_KEPT_MS, clock_ms)
        self._open: dict[bytes, CallState] = {}  # tasks that have not ended, without whom to call and what to say
        self._open_of: Replica | None = None  # whose those are
        self._asked: set[str] = set()  # tasks that somebody asks for here at the moment
        self._expiring = False

    def begin(self) -> None:
        """See `Desk`; tasks whose time is over are told of from now on."""
        super().begin()
        if not self._expiring:
            self._expiring = True
            self.start(self._expire_forever())

    def changed(self, keys: list[bytes]) -> None:
        """See `Desk`: open tasks are known without a look at those that ended, of which there are many more."""
        replica = self._replica
        if replica is None or replica is not self._open_of:
            return
        for key in keys:
            value = replica.get(key)
            if value is not None and is_open(value):
                self._open[key] = read_brief(value)
            else:
                self._open.pop(key, None)

    async def keep(self, provider: str, task: CallTask) -> None:
        """Queue a task."""
        await self._write(task.message.command_id, msgspec.structs.replace(task, provider=provider))

    async def open_tasks(self) -> list[CallState]:
        """Return the tasks that have not ended, the first due first, without number and text."""
        replica = self.replica
        if replica is None:
            return []
        if self._open_of is not replica:
            self._open = {key: read_brief(value) for key, value in replica.scan(b"") if is_open(value)}
            self._open_of = replica
        return sorted(self._open.values(), key=lambda one: (one.due_ms, one.task.message.command_id))

    async def claim(self, actor: str, span_ms: int) -> CallState | None:
        """Take the first free task for an operator; None: there is none.

        Raises:
            KafkaException, TimeoutError: it cannot be told; the claim, if it holds, ends by itself.
        """
        for state in await self.open_tasks():
            ident = state.task.message.command_id
            if ident in self._asked or not state.free(self.clock_ms()):
                continue
            self._asked.add(ident)
            try:
                taken = await self._claim_one(ident, actor, span_ms)
            finally:
                self._asked.discard(ident)
            if taken is not None:
                return taken
        return None

    async def complete(self, ident: str, lease: str, outcome: str, again_at_ms: int) -> None:
        """Write what came of a claimed task: the events first, for a task that has ended is not told of again.

        What is known here may be old: somebody else may have claimed it since on another worker. So the claim is made
        again, and the log says whose it is until all is written.

        Raises:
            Gone: it is not this claim's.
            KafkaException: as `Desk.append`.
            TimeoutError: the log was not read back in time.
        """
        state = self.state(ident)
        if state is not None and lease and state.told == lease:
            return  # said again
        if not _holds(state, lease):
            raise Gone
        state = await self._claim_one(ident, state.actor, HELD_MS, lease)
        if state is None:
            raise Gone
        now_ms = self.clock_ms()
        await self.append_event(outcome_event(state, lease, outcome, again_at_ms, now_ms))
        end = after_outcome(state, outcome)
        if end:
            status = "undelivered" if end == NOT_REACHED else "delivered"
            await self._tell_delivery(state, status, end, now_ms)
        await self._write(ident, CallOutcome(FORMAT, lease, outcome, again_at_ms))
        replica = self.replica
        if replica is not None:  # so that who asks next sees it
            await replica.until(lambda: (found := self.state(ident)) is None or found.lease != lease, CLAIM_S)

    def state(self, ident: str) -> CallState | None:
        """Return a task as it stands here."""
        return None if self.replica is None else read_call(self.replica.get(ident.encode()))

    async def _claim_one(self, ident: str, actor: str, span_ms: int, lease: str = "") -> CallState | None:
        """Claim a task, for the first time or again, and read back whether the claim holds."""
        replica, before = self.replica, self.state(ident)
        lease = lease or secrets.token_urlsafe(12)
        if replica is None:
            return None
        held_until_ms = before.leased_until_ms if _holds(before, lease) else -1
        await self._write(ident, CallClaim(FORMAT, lease, actor, span_ms))
        found: list[CallState] = []

        def decided() -> bool:
            state = self.state(ident)
            if _holds(state, lease):
                found[:] = [state] if state.leased_until_ms != held_until_ms else []  # else the claim is not read yet
                return bool(found)
            return state is None or bool(state.outcome) or lease in state.lost

        if not await replica.until(decided, CLAIM_S):
            raise TimeoutError
        return found[0] if found else None

    async def _tell_delivery(self, state: CallState, status: str, reason: str, now_ms: int) -> None:
        task = state.task
        await self.append_event(
            told_event(task.message, "delivery", status, task.provider, now_ms, {"reason": reason, "code": ""})
        )

    async def _write(self, ident: str, record: CallTask | CallClaim | CallOutcome) -> None:
        await self.append(ident.encode(), encode_call_record(record))

    async def _expire_forever(self) -> None:
        while True:
            try:
                await self._expire()
            except KafkaException as error:
                log.error("calls.not-expired", error=error.args[0].name())
            await asyncio.sleep(EXPIRE_S)

    async def _expire(self) -> None:
        for state in await self.open_tasks():
            if state.over(self.clock_ms()):
                await self._tell_delivery(state, "expired", EXPIRED, state.task.until_ms)
                await self._write(state.task.message.command_id, CallOutcome(FORMAT, "", EXPIRED))
