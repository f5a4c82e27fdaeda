"""A provider that stands still holds its own messages up, not those of others; what is put aside is sent once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agents.parking import Held, Limits, Parked, ParkedReader
from agents.send_one import Job, NoMetrics
from agents.topics import COMMANDS
from sinks.channels.config import ProvidersConfig
from sinks.channels.kinds import read_spec
from tests.agents.delivery_lab import Lab, cancel_command, send_command, sms, until

SMALL = Limits(under_way=20, waiting=40, connections=2)  # ten each for the mail server and the SMS company


class Company:
    """An SMS company that takes calls and answers none but the first `free` ones while its gate is shut."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.free = 0
        self.gate = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> "Company":
        app = web.Application()
        app.router.add_post("/send", self._send)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/send"
        return self

    async def stop(self) -> None:
        self.gate.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _send(self, request: web.Request) -> web.Response:
        self.asked[(await request.json())["id"]] += 1
        if len(self.asked) > self.free:
            await self.gate.wait()
        await asyncio.sleep(0.02)
        return web.json_response({"ok": True})

    def config(self, name: str = "company") -> ProvidersConfig:
        fields = {"to": "{to_digits}", "text": "{text}", "id": "{id}"}
        settings = {"url": self.url, "fields": fields, "connections": 2, "timeout_s": 50}
        made = read_spec(name, "http", settings)
        return ProvidersConfig({"trigger": {"sms": (made,)}})


@pytest.fixture
async def company() -> AsyncIterator[Company]:
    made = await Company().start()
    yield made
    await made.stop()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    # A call that gets no answer is given up after nearly half a session: longer than this test holds the gate.
    made.kafka |= {"session.timeout.ms": 120_000, "heartbeat.interval.ms": 1_000}
    yield made
    made.close()


async def test_messages_of_others_pass_far_more_of_a_standing_provider_than_a_lane_may_hold(
    lab: Lab, company: Company
) -> None:
    lab.write(*(sms(n) for n in range(120)), *(send_command(n) for n in range(120, 150)))
    known = company.config()
    async with lab.running(SMALL, config=lambda: known):
        await until(lambda: lab.smtp.received == 30)
        assert len(company.asked) == 2  # its own two connections, and nothing more of it in the lane's way
        assert lab.lag() >= 118  # what was put aside is not committed
        company.gate.set()
        await until(lambda: lab.lag() == 0)
    assert {status[-1] for status in lab.statuses().values()} == {"sent"}
    assert len(company.asked) == 120 and set(company.asked.values()) == {1}
    assert lab.smtp.received == 30


async def test_a_successor_reads_what_was_put_aside_again_and_sends_nothing_twice(lab: Lab, company: Company) -> None:
    lab.kafka["session.timeout.ms"] = 6_000  # for which this broker lets a member that comes back wait
    lab.write(*(sms(n) for n in range(100)), *(send_command(n) for n in range(100, 120)))
    known = company.config()
    company.gate.set()
    async with lab.running(SMALL, config=lambda: known):
        await until(lambda: lab.smtp.received == 20 and len(company.asked) >= 12)
    first = len(company.asked)
    async with lab.running(SMALL, config=lambda: known):
        await until(lambda: lab.lag() == 0)
    assert first < 100 and len(company.asked) == 100
    assert set(company.asked.values()) == {1} and lab.smtp.received == 20
    ids = Counter(event.event_id for event in lab.receipts())
    assert len(ids) == 120 and set(ids.values()) == {1}


async def test_a_command_put_aside_can_be_called_back(lab: Lab, company: Company) -> None:
    lab.write(*(sms(n, member_id="m0") for n in range(60)), cancel_command_of(50), send_command(100, member_id="m0"))
    known = company.config()
    async with lab.running(SMALL, config=lambda: known):
        await until(lambda: lab.smtp.received == 1)
        company.gate.set()
        await until(lambda: lab.lag() == 0)
    assert len(company.asked) == 59 and f"{50:032x}" not in company.asked
    told = [event.data["status"] for event in lab.receipts() if event.data["command_id"] == f"{50:032x}"]
    assert told == ["cancelled"]


def cancel_command_of(n: int) -> Any:
    made = cancel_command(n)
    made.member_id = "m0"
    return made


