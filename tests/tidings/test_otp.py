"""One-time codes as a whole: HTTP, the log, a restart, another process that takes over."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from confluent_kafka import Consumer, KafkaException, TopicPartition

from agents.otp_log import OtpLog
from agents.topics import COMMANDS_OF, EVENTS, OTP_STATE
from schemas.codec import decode_command, decode_event
from schemas.commands import TRANSACTIONAL, SendMessage
from schemas.errors import OperatorError
from sinks.channels.config import ProvidersConfig
from sinks.channels.kinds import read_spec
from sinks.templates import TemplateFiles
from streams.otp import Ask, Limit, Rules
from tests.sinks.channels.samples import spec
from tests.sinks.channels.vendors import Vendors
from tidings.brokers.admin import create_topics
from tidings.brokers.local import LocalBroker
from tidings.brokers.memory import MemoryBroker
from tidings.config import Settings
from tidings.otp import CAMPAIGN, Codes, NotKept, check_surroundings, load_rules
from tidings.web.otp import install_otp
from tidings.web.routes import Probes, install

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "t0ken"
SECRET = b"k" * 32
TEXT = """
purposes: {login: {channel: sms, template: otp}, till: {channel: email, template: otp}}
limits:
  member: 5 per 1h
  address: 5 per 1h
  ip: [20 per 1h]
  range: [30 per 1h]
  wrong_member: 20 per 1h
  wrong_ip: 50 per 1h
destinations: {"+49": {limits: [300 per 1h], cost: 0.075}}
"""
ASK = {"member_id": "m1", "purpose": "login", "to": "+4915112345678", "ip": "192.0.2.1"}


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    with MemoryBroker({OTP_STATE: 1, EVENTS: 2, COMMANDS_OF[TRANSACTIONAL]: 2}) as running:
        yield running


def kafka_of(bootstrap: str) -> dict[str, Any]:
    return {"bootstrap.servers": bootstrap, "fetch.wait.max.ms": 20, "log_level": 0}


class Shop:
    """A site's server that asks."""

    def __init__(self, url: str, session: aiohttp.ClientSession, codes: Codes, kafka: dict[str, Any]) -> None:
        self.url, self.session, self.codes, self.kafka = url, session, codes, kafka

    async def post(self, path: str, body: Any, token: str = TOKEN) -> tuple[int, dict[str, Any]]:
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        headers = {"Authorization": f"Bearer {token}"}
        async with self.session.post(self.url + path, data=raw, headers=headers) as answer:
            text = await answer.read()
            return answer.status, msgspec.json.decode(text) if text else {}

    async def code(self) -> tuple[str, str]:
        """Ask for a code and read it off the command, as its provider would; returns (challenge's id, code)."""
        status, body = await self.post("/otp", ASK)
        assert status == 201, body
        (command,) = [one for one in self.commands() if one.instance_id == body["id"]]
        return body["id"], command.data["code"]

    def commands(self) -> list[SendMessage]:
        found = [decode_command(raw) for raw in records(self.kafka, COMMANDS_OF[TRANSACTIONAL], 2)]
        return [one for one in found if isinstance(one, SendMessage)]


