"""One-time codes over HTTP, for the site's servers and tills: `POST /otp` and `POST /otp/verify`, with the token.

An answer is given when what it says is durable. What cannot be made durable is 503, and no code is right then.
"""

from typing import Any, TypeVar

import msgspec
from aiohttp import web

from streams.otp import LOCKED, USED, Ask, Step, Try
from tidings.otp import Codes, NotKept
from tidings.web.routes import OTP, OTP_VERIFY, body_of, error_answer, json_answer, unavailable

BODY_BYTES_MAX = 4_096
REFUSED = {"unknown_purpose": 400, "no_member": 400, "invalid_address": 400, "invalid_ip": 400}
JUDGED = {"verified": 200, "wrong": 403, "unknown": 404, "expired": 410, "replaced": 410, USED: 410, LOCKED: 410}

_T = TypeVar("_T")


def asked(step: Step, ident: str) -> tuple[int, dict[str, Any]]:
    """Word the answer to a request: status and body."""
    if step.result != "granted":
        return _refused(step)
    return 201, {"id": ident, "expires_at_ms": step.expires_ms, "attempts": step.attempts_left}


def judged(step: Step) -> tuple[int, dict[str, Any]]:
    """Word the answer to a code: status and body."""
    if step.result not in JUDGED:
        return _refused(step)
    told = {"attempts_left": step.attempts_left} if step.result == "wrong" else {}
    return JUDGED[step.result], {"result": step.result, **told}


def install_otp(app: web.Application, codes: Codes) -> None:
    """Add the endpoints. Call before the application starts."""

    async def ask(request: web.Request) -> web.Response:
        given = await _body(request, Ask)
        if isinstance(given, web.Response):
            return given
        if not codes.ready:
            return _not_ready()
        try:
            step, ident = await codes.request(given)
        except NotKept:
            return _not_ready()
        return _said(*asked(step, ident))

    async def judge(request: web.Request) -> web.Response:
        given = await _body(request, Try)
        if isinstance(given, web.Response):
            return given
        if not codes.ready:
            return _not_ready()
        try:
            step = await codes.verify(given)
        except NotKept:
            return _not_ready()
        return _said(*judged(step))

    app.router.add_post(OTP, ask)
    app.router.add_post(OTP_VERIFY, judge)


async def _body(request: web.Request, kind: type[_T]) -> _T | web.Response:
    raw = await body_of(request, BODY_BYTES_MAX)
    if raw is None:
        return error_answer(413, "body", f"too large (got more than {BODY_BYTES_MAX} bytes)", "send the fields alone")
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.MsgspecError as error:
        # The error's text names fields and kinds, never values.
        return error_answer(400, "body", f"not understood (got {error})", "see docs/one-time-codes.md")


def _refused(step: Step) -> tuple[int, dict[str, Any]]:
    return REFUSED.get(step.result, 429), {"result": step.result, "retry_after_s": -(-step.retry_ms // 1_000)}


def _said(status: int, body: dict[str, Any]) -> web.Response:
    seconds = body.get("retry_after_s", 0)
    return json_answer(body, status, {"Retry-After": str(seconds)} if seconds else None)


def _not_ready() -> web.Response:
    return unavailable("otp", "one-time codes cannot be given or judged now", "ask again in a moment")
