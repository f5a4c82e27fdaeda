"""`up`: keeps broker, roles, campaigns and mail running on this machine until it is told to stop."""

import contextlib
import dataclasses
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import click

from schemas.errors import OperatorError
from sinks.sql_server import HOST, read_address
from tidings.analytics import address_file
from tidings.brokers import open_broker
from tidings.brokers.admin import create_topics
from tidings.config import Settings
from tidings.mailbox import Mailbox
from tidings.processes import Child, Children, Program, only_one, role_program
from tidings.smtp_server import SmtpServer
from tidings.standing import Lookout, Standing, is_ready, metrics_of
from tidings.web.auth import TOKEN_FILE, token_of

ROLES = ("engine", "delivery", "sink")
WATCH_S = 0.25
STATUS_S = 5.0
READY_S = 120.0  # recovery of a large state is longer; then it says so and goes on
WRONG = (2, 3)  # a setting, a port, a broker: at the start these do not mend themselves
SMTP_PORT = 1025  # Mailpit's


def run_up(
    settings: Settings, campaigns: Path, smtp_url: str | None, stop: threading.Event, say: Callable[[str], None]
) -> None:
    """Run everything until `stop` is set.

    Args:
        settings: what to start: a broker of `memory` or `local`, or one that runs.
        campaigns: published at the start and whenever a file changes.
        smtp_url: where mail goes; None: to a server of our own that keeps it below the data directory.
        stop: set it to end; everything is then stopped in order.
        say: told one line at a time, for people.

    Raises:
        OperatorError: something cannot be started.
    """
    if settings.broker == "memory":
        settings = _forgetful(settings, say)
    with only_one(settings.data_dir / "up.lock", "'up'") as lock, ExitStack() as stack:
        broker = stack.enter_context(open_broker(settings))
        settings = settings.with_broker(broker.bootstrap)
        say(f"broker     {settings.broker} ({broker.note})")
        create_topics(settings)
        settings = dataclasses.replace(settings, smtp=smtp_url or stack.enter_context(_own_smtp(settings, say)))
        logs = settings.data_dir / "logs"
        programs = [role_program(role) for role in ROLES]
        programs.append(Program("campaigns", ("campaigns", "publish", "--watch", str(campaigns))))
        children = stack.enter_context(
            Children([Child(program, settings, logs, lock) for program in programs], restart=True, say=say)
        )
        children.start()
        _await_ready(children, stop, say)
        if not stop.is_set():
            _tell(settings, children, campaigns, logs, say)
            _keep(settings, children, stop)
        say("stopping")
        began = time.monotonic()
        children.stop()
    say(f"stopped in {time.monotonic() - began:.1f} s; " + _kept(broker.keeps))


def _forgetful(settings: Settings, say: Callable[[str], None]) -> Settings:
    """Give the memory broker a data directory that is as new as its log: state of another log would be wrong."""
    home = settings.data_dir / "memory"
    if home.exists():
        with only_one(home / "up.lock", "'up'"):  # its children may still be ending
            shutil.rmtree(home)
    say(f"data       {home}: nothing of it is kept, as nothing of the log is; 'up --broker local' keeps both")
    return dataclasses.replace(settings, data_dir=home)


@contextlib.contextmanager
def _own_smtp(settings: Settings, say: Callable[[str], None]) -> Iterator[str]:
    mailbox = Mailbox(settings.data_dir / "mail")
    server = SmtpServer(SMTP_PORT, keep=0, on_mail=mailbox.keep)
    try:
        server.start()
    except OperatorError:  # another `up`, or Mailpit
        server = SmtpServer(keep=0, on_mail=mailbox.keep).start()
    try:
        say(f"mail       {server.url}, kept as .eml files in {mailbox.directory}, delivered to nobody")
        yield server.url
    finally:
        server.stop()


def _await_ready(children: Children, stop: threading.Event, say: Callable[[str], None]) -> None:
    until = time.monotonic() + READY_S
    roles = [child for child in children.all if child.program.name in ROLES]
    while not stop.wait(WATCH_S):
        children.watch(fatal=WRONG)
        if all(is_ready(child.url()) for child in roles):
            return
        if time.monotonic() > until:
            late = ", ".join(child.program.name for child in roles if not is_ready(child.url()))
            say(f"not ready yet: {late}; going on, see the logs")
            return


def _tell(settings: Settings, children: Children, campaigns: Path, logs: Path, say: Callable[[str], None]) -> None:
    engine = children.all[0].url() or "not yet"
    say(f"web        {engine} (/ready, /metrics, /campaigns, /members/ID); token: {settings.data_dir / TOKEN_FILE}")
    address = read_address(address_file(settings))
    if address is not None:
        say(f"SQL        http://{HOST}:{address.port} in ClickHouse's dialect; password: {address_file(settings)}")
    say(f"campaigns  {campaigns}, an edit is live at once")
    say(f"logs       {logs}")
    say("ready; Ctrl-C stops it")


def _keep(settings: Settings, children: Children, stop: threading.Event) -> None:
    """Watch until told to stop, with a line of status where a person looks on."""
    if not sys.stderr.isatty():
        while not stop.wait(WATCH_S):
            children.watch()
        return
    token = token_of(settings)
    status = _Status()
    due = time.monotonic()
    with Lookout(settings) as lookout:
        while not stop.wait(WATCH_S):
            children.watch()
            if time.monotonic() >= due:
                due = time.monotonic() + STATUS_S
                status.show(lookout.look(metrics_of(children.all[0].url(), token)), children, token)
    status.clear()


class _Status:
    """One line that a terminal writes over."""

    def __init__(self) -> None:
        self._before: tuple[float, int] | None = None

    def show(self, seen: Standing | None, children: Children, token: str) -> None:
        if seen is None:
            click.echo("\r\x1b[K" + time.strftime("%H:%M:%S") + "  waiting for the engine", nl=False, err=True)
            return
        now, events = time.monotonic(), seen.records("events")
        rate = 0.0 if self._before is None else (events - self._before[1]) / (now - self._before[0])
        self._before = now, events
        delivery = metrics_of(children.all[1].url(), token)
        sent = delivery.by("tidings_delivery_outcomes_total", "status").get("sent", 0) if delivery else 0
        click.echo(
            f"\r\x1b[K{time.strftime('%H:%M:%S')}  events {events:,} (+{rate:,.0f}/s)  behind {seen.engine_lag:,}"
            f"  commands {seen.records('commands'):,}  sent {sent:,.0f} since start"
            f"  analytics behind {seen.sink_lag:,}",
            nl=False,
            err=True,
        )

    def clear(self) -> None:
        click.echo("\r\x1b[K", nl=False, err=True)


def _kept(keeps: bool) -> str:
    return "everything is kept, 'up' goes on from here" if keeps else "nothing is kept"
