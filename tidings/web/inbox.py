"""A member's inbox over HTTP, for the page of the shop that shows it: `/inbox/{token}`, paged, marked, and as a stream.

The token is a pass for one member (`schemas/passes.py`), which the shop's server gets by `POST /inbox-pass/{member}`
with the workers' token. Any delivery worker answers for any member.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson
import structlog
from aiohttp import web
from confluent_kafka import KafkaException

from agents.inbox_desk import InboxDesk
from agents.replica import Replica
from agents.send_one import Metrics
from schemas.inbox import CLICKED, READ, SHOWN, Kept, read_inbox
from schemas.passes import INBOX, Pass, read_pass, sign_pass
from schemas.tokens import TokenError
from tidings.web.routes import (
    INBOX_ITEM,
    INBOX_LIST,
    INBOX_PASS,
    INBOX_STREAM,
    error_answer,
    json_answer,
    unavailable,
    whole,
)

PASS_MINUTES_DEFAULT, PASS_MS_MAX = 60, 30 * 86_400_000
PAGE, PAGE_MAX = 20, 100
STREAMS_MAX = 10_000  # of one worker
STREAMS_OF_MEMBER = 20  # so that one pass cannot take all of them
STREAM_HEADERS = {
    "Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no", "Server": "tidings",
}  # fmt: skip
COMMENT_S = 15.0  # proxies end what is silent for a minute
WRITE_S = 10.0
MARKS = {"read": READ, "click": CLICKED}
NAME_MAX = 200

log = structlog.get_logger("tidings.web")


class InboxPages:
    """Answers for all members.

    Args:
        desk: keeps the inboxes.
        secrets: that sign passes, the newest first.
        metrics: where to count.
    """

    def __init__(self, desk: InboxDesk, secrets: Sequence[bytes], metrics: Metrics) -> None:
        self._desk = desk
        self._secrets = secrets
        self._metrics = metrics
        self._streams = 0
        self._of_member: Counter[str] = Counter()  # streams
        self._showing: set[str] = set()  # messages that are being marked as shown

    def install(self, app: web.Application) -> None:
        """Add the endpoints. Call before the application starts."""
        app.router.add_post(INBOX_PASS, self.give_pass)
        app.router.add_get(INBOX_LIST, self.list)
        app.router.add_get(INBOX_STREAM, self.stream)
        app.router.add_post(INBOX_ITEM, self.mark)

    async def give_pass(self, request: web.Request) -> web.Response:
        """Make a pass for a member; `?minutes=` says how long it holds, an hour without."""
        member = request.match_info["member"]
        span_ms = whole(request.query.get("minutes", ""), PASS_MINUTES_DEFAULT) * 60_000
        if len(member) > NAME_MAX:
            return error_answer(400, "member", f"too long (got {len(member)} characters)", f"at most {NAME_MAX}")
        until_ms = self._desk.clock_ms() + min(span_ms, PASS_MS_MAX)
        return json_answer({"pass": sign_pass(INBOX, self._secrets[0], member, until_ms), "until": until_ms})

    async def list(self, request: web.Request) -> web.Response:
        """Say a page, the newest first: `?limit=` and `?before=` an id. What is said counts as delivered."""
        found, replica = self._pass(request), self._desk.replica
        if isinstance(found, web.Response) or replica is None:
            return found if isinstance(found, web.Response) else self._not_ready()
        kept = read_inbox(replica.get(found.name.encode()), self._desk.clock_ms())
        limit = min(PAGE_MAX, whole(request.query.get("limit", ""), PAGE) or PAGE)
        before = request.query.get("before", "")
        places = [at for at, one in enumerate(kept) if one.item.message.command_id == before]
        start = places[0] + 1 if places else 0
        page = kept[start : start + limit]
        self._show(page)
        more = len(kept) > start + limit
        self._metrics.count("inbox_requests", kind="list", status="200")
        return json_answer(
            {
                "items": [one.page() for one in page],
                "unread": sum(1 for one in kept if not one.read_ms),
                "next": page[-1].item.message.command_id if more else None,
            }
        )

    async def mark(self, request: web.Request) -> web.Response:
        """Note that a message was read or clicked; 204 once that is on the log, however often it is said."""
        found, replica = self._pass(request), self._desk.replica
        if isinstance(found, web.Response) or replica is None:
            return found if isinstance(found, web.Response) else self._not_ready()
        kept = read_inbox(replica.get(found.name.encode()), self._desk.clock_ms())
        one = next((one for one in kept if one.item.message.command_id == request.match_info["id"]), None)
        mark = MARKS.get(request.match_info["what"])
        if one is None or mark is None:
            return error_answer(404, "inbox", "no such message, or nothing that can be said of it", "read or click")
        try:
            async with asyncio.timeout(WRITE_S):
                if not one.read_ms:  # who clicks has read
                    await self._desk.mark(one, READ)
                if mark == CLICKED and not one.clicked_ms:
                    await self._desk.mark(one, CLICKED)
        except (TimeoutError, KafkaException) as error:
            log.error("inbox mark not written", error=type(error).__name__)
            return unavailable("inbox", "cannot be written now", "ask again")
        self._metrics.count("inbox_requests", kind=mark, status="204")
        return web.Response(status=204)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Say each new message as a server-sent event, with those after `Last-Event-ID` at once."""
        found, replica = self._pass(request), self._desk.replica
        if isinstance(found, web.Response) or replica is None:
            return found if isinstance(found, web.Response) else self._not_ready()
        if self._streams >= STREAMS_MAX:
            return unavailable("inbox", f"too many streams (got {self._streams})", "ask again, or start more workers")
        if self._of_member[found.name] >= STREAMS_OF_MEMBER:
            return unavailable("inbox", f"too many streams of one member (got {STREAMS_OF_MEMBER})", "close one")
        response = web.StreamResponse(headers=STREAM_HEADERS)
        self._streams += 1
        self._of_member[found.name] += 1
        self._metrics.gauge("inbox_streams", self._streams)
        try:
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                await self._tell(response, replica, found, request.headers.get("Last-Event-ID", ""))
        finally:
            self._streams -= 1
            self._of_member[found.name] -= 1
            if not self._of_member[found.name]:
                del self._of_member[found.name]
            self._metrics.gauge("inbox_streams", self._streams)
        return response

    async def _tell(self, response: web.StreamResponse, replica: Replica, found: Pass, last: str) -> None:
        key = found.name.encode()
        with replica.watching(key) as changed:
            kept = read_inbox(replica.get(key), self._desk.clock_ms())
            ids = [one.item.message.command_id for one in kept]
            told = set(ids[ids.index(last) :] if last in ids else ids)
            await response.write(b": open\n\n")
            while self._desk.clock_ms() < found.until_ms:
                if self._desk.replica is not replica:
                    return  # closed, or opened anew: the page asks again, after what it was told last
                changed.clear()
                kept = read_inbox(replica.get(key), self._desk.clock_ms())
                fresh = [one for one in reversed(kept) if one.item.message.command_id not in told]
                for one in fresh:
                    await response.write(_event(one))
                self._show(fresh)
                told = {one.item.message.command_id for one in kept}
                try:
                    await asyncio.wait_for(changed.wait(), COMMENT_S)
                except TimeoutError:
                    await response.write(b": here\n\n")

    def _show(self, page: Sequence[Kept]) -> None:
        for one in page:
            ident = one.item.message.command_id
            if not one.shown_ms and ident not in self._showing:
                self._showing.add(ident)
                self._desk.start(self._mark_shown(one, ident))

    async def _mark_shown(self, one: Kept, ident: str) -> None:
        try:
            await self._desk.mark(one, SHOWN)
        finally:
            self._showing.discard(ident)

    def _pass(self, request: web.Request) -> Pass | web.Response:
        if not self._desk.begun:
            return error_answer(404, "inbox", "there is no provider of kind inbox", "name one in the providers' file")
        try:
            return read_pass(INBOX, self._secrets, request.match_info["token"], self._desk.clock_ms())
        except TokenError:
            return error_answer(403, "inbox", "no pass, or one that is over", "ask the shop's server for a new one")

    def _not_ready(self) -> web.Response:
        return unavailable("inbox", "is being read", "ask again")


def _event(one: Kept) -> bytes:
    data: dict[str, Any] = one.page()
    return b"id: " + one.item.message.command_id.encode() + b"\nevent: message\ndata: " + orjson.dumps(data) + b"\n\n"
