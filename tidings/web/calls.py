"""The call centre over HTTP: operators claim calls, and say what came of them. Any delivery worker answers.

An operator's program has a seat: a pass that `POST /call-seat/{operator}` gives for the workers' token.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from aiohttp import web
from confluent_kafka import KafkaException

from agents.calls_desk import CallsDesk, Gone
from agents.send_one import Metrics
from schemas.calls import CALLBACK, OUTCOMES, CallState
from schemas.passes import CALLS, Pass, read_pass, sign_pass
from schemas.tokens import TokenError
from tidings.web.routes import (
    CALL_CLAIM,
    CALL_LIST,
    CALL_OUTCOME,
    CALL_SEAT,
    body_of,
    error_answer,
    json_answer,
    unavailable,
    whole,
)

SEAT_MINUTES_DEFAULT, SEAT_MS_MAX = 12 * 60, 30 * 86_400_000
LEASE_S_DEFAULT, LEASE_S_MAX = 900, 4 * 3_600
LISTED_MAX = 200
CALLBACK_MS_MAX = 366 * 86_400_000
WRITE_S = 20.0
NAME_MAX = 100
BODY_BYTES_MAX = 4_096

log = structlog.get_logger("tidings.web")


class _Claim(msgspec.Struct, forbid_unknown_fields=True):
    lease_s: int = LEASE_S_DEFAULT


class _Outcome(msgspec.Struct, forbid_unknown_fields=True):
    lease: str
    outcome: str
    callback_at: int = 0


class CallPages:
    """Answers operators.

    Args:
        desk: keeps the queue.
        secrets: that sign seats, the newest first.
        metrics: where to count.
    """

    def __init__(self, desk: CallsDesk, secrets: Sequence[bytes], metrics: Metrics) -> None:
        self._desk = desk
        self._secrets = secrets
        self._metrics = metrics

    def install(self, app: web.Application) -> None:
        """Add the endpoints. Call before the application starts."""
        app.router.add_post(CALL_SEAT, self.give_seat)
        app.router.add_get(CALL_LIST, self.list)
        app.router.add_post(CALL_CLAIM, self.claim)
        app.router.add_post(CALL_OUTCOME, self.outcome)

    async def give_seat(self, request: web.Request) -> web.Response:
        """Make a seat for an operator; `?minutes=` says how long it holds, 12 hours without."""
        operator = request.match_info["operator"]
        span_ms = whole(request.query.get("minutes", ""), SEAT_MINUTES_DEFAULT) * 60_000
        if len(operator) > NAME_MAX:
            return error_answer(400, "operator", f"too long (got {len(operator)} characters)", f"at most {NAME_MAX}")
        until_ms = self._desk.clock_ms() + min(span_ms, SEAT_MS_MAX)
        return json_answer({"pass": sign_pass(CALLS, self._secrets[0], operator, until_ms), "until": until_ms})

    async def list(self, request: web.Request) -> web.Response:
        """Say how the queue stands; whom to call says a claim alone."""
        seat = self._seat(request)
        if isinstance(seat, web.Response):
            return seat
        now_ms, states = self._desk.clock_ms(), await self._desk.open_tasks()
        free = sum(1 for one in states if one.free(now_ms))
        claimed = sum(1 for one in states if one.leased_until_ms > now_ms)
        tasks = [_listed(one, now_ms) for one in states[:LISTED_MAX]]
        return self._counted(
            "list", json_answer({"free": free, "claimed": claimed, "open": len(states), "tasks": tasks})
        )

    async def claim(self, request: web.Request) -> web.Response:
        """Give the operator the first call that is due: 200 with it, 204 when there is none."""
        seat, asked = self._seat(request), await _body(request, _Claim)
        if isinstance(seat, web.Response):
            return seat
        if asked is None or not 1 <= asked.lease_s <= LEASE_S_MAX:
            return error_answer(400, "lease_s", "must be JSON with seconds", f"from 1 to {LEASE_S_MAX}, or nothing")
        try:
            async with asyncio.timeout(WRITE_S):
                taken = await self._desk.claim(seat.name, asked.lease_s * 1000)
        except (TimeoutError, KafkaException) as error:
            return self._not_written("claim", error)
        if taken is None:
            return self._counted("claim", web.Response(status=204))
        task = taken.task
        told = {
            "id": task.message.command_id, "lease": taken.lease, "leased_until": taken.leased_until_ms,
            "phone": task.phone, "text": task.text, "campaign": task.message.campaign,
            "member_id": task.message.member_id, "attempt": taken.tried + 1, "until": task.until_ms,
        }  # fmt: skip
        return self._counted("claim", json_answer(told))

    async def outcome(self, request: web.Request) -> web.Response:
        """Take what came of a call: 204; 409 when somebody else has it by now, or it has ended."""
        seat, said = self._seat(request), await _body(request, _Outcome)
        if isinstance(seat, web.Response):
            return seat
        wanted = f"lease, outcome ({', '.join(OUTCOMES)}), with callback the time callback_at in ms, within a year"
        if said is None or said.outcome not in OUTCOMES:
            return error_answer(400, "outcome", "must be JSON of an outcome", f"send {wanted}")
        latest = self._desk.clock_ms() + CALLBACK_MS_MAX
        if (said.outcome == CALLBACK) != (self._desk.clock_ms() < said.callback_at <= latest):
            return error_answer(400, "callback_at", f"does not fit (got {said.callback_at})", f"send {wanted}")
        try:
            async with asyncio.timeout(WRITE_S):
                await self._desk.complete(request.match_info["id"], said.lease, said.outcome, said.callback_at)
        except Gone:
            answer = error_answer(409, "call", "is not held by this lease", "claim another one")
            return self._counted("outcome", answer)
        except (TimeoutError, KafkaException) as error:
            return self._not_written("outcome", error)
        return self._counted("outcome", web.Response(status=204))

    def _seat(self, request: web.Request) -> Pass | web.Response:
        if not self._desk.begun:
            return error_answer(404, "calls", "there is no provider of kind calls", "name one in the providers' file")
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        try:
            seat = read_pass(CALLS, self._secrets, token, self._desk.clock_ms())
        except TokenError:
            return error_answer(403, "calls", "no seat, or one that is over", "ask for one: POST /call-seat/{operator}")
        return seat if self._desk.replica is not None else unavailable("calls", "are being read", "ask again")

    def _not_written(self, kind: str, error: Exception) -> web.Response:
        log.error("call not written", error=type(error).__name__)
        return self._counted(kind, unavailable("calls", "cannot be written now", "ask again"))

    def _counted(self, kind: str, answer: web.Response) -> web.Response:
        self._metrics.count("call_requests", kind=kind, status=str(answer.status))
        return answer


def _listed(state: CallState, now_ms: int) -> dict[str, Any]:
    message = state.task.message
    return {
        "id": message.command_id, "campaign": message.campaign, "due": state.due_ms, "until": state.task.until_ms,
        "attempt": state.tried + 1, "operator": state.actor if state.leased_until_ms > now_ms else "",
    }  # fmt: skip


async def _body(request: web.Request, kind: Any) -> Any:
    raw = await body_of(request, BODY_BYTES_MAX)
    try:
        return None if raw is None else msgspec.json.decode(raw or b"{}", type=kind)
    except msgspec.MsgspecError:
        return None
