"""Puts one worker process together: settings, a directory of its own, the role, its web endpoints, its end.

A worker has `{data_dir}/{role}-{instance}/`, locked while it runs. It ends on SIGTERM or SIGINT: what is under way is
brought to its end within the role's `STOP_S`; what then still hangs is dropped with the process, and read again by the
next one, which the commit protocols allow at any point.
"""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
import structlog
from aiohttp import web

from agents.records import Counters, RecordSink
from agents.topics import APP_ID, BY_NAME, CHANGELOG, COMMANDS_OF, EVENTS, OTP_STATE
from schemas.commands import TRANSACTIONAL
from schemas.errors import OperatorError, StateError, TidingsError
from schemas.ids import h128
from tables.rocks import DirectoryLock
from tidings.brokers import attach
from tidings.brokers.admin import describe
from tidings.brokers.refusal import refused_for_long
from tidings.collector import quiet_gc
from tidings.compiled import spelled
from tidings.config import Settings
from tidings.loop import quick_loop
from tidings.memory import give_back_forever
from tidings.registry import decoder_of
from tidings.web.ask import URL_FILE
from tidings.web.auth import is_loopback, kept_secret, token_of
from tidings.web.pages import sink_trouble
from tidings.web.prometheus import DeliveryRecorder, sink_families
from tidings.web.routes import Probes, cannot_listen, serve

if TYPE_CHECKING:
    from sinks.channels.config import ProvidersConfig
    from sinks.dkim import DkimSigner

ENGINE, DELIVERY, SINK, OTP = "engine", "delivery", "sink", "otp"
# Apart, so that all roles run beside one another without any option; 20 workers of a role fit on one machine.
PORT_OFFSETS = {ENGINE: 0, DELIVERY: 20, SINK: 40, OTP: 60}
ROLES = tuple(PORT_OFFSETS)
NEEDED = {
    ENGINE: (EVENTS, CHANGELOG),
    DELIVERY: (EVENTS, *COMMANDS_OF.values()),
    SINK: (EVENTS,),
    OTP: (EVENTS, COMMANDS_OF[TRANSACTIONAL], OTP_STATE),
}
BROKER_WAIT_S = 10.0
# Delivery may wait 10 s for mail under way (agents/send.py): to cut a mail off leaves its outcome uncertain.
STOP_S = {ENGINE: 9.5, DELIVERY: 20.0, SINK: 9.5, OTP: 15.0}
FAILED_EXIT_S = 3.0  # for threads that hang after a failure: the consumer's would keep our partitions from others
ID_FILE = "group-instance-id"
SECRET_FILE = "unsubscribe-secret"  # noqa: S105 - the name of a file
SECRET_MIN = 16

log = structlog.get_logger("tidings.worker")


@dataclass(frozen=True)
class Launch:
    """What a role needs to run.

    `home`: this worker's own directory. `port`: free when it was looked at; never 0. `token`: may be empty.
    `partitions`: of `events`, as the broker has them.
    """

    settings: Settings
    role: str
    home: Path
    port: int
    token: str
    partitions: int

    @property
    def url(self) -> str:
        """How other processes reach this worker's endpoints."""
        host = self.settings.web_host
        if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            host = socket.gethostname()
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def group_instance_id(self) -> str | None:
        """Static membership, as stable as the state on this disk; None on the memory broker, which has none.

        An engine's id holds its address too: Faust finds it in the assignment that a returning member gets as it left
        it, and ends when it is another one. An engine that moves is a new member, and the old one's partitions wait for
        the session timeout.
        """
        if self.settings.broker_kind == "memory":
            return None
        address = f"-{h128(self.url)[:8]}" if self.role == ENGINE else ""
        return f"{self.role}-{kept_secret(self.home / ID_FILE)[:12]}{address}"