async def test_when_another_provider_takes_over_what_was_put_aside_keeps_to_its_share(
    lab: Lab, company: Company
) -> None:
    spare = await Company().start()
    spare.free = 10  # those that were in hand; then it stands still, too
    lab.write(*(sms(n) for n in range(120)))
    known = [company.config()]
    gauges: list[float] = []

    class Recorder(NoMetrics):
        def gauge(self, name: str, value: float, **labels: str) -> None:
            gauges.extend([value] if name == "delivery_parked" and labels["lane"] == "trigger" else [])

    try:
        async with lab.running(SMALL, config=lambda: known[-1], metrics=Recorder()):
            await until(lambda: len(company.asked) == 2 and max(gauges, default=0) >= 100)
            known.append(spare.config("spare"))
            await until(lambda: len(spare.asked) == 12)  # though two calls to the first are still under way
            gauges.clear()
            await until(lambda: len(gauges) >= 25)
            assert min(gauges) >= 80  # not all in memory because somebody else is asked now
            company.gate.set()
            spare.gate.set()
            await until(lambda: lab.lag() == 0)
    finally:
        await spare.stop()
    assert len(company.asked) == 2 and len(company.asked | spare.asked) == 120


async def test_when_one_provider_is_left_what_was_put_aside_keeps_to_the_lanes_bounds(
    lab: Lab, company: Company
) -> None:
    lab.write(*(sms(n) for n in range(120)))
    both = company.config()
    alone = ProvidersConfig({"trigger": {"email": both.channels("trigger")["sms"], **both.channels("trigger")}})
    known = [both]
    gauges: list[float] = []

    class Recorder(NoMetrics):
        def gauge(self, name: str, value: float, **labels: str) -> None:
            gauges.extend([value] if name == "delivery_parked" and labels["lane"] == "trigger" else [])

    async with lab.running(SMALL, config=lambda: known[-1], metrics=Recorder()):
        await until(lambda: len(company.asked) == 2 and max(gauges, default=0) >= 100)
        known.append(alone)
        gauges.clear()
        await until(lambda: len(gauges) >= 25)
        assert min(gauges) >= 60  # 40 is all that a lane may hold
        company.gate.set()
        await until(lambda: lab.lag() == 0)
    assert set(company.asked.values()) == {1} and len(company.asked) == 120


async def test_beyond_its_bound_nothing_more_is_put_aside(lab: Lab, company: Company) -> None:
    lab.write(*(sms(n, member_id="m0") for n in range(200)), send_command(200, member_id="m0"))
    known = company.config()
    limits = Limits(under_way=20, waiting=40, connections=2, parked=50)
    async with lab.running(limits, config=lambda: known):
        await until(lambda: len(company.asked) == 2)
        await asyncio.sleep(1)
        assert lab.smtp.received == 0  # the honest limit: it waits behind them
        company.gate.set()
        await until(lambda: lab.lag() == 0)
    assert set(company.asked.values()) == {1} and lab.smtp.received == 1


async def test_given_offsets_are_read_and_those_that_are_gone_are_passed(lab: Lab) -> None:
    lab.write(*(send_command(n, member_id="m0") for n in range(50)))
    (partition,) = {message.partition() for message in lab.read(COMMANDS)}
    reader = ParkedReader(lab.kafka, COMMANDS)
    try:
        for wanted in ([3, 4, 9], [10, 40], [2, 49], [0]):
            found, upto = await reader.read(partition, wanted)
            assert [message.offset() for message in found] == wanted and upto > wanted[-1]
            reader.rest()
    finally:
        reader.close()


def test_what_is_put_aside_is_kept_in_order_by_provider() -> None:
    parked = Parked()
    for provider, offset in (("a", 5), ("b", 6), ("a", 9), ("a", 7)):
        parked.put(provider, offset)
    assert (parked.first("a", 2), parked.lowest(), len(parked)) == ([5, 7], 5, 4)
    parked.drop("a", 8)
    assert (parked.first("a", 9), parked.lowest(), "a" in parked) == ([9], 6, True)
    parked.drop("a", 10)
    assert (list(parked.providers()), len(parked)) == (["b"], 1)


def test_providers_share_a_lanes_bounds_equally_in_number_and_bytes() -> None:
    limits, held = Limits(under_way=10, waiting=20, total_bytes=1_000), Held()
    assert (held.room(limits), held.room(limits, 2)) == (10, 5)
    jobs = [Job(0, n, send_command(n), 100) for n in range(5)]
    for job in jobs:
        held.add(job)
    assert (held.room(limits), held.room(limits, 2)) == (5, 0)
    jobs[0].waiting = True
    assert held.room(limits, 4) == 0
    for job in jobs[1:]:
        held.remove(job)
    assert (held.size, held.room(limits, 2)) == (100, 4)
    assert held.room(Limits(total_bytes=100)) == 0
