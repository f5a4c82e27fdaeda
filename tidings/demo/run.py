"""One run of the demo: broker, SMTP server and roles up; the story; the wait for the last of it; the report."""

import dataclasses
import http.client
import json
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from schemas.errors import OperatorError
from sinks.sql_server import HOST, USER, read_address
from tidings.analytics import address_file
from tidings.brokers import open_broker
from tidings.brokers.admin import create_topics
from tidings.config import Settings
from tidings.demo.load import Load
from tidings.demo.outside import Outside
from tidings.demo.report import CASCADES, FUNNEL, NUMBERS, SUPPRESSED, Outcome, print_report
from tidings.demo.verify import read_topics, replay_agrees
from tidings.processes import TAIL_LINES, Child, Children, only_one, role_program
from tidings.smtp_server import SmtpServer
from tidings.standing import Lookout, is_ready, metrics_of, wait_until
from tidings.web.auth import token_of

PARTITIONS = 4  # enough to show that they exist; the sink writes blocks per partition
ROLES = ("engine", "delivery", "sink")
READY_S = 60.0
DRAINED_S = 90.0
STEP_S = 0.25
SQL_S = 30


class Steps:
    """Says on stderr what goes on: a line that moves on a terminal, a line per step elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
        )
        self._task = self._bar.add_task("")

    def __enter__(self) -> "Steps":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def step(self, text: str) -> None:
        """Begin a step."""
        self._bar.update(self._task, description=text)
        if not self._console.is_terminal:
            self._console.print(text, highlight=False)

    def detail(self, text: str) -> None:
        """Say how far the step is; only a terminal shows it."""
        self._bar.update(self._task, description=text)


def run_demo(settings: Settings, events: int, seed: int, campaigns: Path, out: Console, err: Console) -> bool:
    """Run the demo below `settings.data_dir`/demo, which is emptied first; tells whether everything agrees.

    Raises:
        OperatorError: something did not start, ended by itself, or did not come to its end in time.
    """
    began = time.monotonic()
    home = settings.data_dir / "demo"
    with only_one(settings.data_dir / "demo.lock", "a demo") as lock, ExitStack() as stack:
        steps = stack.enter_context(Steps(err))
        steps.step("starting broker, SMTP server and the three roles")
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        settings = dataclasses.replace(
            settings, data_dir=home, partitions=PARTITIONS, web_port=0, sql_port=0, kafka_port=0, clickhouse="chdb"
        )
        broker = stack.enter_context(open_broker(settings))
        settings = settings.with_broker(broker.bootstrap)
        create_topics(settings)
        outside = stack.enter_context(Outside(seed))
        outside.write_providers(home / "providers.yaml")
        load = Load(settings, seed, events, outside)
        stack.callback(load.close)
        smtp = stack.enter_context(SmtpServer(on_mail=load.react))
        settings = dataclasses.replace(
            settings, smtp=smtp.url, smtp_username="", smtp_password="", tracking_base_url=outside.url,
            receipts_base_url=f"{outside.url}/r", providers=str(home / "providers.yaml"), unsubscribe_base_url="",
        )  # fmt: skip
        children = stack.enter_context(
            Children(
                [Child(role_program(role), settings, home / "logs", lock) for role in ROLES],
                restart=False,
                say=steps.step,
            )
        )
        children.start()
        _await_ready(children)
        outside.leads_to(children.all[ROLES.index("delivery")].url)
        engine_url = children.all[0].url()
        token = token_of(settings)
        steps.step("publishing the campaigns, registering members")
        load.publish(campaigns)
        load.register()
        steps.step(f"the shop is open: {events:,} events at their own pace, members who get mail react")
        watch = _every(1.0, children.watch)

        def progress(sent: int) -> None:
            watch()
            steps.detail(f"the shop is open: {sent:,} of {events:,} events, {smtp.received:,} e-mails received")

        load.run(lambda: False, progress)
        steps.step("the shop is closed: waiting for the last absences, mails and rows")

        def quiet() -> bool:
            return not load.produce_reactions() and outside.idle()

        _await_drained(
            settings, children, engine_url, token, lambda text: steps.detail(f"the shop is closed: {text}"), quiet
        )
        load.flush()
        steps.step("reading the topics back, replaying the log without a broker")
        outcome = _outcome(settings, load, smtp, outside, began)
        steps.step("stopping")
        children.stop()
    note = "The broker was in memory: nothing of its log is kept." if broker.kind == "memory" else ""
    return print_report(outcome, out, f"{note} What it left: {home}".strip())


def _outcome(settings: Settings, load: Load, smtp: SmtpServer, outside: Outside, began: float) -> Outcome:
    log = read_topics(settings)
    return Outcome(
        load.counts, log, replay_agrees(log), smtp.received, sum(n - 1 for n in smtp.repeated.values()),
        ask_sql(settings, FUNNEL), ask_sql(settings, NUMBERS)[0], time.monotonic() - began,
        {"suppressed": ask_sql(settings, SUPPRESSED), "cascades": ask_sql(settings, CASCADES)},
        sum(map(len, outside.taken.values())), len(outside.told), load.done,
    )  # fmt: skip


def ask_sql(settings: Settings, query: str) -> list[dict[str, Any]]:
    """Ask the SQL endpoint of the process that owns chDB, as any ClickHouse client would.

    Raises:
        OperatorError: no answer, or a refusal.
    """
    address = read_address(address_file(settings))
    if address is None:
        raise OperatorError("sql: the sink does not serve SQL (got no address); see its log", exit_code=3)
    connection = http.client.HTTPConnection(HOST, address.port, timeout=SQL_S)
    words = {"database": address.database, "default_format": "JSON", "output_format_json_quote_64bit_integers": "0"}
    try:
        headers = {"X-ClickHouse-User": USER, "X-ClickHouse-Key": address.password}
        connection.request("POST", "/?" + urlencode(words), query.encode(), headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise OperatorError(
            f"sql: no answer from the sink (got {type(error).__name__}); see its log", exit_code=3
        ) from None
    finally:
        connection.close()
    if response.status != 200:
        raise OperatorError(f"sql: {body.decode('utf-8', 'replace').strip()}", exit_code=1)
    rows: list[dict[str, Any]] = json.loads(body)["data"]
    return rows


def _await_ready(children: Children) -> None:
    def ready() -> bool:
        children.watch()
        return all(is_ready(child.url()) for child in children.all)

    if not wait_until(ready, READY_S, STEP_S):
        late = [child for child in children.all if not is_ready(child.url())]
        raise OperatorError(
            f"{', '.join(child.program.name for child in late)}: not ready (got nothing for {READY_S:.0f} s); the log"
            f" {late[0].log_path} ends with:\n{late[0].last_words(TAIL_LINES)}"
            if late
            else "demo: not ready in time; try again",
            exit_code=1,
        )


def _await_drained(
    settings: Settings,
    children: Children,
    engine_url: str | None,
    token: str,
    say: Callable[[str], None],
    quiet: Callable[[], bool],
) -> None:
    """Wait until two looks in a row see nothing under way and the same ends: timers are counted four times a second.

    `quiet`: nothing is to come from outside.
    """  # fmt: skip
    last: Any = None
    seen: Any = None
    with Lookout(settings) as lookout:

        def drained() -> bool:
            nonlocal last, seen
            children.watch()
            seen = lookout.look(metrics_of(engine_url, token))
            if seen is None:
                return False
            say(
                f"{seen.timers} partitions with timers,"
                f" behind: engine {seen.engine_lag:,}, delivery {seen.delivery_lag:,}, sink {seen.sink_lag:,}"
            )
            settled = bool(quiet() and seen.done and seen == last)
            last = seen
            return settled

        if not wait_until(drained, DRAINED_S, 2 * STEP_S):
            raise OperatorError(
                f"demo: not everything came to its end (got {seen} after {DRAINED_S:.0f} s); see the logs in"
                f" {settings.data_dir / 'logs'}",
                exit_code=1,
            )


def _every(seconds: float, action: Callable[[], None]) -> Callable[[], None]:
    at = 0.0

    def act() -> None:
        nonlocal at
        if time.monotonic() >= at:
            at = time.monotonic() + seconds
            action()

    return act