def run_worker(settings: Settings, role: str, *, instance: int = 0, web_port: int | None = None) -> None:
    """Run one role until a signal ends it.

    Args:
        settings: of a broker that runs, or that `attach` finds.
        role: one of `ROLES`.
        instance: number of this worker among those of its role on this data directory.
        web_port: where its endpoints listen; 0: any free port; None: the setting's plus offsets.

    Raises:
        OperatorError: with exit code 3 when the broker does not answer or a port is taken, 2 when the data directory is
            in use, 1 when the worker failed while it ran.
    """
    settings = attach(settings)
    partitions = _partitions(settings, role)
    home = settings.data_dir / f"{role}-{instance}"
    with _own(home):
        wanted = _port(settings, role, instance) if web_port is None else web_port
        token = token_of(settings)
        launch = Launch(settings, role, home, _free(settings.web_host, wanted), token, partitions)
        click.echo(
            f"tidings worker {role}: broker {settings.broker}, data {home}, web {launch.url}"
            + ("" if token else " (no token: only /health and /ready; set TIDINGS_WEB_TOKEN)")
        )
        loop = quick_loop() if role in (ENGINE, DELIVERY) else None
        with _published(home / URL_FILE, launch.url), asyncio.Runner(loop_factory=loop) as runner:
            runner.run(_until_signal(launch))


def _port(settings: Settings, role: str, instance: int) -> int:
    return settings.web_port + PORT_OFFSETS[role] + instance if settings.web_port else 0


def _partitions(settings: Settings, role: str) -> int:
    """Ask the broker; it must answer and have the role's topics."""
    specs = [BY_NAME[name] for name in NEEDED[role]]
    states = describe(settings, specs, timeout_s=BROKER_WAIT_S, configuration=False)
    missing = [state.name for state in states if not state.partitions]
    if missing:
        raise OperatorError(
            f"broker {settings.bootstrap}: topics are missing (got no {', '.join(missing)}); "
            "run: python -m tidings topics create",
            exit_code=3,
        )
    counts = {state.name: state.partitions for state in states}
    if role == ENGINE and counts[CHANGELOG] != counts[EVENTS]:
        raise OperatorError(
            f"broker {settings.bootstrap}: '{EVENTS}' and '{CHANGELOG}' must have the same number of partitions "
            f"(got {counts[EVENTS]} and {counts[CHANGELOG]}); delete the changelog's topic and create it again"
        )
    return counts[EVENTS]


