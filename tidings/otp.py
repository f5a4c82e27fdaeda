"""One-time codes: the rules' file, and the service that gives codes out and judges them.

What is decided says `streams/otp.py`; here are chance, clock and log. One thing is done after the other: a decision
sees all that was decided before it.
"""

import asyncio
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog
import yaml
from confluent_kafka import KafkaException

from agents.otp_log import OtpLog
from agents.providers import DEFAULT_MAIL
from schemas.commands import TRANSACTIONAL, SendMessage
from schemas.errors import OperatorError, TidingsError
from schemas.events import Event
from schemas.findings import errors
from schemas.ids import h128
from sinks.channels.checks import check_message
from sinks.channels.config import EMAIL, ProvidersConfig
from sinks.templates import TemplateFiles
from streams import otp
from streams.otp import Ask, Destination, Limit, Purpose, Rules, Step, Try
from streams.patterns.durations import parse_duration
from tidings.web.prometheus import Family, counter

CAMPAIGN = "one_time_code"  # what receipts name; no campaign of an author's, for they are not started
DATA_NAMES = frozenset({"code", "purpose", "minutes"})  # what templates see under `data`
ID_BYTES = 16
SWEEP_S = 60.0
SWEPT_AT_ONCE = 500  # records looked at before requests have their turn: a millisecond
COUNT_MAX = 1_000
FILE_BYTES_MAX = 65_536
LIMITS = ("member", "address", "ip", "range", "wrong_member", "wrong_ip")
KEYS = frozenset({"purposes", "destinations", "digits", "lifetime", "attempts", "limits", "spend"})
KEEPING = frozenset({"inbox", "calls"})  # kinds of providers whose topics hold what they were given
MILLION = 1_000_000
_LIMIT = re.compile(r"([0-9]{1,4}) per (\S{1,20})")
_PREFIX = re.compile(r"\+[1-9][0-9]{0,14}")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")

log = structlog.get_logger("tidings.otp")


class NotKept(TidingsError):
    """What was decided could not be made durable: nobody may be told."""


