"""The call centre over HTTP: each call is with one operator, on any worker, and what came of it is on the log."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from agents import calls_desk
from agents.desks import Desks
from agents.send_one import NoMetrics
from schemas.calls import CallTask
from schemas.commands import LANES
from schemas.passes import CALLS, INBOX, sign_pass
from schemas.references import reference_of
from sinks.channels.config import ProvidersConfig
from sinks.channels.inbox import KeepingTransport
from sinks.channels.kinds import open_provider, read_spec
from tests.agents.delivery_lab import Lab, send_command, until
from tidings.web.desks import install_desks
from tidings.web.routes import Probes, install

SECRET = b"s" * 32
FAR = 9_000_000_000_000
SPEC = read_spec("centre", "calls", {"tries": 2, "again_minutes": 60})
CONFIG = ProvidersConfig({lane: {"call": (SPEC,)} for lane in LANES})


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    (made.templates / "call.txt.j2").write_text("Offer {{ data.product }}")
    yield made
    made.close()


def call(n: int, **changes: Any) -> Any:
    return send_command(n, **({"channel": "call", "template": "call", "address": f"+49151{n:08d}"} | changes))


@contextlib.asynccontextmanager
async def worker(lab: Lab, name: str = "state") -> AsyncIterator[TestClient]:
    """The endpoints of one worker, without delivery."""
    app = web.Application()
    install(app, Probes("delivery", lambda: None, list), "token")
    async with Desks.beside(lab.root / name, lab.kafka, NoMetrics()) as desks:
        transport = open_provider(SPEC)[1]
        assert isinstance(transport, KeepingTransport)
        desks.attach(transport)
        install_desks(app, desks, [SECRET], NoMetrics())
        async with TestClient(TestServer(app)) as client:
            await until(lambda: desks.calls.replica is not None)
            yield client


async def queued(lab: Lab, *commands: Any) -> None:
    lab.write(*commands)
    async with lab.running(config=lambda: CONFIG):
        await until(lambda: lab.lag() == 0)


def seat(operator: str, until_ms: int = FAR) -> dict[str, str]:
    return {"Authorization": f"Bearer {sign_pass(CALLS, SECRET, operator, until_ms)}"}


async def claimed(client: TestClient, operator: str, lease_s: int = 600) -> dict[str, Any] | None:
    answer = await client.post("/calls/claim", json={"lease_s": lease_s}, headers=seat(operator))
    assert answer.status in (200, 204)
    return await answer.json() if answer.status == 200 else None


async def ended(client: TestClient, task: dict[str, Any], outcome: str, callback_at: int = 0) -> int:
    body = {"lease": task["lease"], "outcome": outcome} | ({"callback_at": callback_at} if callback_at else {})
    return (await client.post(f"/calls/{task['id']}/outcome", json=body, headers=seat("anna"))).status


def told(lab: Lab) -> list[tuple[str, str, str]]:
    found = {one.event_id: one for one in lab.receipts() if one.source in ("tidings-calls", "tidings-receipts")}
    return sorted((one.type, str(one.member_id), one.data.get("outcome", "")) for one in found.values())


async def test_a_call_is_claimed_made_and_its_outcome_is_on_the_log_once(lab: Lab) -> None:
    await queued(lab, call(1))
    assert lab.statuses() == {"m1": ["sent"]}
    async with worker(lab) as client:
        task = await claimed(client, "anna")
        assert task is not None
        assert (task["phone"], task["text"], task["attempt"]) == (f"+49151{1:08d}", "Offer P1", 1)
        assert await claimed(client, "ben") is None
        assert [await ended(client, task, "reached") for _ in range(2)] == [204, 204]
        assert await ended(client, task | {"lease": "other"}, "reached") == 409
        listed = await (await client.get("/calls", headers=seat("anna"))).json()
        assert listed["open"] == 0 and await claimed(client, "ben") is None
    assert told(lab) == [("call.outcome", "m1", "reached"), ("delivery.delivered", "m1", "")]
    (said,) = [one for one in lab.receipts() if one.type == "call.outcome"]
    assert (said.data["actor"], said.data["campaign"], said.data["call_id"]) == ("anna", "cart", f"{1:032x}")


async def test_many_operators_on_two_workers_never_get_the_same_call(lab: Lab) -> None:
    await queued(lab, *(call(n) for n in range(12)))
    async with worker(lab, "one") as one, worker(lab, "two") as two:
        taken = await asyncio.gather(*(claimed((one, two)[n % 2], f"op{n}") for n in range(16)))
        more = [await claimed(one, "late") for _ in range(12)]  # those who lost a race ask again
        ids = [task["id"] for task in (*taken, *more) if task is not None]
        assert len(ids) == 12 == len(set(ids))


async def test_a_call_that_an_operator_drops_is_given_to_another_after_its_lease(lab: Lab) -> None:
    await queued(lab, call(1))
    async with worker(lab) as client:
        first = await claimed(client, "anna", lease_s=1)
        assert first is not None
        async with asyncio.timeout(60):
            while (second := await claimed(client, "ben")) is None:
                await asyncio.sleep(0.1)
        assert second["id"] == first["id"] and await ended(client, first, "reached") == 409
        assert await ended(client, second, "refused") == 204
    assert told(lab) == [("call.outcome", "m1", "refused"), ("delivery.delivered", "m1", "")]


async def test_a_worker_that_lags_tells_no_outcome_of_a_call_that_another_operator_has(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queued(lab, call(1))
    caught_up = threading.Event()
    async with worker(lab) as client, Desks.beside(lab.root / "lags", lab.kafka, NoMetrics()) as desks:
        desks.calls.begin()
        await until(lambda: desks.calls.replica is not None)
        first = await desks.calls.claim("anna", 1_000)
        replica = desks.calls.replica
        assert first is not None and replica is not None
        apply = replica._apply
        monkeypatch.setattr(replica, "_apply", lambda messages: (caught_up.wait(60), apply(messages)))
        async with asyncio.timeout(60):
            while (second := await claimed(client, "ben")) is None:
                await asyncio.sleep(0.1)
        saying = asyncio.create_task(desks.calls.complete(second["id"], first.lease, "reached", 0))
        await asyncio.wait({saying}, timeout=1)
        caught_up.set()
        with pytest.raises(calls_desk.Gone):
            await saying
        assert await ended(client, second, "refused") == 204
    assert told(lab) == [("call.outcome", "m1", "refused"), ("delivery.delivered", "m1", "")]


async def test_a_lease_that_is_over_still_counts_while_nobody_else_has_the_call(lab: Lab) -> None:
    await queued(lab, call(1))
    async with worker(lab) as client:
        task = await claimed(client, "anna", lease_s=1)
        assert task is not None
        await until(lambda: time.time_ns() // 1_000_000 > task["leased_until"])
        assert await ended(client, task, "reached") == 204
    assert told(lab) == [("call.outcome", "m1", "reached"), ("delivery.delivered", "m1", "")]


async def test_who_is_not_reached_waits_for_the_next_try_and_a_callback_for_its_time(lab: Lab) -> None:
    await queued(lab, call(1), call(2))
    async with worker(lab) as client:
        first, second = await claimed(client, "anna"), await claimed(client, "anna")
        assert first is not None and second is not None
        assert await ended(client, first, "not_reached") == 204
        for at in (0, 1, FAR, 10**30):
            assert await ended(client, second, "callback", at) == 400
        in_an_hour = time.time_ns() // 1_000_000 + 3_600_000
        assert await ended(client, second, "callback", in_an_hour) == 204
        assert await claimed(client, "anna") is None
        tasks = (await (await client.get("/calls", headers=seat("anna"))).json())["tasks"]
    assert [(one["id"], one["attempt"]) for one in tasks] == [(first["id"], 2), (second["id"], 1)]
    assert tasks[1]["due"] == in_an_hour and {one[0] for one in told(lab)} == {"call.outcome"}


async def test_the_queue_and_its_leases_outlast_a_restart_and_the_loss_of_the_local_store(lab: Lab) -> None:
    await queued(lab, call(1), call(2))
    async with worker(lab, "one") as client:
        task = await claimed(client, "anna")
        assert task is not None
    async with worker(lab, "two") as client:
        other = await claimed(client, "ben")
        assert other is not None and other["id"] != task["id"]
        assert await ended(client, task, "reached") == 204


async def test_a_call_whose_time_is_over_is_told_and_not_given_out(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_desk, "EXPIRE_S", 0.1)
    late = send_command(1, expires_at_ms=send_command(0).decided_at_ms + 1_000)
    async with worker(lab) as client, Desks.beside(lab.root / "other", lab.kafka, NoMetrics()) as desks:
        desks.calls.begin()
        await desks.calls.keep(
            "centre", CallTask(1, reference_of(late), "", "+49151", "x", 1, late.expires_at_ms, 1, 1)
        )
        await until(lambda: (state := desks.calls.state(late.command_id)) is not None and state.outcome == "expired")
        assert await claimed(client, "anna") is None
    assert told(lab) == [("delivery.expired", "m1", "")]


async def test_operators_need_a_seat(lab: Lab) -> None:
    async with worker(lab) as client:
        strangers = [{}, {"Authorization": "Bearer token"}, seat("anna", 1)]
        strangers.append({"Authorization": f"Bearer {sign_pass(INBOX, SECRET, 'anna', FAR)}"})
        for headers in strangers:
            assert (await client.get("/calls", headers=headers)).status == 403
            assert (await client.post("/calls/claim", headers=headers)).status == 403
            assert (await client.post("/calls/x/outcome", json={}, headers=headers)).status == 403
        assert (await client.post("/call-seat/anna")).status == 401
        given = await (await client.post("/call-seat/anna", headers={"Authorization": "Bearer token"})).json()
        many = await client.post(f"/call-seat/anna?minutes={'9' * 5_000}", headers={"Authorization": "Bearer token"})
        assert many.status == 200
        answer = await client.get("/calls", headers={"Authorization": f"Bearer {given['pass']}"})
        assert answer.status == 200
        wrong = await client.post("/calls/x/outcome", json={"lease": "l", "outcome": "won"}, headers=seat("anna"))
        assert wrong.status == 400
        none = await client.post("/calls/x/outcome", json={"lease": "l", "outcome": "reached"}, headers=seat("anna"))
        assert none.status == 409