@contextlib.contextmanager
def _own(home: Path) -> Iterator[None]:
    try:
        lock = DirectoryLock(home)
    except StateError as error:
        raise OperatorError(f"{error}: --instance N") from None
    except OSError as error:
        raise OperatorError(
            f"{home}: cannot be used (got {error.strerror or error}); check TIDINGS_DATA_DIR and its rights"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _free(host: str, port: int) -> int:
    """Return a port that can be listened on. It is known before the app exists: other workers are told of it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise cannot_listen(host, port, error) from None
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _published(path: Path, url: str) -> Iterator[None]:
    path.write_text(url, "utf-8")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


async def _until_signal(launch: Launch) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    watchdog = threading.Timer(STOP_S[launch.role], _cut_off, [launch.role])
    watchdog.daemon = True

    def end() -> None:
        if not stop.is_set():
            log.info("worker stops", role=launch.role)
            stop.set()
            watchdog.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    run = {ENGINE: _run_engine, DELIVERY: _run_delivery, SINK: _run_sink, OTP: _run_otp}[launch.role]
    log.info("worker starts", role=launch.role, broker=launch.settings.broker, web=launch.url, core=spelled())
    giving_back = asyncio.create_task(give_back_forever())
    watching = asyncio.create_task(_end_when_refused(launch, end))
    try:
        await run(launch, stop)
        if watching.done():
            raise watching.result()
    except OperatorError:
        raise
    except Exception as error:
        if watching.done():
            raise watching.result() from None
        log.error("worker failed", role=launch.role, exc_info=error)
        # A library's error may quote a record; its text is masked in the log and left out here.
        told = f": {error}" if isinstance(error, TidingsError) else ""
        failure = OperatorError(
            f"worker {launch.role}: failed (got {type(error).__name__}{told}); see the log above, then start it again: "
            "it goes on from what is durable",
            exit_code=1,
        )
        last = threading.Timer(FAILED_EXIT_S, _leave, [failure])
        last.daemon = True
        last.start()
        raise failure from None
    finally:
        giving_back.cancel()
        watching.cancel()
        watchdog.cancel()
    log.info("worker stopped", role=launch.role)


async def _end_when_refused(launch: Launch, end: Callable[[], None]) -> OperatorError:
    """Stop the worker when the broker no longer takes its user; what it cannot commit is done again after a restart."""
    failure = await refused_for_long(launch.settings)
    end()
    last = threading.Timer(STOP_S[launch.role] - 1, _leave, [failure])  # before it is cut off without a word
    last.daemon = True
    last.start()
    return failure


def _leave(failure: OperatorError) -> None:
    """End a process whose tasks or threads hang after a failure, with what it would have said."""
    click.echo(str(failure), err=True)
    os._exit(failure.exit_code)


def _cut_off(role: str) -> None:
    log.error("worker did not stop in time and is cut off", role=role, waited_s=STOP_S[role])
    os._exit(1)


async def _run_engine(launch: Launch, stop: asyncio.Event) -> None:
    # Here, not above: Faust takes 0.7 s to import, and the other roles do without.
    from agents.memory import EngineMemory, WorkerMemory
    from agents.watchdog import Limits
    from agents.wiring import create_engine_app, run_engine_app
    from streams.engine import PartitionEngine
    from tidings.web.engine import install_engine

    settings = launch.settings
    credentials = settings.faust_credentials
    memory = WorkerMemory(EngineMemory.of(settings.engine_memory_mb))
    try:
        built = create_engine_app(
            bootstrap=settings.bootstrap.split(","),
            data_dir=launch.home,
            engines=partial(PartitionEngine, decode=decoder_of(settings), hot_bytes=memory.hot),
            memory=memory,
            partitions=launch.partitions,
            instance=launch.group_instance_id,
            session_timeout_s=settings.group_session_timeout_ms / 1000,
            standby_replicas=settings.standby_replicas,
            limits=Limits(settings.recovery_stall_ms / 1000, settings.progress_stall_ms / 1000),
            web_enabled=True,
            web_host=settings.web_host,
            web_port=launch.port,
            canonical_url=launch.url,
            security={"broker_credentials": credentials} if credentials is not None else None,
        )
    except StateError as error:
        raise OperatorError(f"{error}: --instance N") from None
    install_engine(built, launch.partitions, launch.token)
    log.info("engine app made", app=APP_ID, partitions=launch.partitions)
    with quiet_gc():
        await run_engine_app(built, stop)


async def _run_delivery(launch: Launch, stop: asyncio.Event) -> None:
    from agents.desks import Desks
    from agents.send import run_delivery
    from agents.send_page import MailExtras
    from tidings.providers import ProvidersFile
    from tidings.web.desks import install_desks
    from tidings.web.receipts import receiving
    from tidings.web.tracking import tracking
    from tidings.web.unsubscribe import unsubscribing

    settings = launch.settings
    secret, base_url = unsubscribe_secret(settings), unsubscribe_base_url(launch)
    providers = ProvidersFile(Path(settings.providers) if settings.providers else None)
    dkim = dkim_signer(settings)
    log.info("unsubscribe links", lead_to=base_url, served_at=f"{launch.url}/u")
    recorder = DeliveryRecorder()
    ready = asyncio.Event()
    kafka = settings.confluent(
        {
            "session.timeout.ms": settings.group_session_timeout_ms,
            "fetch.wait.max.ms": settings.fetch_wait_ms,
            "log_level": 4,  # warnings: these settings go to a producer as well, which remarks on it
        }
    )
    if launch.group_instance_id is not None:
        kafka["group.instance.id"] = launch.group_instance_id
    probes = Probes(
        DELIVERY,
        lambda: None if ready.is_set() else ("what was sent before is being read", "wait; it then answers 200"),
        recorder.families,
    )

    def extend(app: web.Application) -> None:
        for install in (unsubscribe, receive, track):
            install(app)
        install_desks(app, desks, [secret], recorder)

    async with (
        Desks.beside(launch.home / "sent", kafka, recorder) as desks,
        unsubscribing(settings, [secret], recorder, lambda: _reaching(providers.current())) as unsubscribe,
        receiving(settings, [secret], providers.current, recorder) as receive,
        tracking(settings, [secret], recorder) as track,
        _served(launch, probes, extend),
    ):
        with quiet_gc():
            await run_delivery(
                kafka=kafka,
                smtp_url=settings.smtp,
                smtp_username=settings.smtp_username,
                smtp_password=settings.smtp_password,
                mail_from=settings.mail_from,
                templates_dir=settings.templates_dir,
                state_dir=launch.home / "sent",
                unsubscribe_base_url=base_url,
                unsubscribe_secret=secret,
                stop=stop,
                receipts_base_url=settings.receipts_base_url,
                extras=MailExtras(dkim, settings.tracking_base_url),
                config=providers.current,
                metrics=recorder,
                ready=ready,
                desks=desks,
            )


async def _run_otp(launch: Launch, stop: asyncio.Event) -> None:
    from sinks.templates import TemplateFiles
    from tidings.otp import Codes, check_surroundings, read_rules
    from tidings.providers import ProvidersFile
    from tidings.web.otp import install_otp

    settings = launch.settings
    if not settings.otp:
        raise OperatorError("TIDINGS_OTP: names no file (got nothing); write the rules: docs/one-time-codes.md")
    providers = ProvidersFile(Path(settings.providers) if settings.providers else None)
    rules = read_rules(Path(settings.otp))
    check_surroundings(rules, providers.current(), TemplateFiles(settings.templates_dir))
    codes = Codes(rules, settings.confluent({"log_level": 4}), unsubscribe_secret(settings), providers.current)
    probes = Probes(
        OTP, lambda: None if codes.ready else ("what is known is being read", "wait; it then answers 200"),
        codes.families,
    )  # fmt: skip
    async with _served(launch, probes, lambda app: install_otp(app, codes)):
        await codes.run(stop)


def _reaching(config: "ProvidersConfig") -> list[str]:
    """List the channels that reach a member: e-mail first, then those of the providers' file; no webhook."""
    carried = {channel for routes in config.lanes.values() for channel in routes}
    return ["email", *sorted(carried - {"email", "webhook"})]


def unsubscribe_secret(settings: Settings) -> bytes:
    """Return what signs unsubscribe links: the setting's, else one that is made once and kept in the data directory.

    Raises:
        OperatorError: the setting is too short.
    """
    if not settings.unsubscribe_secret:
        return kept_secret(settings.data_dir / SECRET_FILE).encode()
    if len(settings.unsubscribe_secret) < SECRET_MIN:
        raise OperatorError(
            f"TIDINGS_UNSUBSCRIBE_SECRET: must have {SECRET_MIN} characters or more "
            f"(got {len(settings.unsubscribe_secret)}); set a random one and keep it"
        )
    return settings.unsubscribe_secret.encode()


def dkim_signer(settings: Settings) -> "DkimSigner | None":
    """Return what signs mails; None when no key is set.

    Raises:
        OperatorError: the key, its selector or its domain is not as it must be.
    """
    if not settings.dkim_key:
        return None
    from sinks.dkim import DkimSigner
    from sinks.mime import Sender

    sender = Sender.parse(settings.mail_from)
    return DkimSigner.read(Path(settings.dkim_key), settings.dkim_selector, settings.dkim_domain, sender.domain)


def unsubscribe_base_url(launch: Launch) -> str:
    """Return where unsubscribe links lead: the setting, else this worker, while mail stays on this machine.

    Raises:
        OperatorError: mail leaves this machine, where an address of this worker may lead nowhere.
    """
    settings = launch.settings
    if settings.unsubscribe_base_url:
        return settings.unsubscribe_base_url
    host = urlsplit(settings.smtp).hostname or ""
    if not is_loopback(host):
        raise OperatorError(
            f"TIDINGS_UNSUBSCRIBE_BASE_URL: must be set when mail leaves this machine (got nothing, and the SMTP server"
            f" {host}); set the public https address that passes on to {launch.url}/u"
        )
    return f"{launch.url}/u"


async def _run_sink(launch: Launch, stop: asyncio.Event) -> None:
    from tidings.analytics import run_sink_role

    running: list[RecordSink] = []
    ended = threading.Event()

    async def pass_on() -> None:
        await stop.wait()
        ended.set()

    def counters() -> Counters | None:
        return running[0].counters if running else None

    probes = Probes(SINK, lambda: sink_trouble(counters()), lambda: sink_families(counters()))
    passing = asyncio.create_task(pass_on())
    try:
        async with _served(launch, probes):
            await asyncio.to_thread(run_sink_role, launch.settings, ended, on_sink=running.append)
    finally:
        passing.cancel()


@contextlib.asynccontextmanager
async def _served(
    launch: Launch, probes: Probes, extend: Callable[[web.Application], object] | None = None
) -> AsyncIterator[None]:
    runner = await serve(probes, launch.token, launch.settings.web_host, launch.port, extend)
    try:
        yield
    finally:
        await runner.cleanup()