class Codes:
    """Gives codes out and judges them. `run` it; it answers once it is `ready`.

    Args:
        rules: of the operator.
        kafka: librdkafka settings.
        secret: keys all hashes; another one makes every live code wrong.
        config: tells which provider carries a channel.
        clock_ms: the wall clock.
        draw: draws a number below its argument, by chance.
    """

    def __init__(
        self,
        rules: Rules,
        kafka: Mapping[str, Any],
        secret: bytes,
        config: Callable[[], ProvidersConfig],
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        draw: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self.rules = rules
        self.ready = False
        self._kafka = kafka
        self._secret = secret
        self._config = config
        self._clock_ms = clock_ms
        self._draw = draw
        self._known: dict[str, bytes] = {}
        self._log: OtpLog | None = None
        self._turn = asyncio.Lock()
        self._failed = asyncio.Event()
        self._failure: BaseException | None = None
        self._counts: Counter[tuple[str, str]] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        """Take over, read what is known, then serve until `stop`.

        Raises:
            KafkaException: the broker refuses us: for good, or because another process has taken over. What is known
                must be read again, by a new process.
        """
        self._log = await asyncio.to_thread(OtpLog, self._kafka)
        try:
            now = self._clock_ms()
            found = await asyncio.to_thread(self._log.read)
            self._known = {key: raw for key, raw in found.items() if not otp.outdated(key, raw, now)}
            self.ready = True
            log.info("otp.ready", records=len(self._known))
            while not stop.is_set() and self._failure is None:
                waiting = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(self._failed.wait())]
                await asyncio.wait(waiting, timeout=SWEEP_S, return_when=asyncio.FIRST_COMPLETED)
                for one in waiting:
                    one.cancel()
                await self._sweep()
        finally:
            self.ready = False
            async with self._turn:  # what is being written comes to its end
                self._log.close()
        if self._failure is not None:
            raise self._failure

    async def request(self, ask: Ask) -> tuple[Step, str]:
        """Send a code, if the rules allow it; returns what was decided, and the challenge's id.

        Raises:
            NotKept: nothing may be said.
        """
        return await asyncio.shield(asyncio.ensure_future(self._request(ask)))

    async def verify(self, given: Try) -> Step:
        """Judge a code.

        Raises:
            NotKept: nothing may be said.
        """
        return await asyncio.shield(asyncio.ensure_future(self._verify(given)))

    def families(self) -> list[Family]:
        """List what was counted."""
        return families_of(self._counts)

    async def _request(self, ask: Ask) -> tuple[Step, str]:
        ident = secrets.token_hex(ID_BYTES)
        code = str(self._draw(10**self.rules.digits)).zfill(self.rules.digits)
        async with self._turn:
            now = self._clock_ms()
            step = otp.request(
                self.rules, self._known.get, ask, challenge_id=ident, code=code, provider=self._provider(ask.purpose),
                secret=self._secret, now_ms=now,
            )  # fmt: skip
            if step.result == "granted":
                command = self._command(ask, step, ident, code, now)
                await self._keep(step, [command], [_event("otp.requested", ask.member_id, step, ident, 0, now)])
        self._counts["request", step.result] += 1
        return step, ident if step.result == "granted" else ""

    async def _verify(self, given: Try) -> Step:
        async with self._turn:
            now = self._clock_ms()
            step = otp.verify(self.rules, self._known.get, given, secret=self._secret, now_ms=now)
            if step.changes:
                attempt = self.rules.attempts - step.attempts_left
                kind = "otp.verified" if step.result == "verified" else "otp.failed"
                told = step.result in ("verified", "wrong")
                events = [_event(kind, given.member_id, step, given.id, attempt, now)] if told else []
                await self._keep(step, [], events)
        self._counts["verify", step.result] += 1
        return step

    async def _keep(self, step: Step, commands: list[SendMessage], events: list[Event]) -> None:
        if not self.ready or self._log is None:
            raise NotKept("one-time codes: not ready; ask again")
        try:
            await asyncio.to_thread(self._log.write, step.changes, commands, events)
        except BufferError:
            raise NotKept("one-time codes: not kept; ask again") from None  # certainly not written
        except KafkaException as error:
            # Written or not, nobody knows; or another process has taken over. Nothing is answered from memory any more.
            self.ready = False
            self._failure = error
            self._failed.set()
            log.error("otp.not-kept", error=error.args[0].name())
            raise NotKept("one-time codes: not kept; ask again") from None
        self._known |= step.changes

    def _provider(self, purpose: str) -> str:
        channel = self.rules.purposes[purpose].channel if purpose in self.rules.purposes else ""
        listed = self._config().channels(TRANSACTIONAL).get(channel, ())
        return listed[0].name if listed else DEFAULT_MAIL

    def _command(self, ask: Ask, step: Step, ident: str, code: str, now: int) -> SendMessage:
        return SendMessage(
            command_id=h128("otp", ident), member_id=ask.member_id, campaign=CAMPAIGN, version="", instance_id=ident,
            step=ask.purpose, channel=step.channel, template=self.rules.purposes[ask.purpose].template,
            address=ask.to, decided_at_ms=now, caused_at_ms=now, expires_at_ms=step.expires_ms, anchor=ident,
            category=TRANSACTIONAL, lane=TRANSACTIONAL,
            data={"code": code, "purpose": ask.purpose, "minutes": max(1, self.rules.lifetime_ms // 60_000)},
        )  # fmt: skip

    async def _sweep(self) -> None:
        """Forget what says nothing any more, a few at a time: requests are answered in between."""
        now, keys = self._clock_ms(), list(self._known)
        for start in range(0, len(keys), SWEPT_AT_ONCE):
            for key in keys[start : start + SWEPT_AT_ONCE]:
                if otp.outdated(key, self._known[key], now):  # nobody else takes any away
                    del self._known[key]
            await asyncio.sleep(0)


def families_of(counts: Mapping[tuple[str, str], int]) -> list[Family]:
    """Make the metrics of what was counted by (request or verify, result)."""
    text = {"request": "Requests for one-time codes by result.", "verify": "One-time codes judged, by result."}
    return [
        counter(
            f"tidings_otp_{kind}_total", words,
            [({"result": result}, count) for (one, result), count in sorted(counts.items()) if one == kind],
        )
        for kind, words in text.items()
    ]  # fmt: skip


def _event(kind: str, member_id: str, step: Step, ident: str, attempt: int, now: int) -> Event:
    facts: dict[str, Any] = {"purpose": step.purpose, "channel": step.channel, "attempt": attempt}
    if kind == "otp.failed":
        facts["reason"] = step.result
    return Event(
        type=kind, occurred_at_ms=now, event_id=h128(kind, ident, str(attempt)), member_id=member_id,
        source="tidings-otp", causation_id=h128("otp", ident), data=facts,
    )  # fmt: skip


# ---------------------------------------------------------------- the rules' file


def check_surroundings(rules: Rules, config: ProvidersConfig, templates: TemplateFiles) -> None:
    """See that what the rules name is there: a cap on a provider that there is none of would hold nobody back.

    Raises:
        OperatorError: every fault, one per line.
    """
    routes = config.channels(TRANSACTIONAL)
    names = {DEFAULT_MAIL, *(spec.name for listed in routes.values() for spec in listed)}
    missing = [name for name in rules.spend if name not in names]
    faults = [f"TIDINGS_OTP: spend.{name}: no such provider in lane transactional" for name in missing]
    for name, purpose in rules.purposes.items():
        keeping = [spec.name for spec in routes.get(purpose.channel, ()) if spec.kind in KEEPING]
        if keeping:
            faults.append(
                f"TIDINGS_OTP: purposes.{name}: {', '.join(keeping)} keeps texts for 30 days, and so the code;"
                " set another channel, or another provider in lane transactional"
            )
        if purpose.channel != EMAIL and purpose.channel not in routes:
            faults.append(f"TIDINGS_OTP: purposes.{name}: nobody carries {purpose.channel}; see docs/channels.md")
        found = check_message(purpose.channel, purpose.template, templates, DATA_NAMES)
        faults += [f"TIDINGS_OTP: purposes.{name}: {one}" for one in errors(found)]
    if faults:
        raise OperatorError("\n".join(faults))


def read_rules(path: Path) -> Rules:
    """Read the rules of one-time codes.

    Raises:
        OperatorError: every fault in the file, one per line.
    """
    try:
        raw = path.read_bytes()[: FILE_BYTES_MAX + 1]
    except OSError as error:
        raise OperatorError(f"{path}: cannot be read ({error.strerror or error}); check TIDINGS_OTP") from None
    return load_rules(raw.decode("utf-8", "replace"), str(path))


def load_rules(text: str, path: str) -> Rules:
    """Read the rules' text.

    Raises:
        OperatorError: every fault in it, one per line.
    """
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        raise OperatorError(f"{place}: not YAML ({getattr(error, 'problem', 'cannot be read')}); mend it") from None
    if not isinstance(raw, dict) or not set(raw) <= KEYS:
        raise OperatorError(
            f"{path}: must have {', '.join(sorted(KEYS))} and no other keys; see docs/one-time-codes.md"
        )
    reader = _Reader(path, raw)
    rules = reader.rules()
    if reader.faults:
        raise OperatorError("\n".join(reader.faults))
    return rules


class _Reader:
    def __init__(self, path: str, raw: dict[str, Any]) -> None:
        self._path = path
        self._raw = raw
        self.faults: list[str] = []

    def rules(self) -> Rules:
        limits = self._mapping(self._raw, "limits")
        self._known("limits", limits, LIMITS)
        kinds = {kind: self._limits(f"limits.{kind}", limits.get(kind)) for kind in LIMITS}
        for kind, found in kinds.items():
            if not found:
                self._fault(f"limits.{kind}", "must have one limit or more (got none); write e.g. [5 per 1h]")
        return Rules(
            purposes=self._purposes(), destinations=self._destinations(), digits=self._whole("digits", 6, 4, 10),
            lifetime_ms=self._lifetime(), attempts=self._whole("attempts", 5, 1, 10), spend=self._spend(), **kinds,
        )  # fmt: skip

    def _purposes(self) -> dict[str, Purpose]:
        found = {}
        for name, entry in self._mapping(self._raw, "purposes").items():
            place = f"purposes.{name}"
            if not _NAME.fullmatch(str(name)) or not isinstance(entry, dict) or set(entry) != {"channel", "template"}:
                self._fault(place, "must be a short name with a channel and a template")
                continue
            if entry["channel"] not in (*otp.PHONE_CHANNELS, "email", "push", "bot", "in_app"):
                self._fault(place, f"no channel for a code (got {entry['channel']!r}); set sms or email")
            found[str(name)] = Purpose(str(entry["channel"]), str(entry["template"]))
        if not found:
            self._fault("purposes", "names none (got none); write e.g. login: {channel: sms, template: otp}")
        return found

    def _destinations(self) -> tuple[Destination, ...]:
        found = []
        for prefix, entry in self._mapping(self._raw, "destinations").items():
            place = f"destinations.{prefix}"
            if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix) or not isinstance(entry, dict):
                self._fault(place, 'must be a prefix in quotes, such as "+49", with limits and cost')
                continue
            self._known(place, entry, ("limits", "cost"))
            limits = self._limits(f"{place}.limits", entry.get("limits"))
            if not limits:
                self._fault(f"{place}.limits", "must have one limit or more (got none); write e.g. [300 per 1h]")
            found.append(Destination(prefix, limits, self._amount(f"{place}.cost", entry.get("cost"))))
        return tuple(found)

    def _limits(self, place: str, raw: Any) -> tuple[Limit, ...]:
        found = []
        for text in raw if isinstance(raw, list) else [] if raw is None else [raw]:
            match = _LIMIT.fullmatch(str(text))
            try:
                window = parse_duration(match[2]) if match else 0
            except ValueError:
                window = 0
            if match is None or not 1 <= int(match[1]) <= COUNT_MAX or not 1_000 <= window <= otp.DAY_MS:
                self._fault(place, f"no limit (got {text!r}); write 1 to {COUNT_MAX} per 1s to 1d, such as 5 per 1h")
                continue
            found.append(Limit(int(match[1]), window))
        return tuple(found)

    def _spend(self) -> dict[str, int]:
        entries = self._mapping(self._raw, "spend").items()
        return {str(name): self._amount(f"spend.{name}", entry) for name, entry in entries}

    def _amount(self, place: str, raw: Any) -> int:
        if isinstance(raw, int | float) and not isinstance(raw, bool) and 0 <= raw <= MILLION:
            return round(raw * MILLION)
        self._fault(place, f"must be an amount from 0 to {MILLION:,} (got {raw!r})")
        return 0

    def _lifetime(self) -> int:
        text = str(self._raw.get("lifetime", "5m"))
        try:
            found = parse_duration(text)
        except ValueError:
            found = 0
        if not 30_000 <= found <= 3_600_000:
            self._fault("lifetime", f"must be from 30s to 1h (got {text!r})")
        return found

    def _whole(self, key: str, default: int, low: int, high: int) -> int:
        found = self._raw.get(key, default)
        if isinstance(found, int) and not isinstance(found, bool) and low <= found <= high:
            return found
        self._fault(key, f"must be a whole number from {low} to {high} (got {found!r})")
        return default

    def _mapping(self, raw: dict[str, Any], key: str) -> dict[Any, Any]:
        value = raw.get(key)
        if isinstance(value, dict) or value is None:
            return value or {}
        self._fault(key, "must be a mapping; see docs/one-time-codes.md")
        return {}

    def _known(self, place: str, found: Mapping[Any, Any], keys: tuple[str, ...]) -> None:
        for key in found:
            if key not in keys:
                self._fault(place, f"no such key (got {key!r}); keys are {', '.join(keys)}")

    def _fault(self, place: str, message: str) -> None:
        self.faults.append(f"{self._path}: {place}: {message}")