def records(kafka: dict[str, Any], topic: str, partitions: int) -> list[bytes]:
    consumer = Consumer({**kafka, "group.id": "look", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    found: list[bytes] = []
    ends = 0
    with contextlib.closing(consumer):
        while ends < partitions:
            for message in consumer.consume(100, 1):
                ends += message.error() is not None
                if message.error() is None:
                    found.append(message.value() or b"")
    return found


@contextlib.asynccontextmanager
async def running(kafka: dict[str, Any], rules: Rules | None = None) -> AsyncIterator[Shop]:
    codes = Codes(rules or load_rules(TEXT, "otp.yaml"), kafka, SECRET, ProvidersConfig)
    app = web.Application()
    install(app, Probes("otp", lambda: None, codes.families), TOKEN)
    install_otp(app, codes)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    stop = asyncio.Event()
    role = asyncio.create_task(codes.run(stop))
    async with aiohttp.ClientSession() as session:
        while not codes.ready and not role.done():
            await asyncio.sleep(0.02)
        try:
            host, port = runner.addresses[0]
            yield Shop(f"http://{host}:{port}", session, codes, kafka)
        finally:
            stop.set()
            with contextlib.suppress(KafkaException):
                await role
            await runner.cleanup()


async def test_a_code_goes_out_by_the_transactional_lane_and_is_right_once(broker: MemoryBroker) -> None:
    async with running(kafka_of(broker.bootstrap)) as shop:
        ident, code = await shop.code()
        (command,) = shop.commands()
        assert (command.campaign, command.channel, command.address) == (CAMPAIGN, "sms", ASK["to"])
        assert command.category == command.lane == TRANSACTIONAL
        given = {"id": ident, "member_id": "m1", "code": code}
        assert await shop.post("/otp/verify", given | {"code": "x"}) == (403, {"result": "wrong", "attempts_left": 4})
        assert await shop.post("/otp/verify", given) == (200, {"result": "verified"})
        assert await shop.post("/otp/verify", given) == (410, {"result": "used"})
        events = [decode_event(raw) for raw in records(shop.kafka, EVENTS, 2)]
        assert [(event.type, event.data["attempt"]) for event in events] == [
            ("otp.requested", 0), ("otp.failed", 1), ("otp.verified", 2)
        ]  # fmt: skip
        told = b"".join(records(shop.kafka, EVENTS, 2) + records(shop.kafka, OTP_STATE, 1))
        assert code.encode() not in told and b"15112345678" not in told


async def test_codes_attempts_and_limits_hold_over_a_restart(broker: MemoryBroker) -> None:
    kafka = kafka_of(broker.bootstrap)
    rules = msgspec.structs.replace(load_rules(TEXT, "otp.yaml"), member=(Limit(1, 3_600_000),))
    async with running(kafka, rules) as shop:
        ident, code = await shop.code()
        for _ in range(4):
            assert (await shop.post("/otp/verify", {"id": ident, "member_id": "m1", "code": "x"}))[0] == 403
    async with running(kafka, rules) as shop:
        status, body = await shop.post("/otp", ASK)
        assert (status, body["result"]) == (429, "member_limit") and 3_500 < body["retry_after_s"] <= 3_600
        assert (await shop.post("/otp/verify", {"id": ident, "member_id": "m1", "code": "x"}))[1]["attempts_left"] == 0
        assert await shop.post("/otp/verify", {"id": ident, "member_id": "m1", "code": code}) == (
            410, {"result": "locked"}
        )  # fmt: skip


async def test_what_cannot_be_kept_is_not_told_and_ends_the_process(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(kafka_of(broker.bootstrap)) as shop:
        ident, code = await shop.code()

        class Refused:
            @staticmethod
            def name() -> str:
                return "_FENCED"

        def write(*_: object) -> None:
            raise KafkaException(Refused())

        monkeypatch.setattr(OtpLog, "write", write)
        status, _ = await shop.post("/otp/verify", {"id": ident, "member_id": "m1", "code": code})
        assert status == 503
        monkeypatch.undo()
        # From now on nothing is answered out of memory, not even the right code.
        assert (await shop.post("/otp/verify", {"id": ident, "member_id": "m1", "code": code}))[0] == 503
        assert (await shop.post("/otp", ASK))[0] == 503
        with pytest.raises(NotKept):
            await shop.codes.request(Ask(**ASK))


async def test_a_full_queue_to_the_broker_is_no_end(broker: MemoryBroker) -> None:
    kafka = kafka_of(broker.bootstrap)
    async with running(kafka | {"queue.buffering.max.messages": 1}) as shop:
        for _ in range(2):  # the transaction of the first one was taken back
            assert (await shop.post("/otp", ASK))[0] == 503
        assert shop.codes.ready and not shop.commands() and not records(kafka, OTP_STATE, 1)


async def test_what_is_over_is_forgotten_while_others_are_served() -> None:
    codes = Codes(load_rules(TEXT, "otp.yaml"), {}, SECRET, ProvidersConfig)
    lasts = {"n/one/99999999": b""}
    codes._known = {f"n/{n}/0": b"" for n in range(5_000)} | lasts
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    serving = asyncio.create_task(others())
    await codes._sweep()
    serving.cancel()
    assert codes._known == lasts and turns >= 5


async def test_only_who_has_the_token_may_ask(broker: MemoryBroker) -> None:
    async with running(kafka_of(broker.bootstrap)) as shop:
        for path in ("/otp", "/otp/verify"):
            assert (await shop.post(path, ASK, token="other"))[0] == 401
        assert shop.commands() == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/otp", b"{", 400),
        ("/otp", {"member_id": "m1"}, 400),
        ("/otp", ASK | {"more": 1}, 400),
        ("/otp", ASK | {"to": "015112345678"}, 400),
        ("/otp", ASK | {"to": "+33612345678"}, 429),
        ("/otp", ASK | {"member_id": "m" * 5_000}, 413),
        ("/otp/verify", {"id": "x", "member_id": "m1", "code": 123456}, 400),
        ("/otp/verify", {"id": "x", "member_id": "m1", "code": "123456"}, 404),
    ],
)
async def test_what_is_no_request_is_answered_and_sends_nothing(
    broker: MemoryBroker, path: str, body: Any, status: int
) -> None:
    async with running(kafka_of(broker.bootstrap)) as shop:
        got, told = await shop.post(path, body)
        assert got == status and "123456" not in str(told)
        assert shop.commands() == []


async def test_a_request_that_comes_in_pieces_is_read_whole(broker: MemoryBroker) -> None:
    async with running(kafka_of(broker.bootstrap)) as shop:
        whole = msgspec.json.encode(ASK)

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(whole), 10):
                yield whole[at : at + 10]
                await asyncio.sleep(0.02)

        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with shop.session.post(f"{shop.url}/otp", data=pieces(), headers=headers) as answer:
            assert answer.status == 201


async def test_requests_at_the_same_time_are_counted_one_after_the_other(broker: MemoryBroker) -> None:
    async with running(kafka_of(broker.bootstrap)) as shop:
        answers = await asyncio.gather(*(shop.post("/otp", ASK) for _ in range(12)))
        assert sorted(status for status, _ in answers) == [201] * 5 + [429] * 7
        assert len(shop.commands()) == 5


@pytest.mark.kafka
async def test_who_starts_takes_over_and_the_one_before_can_say_nothing_more(tmp_path: Path) -> None:
    with LocalBroker(tmp_path, Settings().cache_dir, heap_mb=256) as broker:
        create_topics(Settings.from_env({"TIDINGS_BROKER": broker.bootstrap, "TIDINGS_PARTITIONS": "2"}))
        kafka = kafka_of(broker.bootstrap)
        async with running(kafka) as before:
            ident, code = await before.code()
            async with running(kafka) as after:
                given = {"id": ident, "member_id": "m1", "code": code}
                # A worker that was frozen and has missed the takeover still knows the code, and must not say so.
                assert (await before.post("/otp/verify", given))[0] == 503
                assert await after.post("/otp/verify", given) == (200, {"result": "verified"})
                assert (await before.post("/otp/verify", given))[0] == 503


# ---------------------------------------------------------------- the rules' file


@pytest.mark.parametrize(("channel", "kind"), [("in_app", "inbox"), ("call", "calls")])
def test_a_code_does_not_go_where_texts_are_kept_for_long(channel: str, kind: str) -> None:
    rules = load_rules(TEXT.replace("channel: sms", f"channel: {channel}"), "otp.yaml")
    config = ProvidersConfig({TRANSACTIONAL: {channel: (read_spec("ours", kind, {}),)}})
    with pytest.raises(OperatorError, match=r"purposes\.login: ours keeps texts"):
        check_surroundings(rules, config, TemplateFiles(ROOT / "campaigns" / "templates"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("member: 5 per 1h", "member: 5 an hour", "limits.member: no limit"),
        ("member: 5 per 1h", "member: 5 per 2d", "limits.member: no limit"),
        ("  member: 5 per 1h\n", "", "limits.member: must have one"),
        ("  member:", "  meber: 1 per 1h\n  member:", "no such key (got 'meber')"),
        ("channel: sms", "channel: pos", "purposes.login: no channel"),
        ('"+49"', "49", "destinations.49: must be a prefix"),
        ("cost: 0.075", "cost: -1", "destinations.+49.cost"),
        ("purposes:", "purpose:", "and no other keys"),
        ("limits:\n", "digits: 3\nlimits:\n", "digits: must be"),
        ("limits:\n", "lifetime: 2h\nlimits:\n", "lifetime: must be"),
        ("limits:\n", "spend: {sms-main: much}\nlimits:\n", "spend.sms-main"),
        ("purposes: {", "purposes: {{", "not YAML"),
    ],
)
def test_each_fault_of_the_file_is_told_with_its_place(old: str, new: str, words: str) -> None:
    assert old in TEXT
    with pytest.raises(OperatorError) as caught:
        load_rules(TEXT.replace(old, new, 1), "otp.yaml")
    assert words in str(caught.value) and "otp.yaml:" in str(caught.value)


async def test_rules_that_name_what_there_is_not_do_not_start(tmp_path: Path) -> None:
    vendors = await Vendors().start()
    try:
        routes = {TRANSACTIONAL: {"sms": (spec("twilio", vendors),)}}
        config = ProvidersConfig(routes)
        rules = load_rules(TEXT + "spend: {twilio: 50, smtp: 5}\n", "otp.yaml")
        check_surroundings(rules, config, TemplateFiles(ROOT / "campaigns" / "templates"))
        wrong = load_rules(TEXT + "spend: {twillio: 50}\n", "otp.yaml")
        with pytest.raises(OperatorError) as caught:
            check_surroundings(wrong, ProvidersConfig(), TemplateFiles(tmp_path))
        text = str(caught.value)
        assert "spend.twillio" in text and "nobody carries sms" in text and "no such file" in text
    finally:
        await vendors.stop()
