"""What only an engine answers: its campaigns, and one member.

A member is answered by the worker that owns its partition: another one hands the question on, once, with the asker's
token.
"""

from urllib.parse import quote

import aiohttp
import structlog
from aiohttp import web
from yarl import URL

from agents.topics import CHANGELOG
from agents.wiring import EngineApp
from schemas.partitioning import partition_of
from tidings.web.pages import campaigns_page, engine_trouble, member_page, recovery_progress
from tidings.web.prometheus import engine_families
from tidings.web.routes import RETRY_AFTER_S, Probes, error_answer, install, json_answer, unavailable

HANDED_ON = "X-Tidings-Handed-On"
HAND_ON_S = 5.0

log = structlog.get_logger("tidings.web")


def install_engine(built: EngineApp, partitions: int, token: str) -> None:
    """Add all endpoints to the engine's Faust app, before it starts. `partitions`: of `events`."""
    app: web.Application = built.app.web.web_app  # type: ignore[attr-defined]  # Faust's aiohttp driver
    probes = Probes(
        "engine", lambda: engine_trouble(built), lambda: engine_families(built), lambda: recovery_progress(built)
    )
    install(app, probes, token)

    async def campaigns(request: web.Request) -> web.Response:
        return json_answer(campaigns_page(built.worker))

    async def member(request: web.Request) -> web.Response:
        member_id = request.match_info["member_id"]
        partition = partition_of(member_id.encode(), partitions)
        engine = built.worker.engine_of(partition)
        if engine is None:
            return await _ask_owner(built, request, member_id, partition)
        view = engine.member_view(member_id)
        if view is None:
            return error_answer(
                404, "members", "no record of this member (got its id)", "check the id; ids are case-sensitive"
            )
        return json_answer(member_page(view, partition, engine.clock_ms))

    app.router.add_get("/campaigns", campaigns)
    app.router.add_get("/members/{member_id:.+}", member)


def owner_of(built: EngineApp, partition: int) -> str | None:
    """Find the address of the worker that has a partition, as the group's last assignment says; None while unknown."""
    for url, topics in built.app.router.tables_metadata().items():
        if partition in topics.get(CHANGELOG, ()):
            return url.rstrip("/")
    return None


async def _ask_owner(built: EngineApp, request: web.Request, member_id: str, partition: int) -> web.Response:
    owner = owner_of(built, partition)
    place = f"members, partition {partition}"
    if owner is None or owner == str(built.app.conf.canonical_url).rstrip("/"):
        return unavailable(place, "no worker has this partition ready", "ask again; see /ready of the workers")
    if HANDED_ON in request.headers:  # two workers that each believe in the other: a rebalance is under way
        return unavailable(place, "this partition is moving between workers", "ask again")
    headers = {HANDED_ON: "1", "Authorization": request.headers.get("Authorization", "")}
    try:
        timeout = aiohttp.ClientTimeout(total=HAND_ON_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            url = URL(f"{owner}/members/{quote(member_id, safe='')}", encoded=True)
            async with session.get(url, headers=headers, allow_redirects=False) as got:
                body = await got.read()
                if got.status in (200, 404, 503):
                    retry = {"Retry-After": RETRY_AFTER_S} if got.status == 503 else {}
                    return web.Response(status=got.status, body=body, content_type="application/json", headers=retry)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        log.warning("owner does not answer", partition=partition, owner=owner, error=type(error).__name__)
        return unavailable(place, f"its worker does not answer (got {type(error).__name__})", f"check {owner}/ready")
    return unavailable(
        place, f"its worker refuses us (got status {got.status})", "give all workers the same TIDINGS_WEB_TOKEN"
    )
