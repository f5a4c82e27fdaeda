"""`campaigns publish|start|withdraw|list|…`: campaigns reach running workers through the log, as control records."""

import contextlib
import difflib
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from agents.topics import EVENTS
from schemas.codec import encode_event
from schemas.errors import OperatorError
from schemas.events import (
    CAMPAIGN_PUBLISHED,
    CAMPAIGN_WITHDRAWN,
    LIFE_TYPES,
    POLICY_PUBLISHED,
    POLICY_WITHDRAWN,
    Event,
)
from schemas.findings import ERROR
from schemas.ids import h128
from schemas.instants import instant_ms
from schemas.log import RECORDED_AT_HEADER
from streams.campaigns import load_campaign
from streams.registry import POLICY_NAME
from tidings.brokers import attach
from tidings.cli.campaign_life import life_commands
from tidings.cli.campaign_log import OVER, WITHDRAWN, from_log
from tidings.cli.check import examine
from tidings.cli.output import output_option, print_rows
from tidings.cli.policies import read_policy, the_policy_file
from tidings.config import Settings
from tidings.files import campaign_paths, cases_path, is_policy, policy_paths, read_text
from tidings.producing import Sender
from tidings.web.ask import ask

POLL_S = 0.25  # an edit is to be live within a second: a quarter to see it, the rest to check and send it
RECIPES = "recipes"  # their folder in that of the campaigns
COLUMNS = ("campaign", "version", "state", "partitions", "published_at", "title")

broker_option = click.option("--broker", metavar="local|HOST:PORT,…", help="The broker; default TIDINGS_BROKER.")


@click.group()
def campaigns() -> None:
    """List, publish, start, pause, stop and withdraw campaigns.

    A campaign is live once its control record is on every partition of the topic 'events': running workers take it up
    from there, without a restart, and a replay of the log runs the same versions at the same places.

    \b
    Examples:
      python -m tidings campaigns publish campaigns/demo
      python -m tidings campaigns publish --watch campaigns/demo
      python -m tidings campaigns start lost_cart
      python -m tidings campaigns list
      python -m tidings campaigns pause thank_you
      python -m tidings campaigns withdraw thank_you
    """  # noqa: D301 click wants the character itself


# ---------------------------------------------------------------- publish


def _instant(ctx: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return instant_ms(int(text) if text.isdigit() else text)
    except ValueError:
        raise click.BadParameter(f"must be a time (got {text!r}); write 2019-10-01T00:00:00Z or milliseconds") from None


@campaigns.command()
@click.argument("paths", metavar="CAMPAIGN_OR_DIR...", nargs=-1, required=True)
@click.option("--watch", is_flag=True, help="Stay, and publish again whatever changes; end with Ctrl-C.")
@click.option("--templates", metavar="DIR", help="Where the message templates are; default TIDINGS_TEMPLATES_DIR.")
@click.option(
    "--as-of", metavar="TIME", callback=_instant,
    help="Publish as if it were that time, RFC 3339 or ms: before the first event of a log that"
    " 'produce --as-recorded' will send, whose clock must not be ahead of it.",
)  # fmt: skip
@broker_option
@output_option
def publish(
    paths: tuple[str, ...], watch: bool, templates: str | None, as_of: int | None, broker: str | None, output: str
) -> None:
    """Check campaigns and make them live.

    All of them are checked first, with templates and cases; one error, and none is published. A policies.yaml in a
    directory named goes out with them, first. A version is a hash of
    what a campaign means: one that is live already stays as it is.

    \b
    Examples:
      python -m tidings campaigns publish campaigns/demo --broker local
      python -m tidings campaigns publish campaigns/demo/thank_you.yaml --output json
      python -m tidings campaigns publish --watch campaigns/demo
      python -m tidings campaigns publish campaigns/examples --as-of 2019-10-01T00:00:00Z

    Exit codes: 0 live, 1 errors in the campaigns, 2 wrong usage, 3 the broker is out of reach.
    """  # noqa: D301 click wants the character itself
    settings = attach(Settings.from_env(broker=broker, templates_dir=templates))
    before = _stamps(paths)
    if not _sound(paths, settings.templates_dir):
        sys.exit(1)
    policies = the_policy_file(paths)
    sender = Sender(settings, EVENTS)
    known: dict[str, str] = {}
    files = [*([policies] if policies else []), *campaign_paths(paths)]  # policies first: they protect from the start
    print_rows([_send(sender, path, known, as_of) for path in files], output)
    if not watch:
        return
    click.echo("watching; end with Ctrl-C", err=True)
    with contextlib.suppress(KeyboardInterrupt):  # the usual way to end it, and no fault
        for changed in changes(paths, before):
            for path in changed:
                _again(sender, path, known, settings.templates_dir, output)


def changes(paths: tuple[str, ...], before: dict[Path, Any], pause_s: float = POLL_S) -> Iterator[list[Path]]:
    """Yield lists of campaign files whose text or cases changed since `before` (as `_stamps` gives it), for ever."""
    while True:
        try:
            now = _stamps(paths)
        except OperatorError:  # a file went away while the directory was read
            now = before
        changed = [path for path, stamp in now.items() if before.get(path) != stamp]
        for path in before.keys() - now.keys():
            click.echo(f"{path}: the file is gone, the campaign stays live; 'campaigns withdraw' ends it", err=True)
        before = now
        if changed:
            yield changed
        time.sleep(pause_s)


def _stamps(paths: Iterable[str]) -> dict[Path, Any]:
    stamps: dict[Path, Any] = {}
    there = [p for p in paths if Path(p).exists()]
    for path in [*campaign_paths(there), *policy_paths(there)]:
        try:
            stats = [file.stat() for file in (path, cases_path(path)) if file.is_file()]
        except OSError:  # renamed away between two looks: the next look sees what came of it
            continue
        stamps[path] = [(stat.st_mtime_ns, stat.st_size) for stat in stats]
    return stamps


def _sound(paths: tuple[str, ...], templates_dir: Path) -> bool:
    report = examine(paths, templates_dir)
    for finding in report.findings:
        click.echo(f"{finding.severity}: {finding}", err=True)
    return not report.count(ERROR)


def _again(sender: Sender, path: Path, known: dict[str, str], templates_dir: Path, output: str) -> None:
    """Publish a changed file if it is sound and means something else now; what is live stays live otherwise."""
    try:
        if not _sound((str(path),), templates_dir):
            click.echo(f"{path}: not published, what was live stays live", err=True)
            return
        name, version = _named(path)
        if known.get(name) != version:
            print_rows([_send(sender, path, known)], output)
    except OperatorError as error:  # half a file, or one just removed: the next change is looked at again
        click.echo(str(error), err=True)


def _named(path: Path) -> tuple[str, str]:
    """Read the name and the version of what a file holds: a campaign, or the policies."""
    if is_policy(path):
        return POLICY_NAME, read_policy(path).version
    campaign, findings = load_campaign(read_text(path), str(path))
    if campaign is None:  # it changed between the check and now
        raise OperatorError("\n".join(map(str, findings)), exit_code=1)
    return campaign.campaign, campaign.version


def _send(sender: Sender, path: Path, known: dict[str, str], as_of: int | None = None) -> dict[str, Any]:
    name, version = _named(path)
    data: dict[str, Any] = {"version": version, "path": _shown(path), "yaml": read_text(path)}
    if is_policy(path):
        kind, data["partitions"] = POLICY_PUBLISHED, sender.partitions
    else:
        kind, data["campaign"] = CAMPAIGN_PUBLISHED, name
    send_everywhere(sender, kind, data, recorded_at_ms=as_of)
    known[name] = version
    return {"campaign": name, "version": version, "partitions": sender.partitions, "path": data["path"]}


def _shown(path: Path) -> str:
    """Name a file in the log without the place of the checkout."""
    full = path.resolve()
    return full.relative_to(Path.cwd()).as_posix() if full.is_relative_to(Path.cwd()) else path.name


def send_everywhere(
    sender: Sender, kind: str, data: dict[str, Any], now_ms: int | None = None, recorded_at_ms: int | None = None
) -> None:
    """Send one copy of a control record to every partition and wait for the answers.

    A crash in between leaves some partitions without it: sending again is harmless, and completes it.

    Args:
        sender: to `events`.
        kind: its event type.
        data: names the campaign under `campaign`; policies have no name.
        now_ms: when it happens; None: now.
        recorded_at_ms: the append time it takes part in the log with (see `schemas.log.append_ms_of`); None: the
            broker's.

    Raises:
        OperatorError: the broker did not take all copies (exit code 3).
    """
    at = int(time.time() * 1000) if now_ms is None else now_ms
    event_id = h128(
        kind, data.get("campaign", POLICY_NAME), str(data.get("version", "")), str(at)
    )  # one id for all copies
    value = encode_event(Event(kind, at, event_id, None, data, source="tidings"))
    headers = {} if recorded_at_ms is None else {RECORDED_AT_HEADER: b"%d" % recorded_at_ms}
    for partition in range(sender.partitions):
        sender.send(value, None, partition=partition, headers=headers)
    sender.flush()
    trouble = sender.trouble()
    if trouble:
        sender.forget()
        raise OperatorError(trouble, exit_code=3)


# ---------------------------------------------------------------- withdraw


@campaigns.command()
@click.argument("names", metavar="CAMPAIGN...", nargs=-1, required=True)
@broker_option
@output_option
def withdraw(names: tuple[str, ...], broker: str | None, output: str) -> None:
    """End campaigns: no new starts, and what waits is dropped. Published again, their caps still hold.

    policies.yaml withdraws the policies: no frequency caps, quiet hours and budgets from then on.

    \b
    Examples:
      python -m tidings campaigns withdraw thank_you
      python -m tidings campaigns withdraw thank_you cart_reminder --output json
    """  # noqa: D301 click wants the character itself
    print_rows(_tell("withdraw", names, broker, CAMPAIGN_WITHDRAWN, WITHDRAWN), output)


def _tell(command: str, names: tuple[str, ...], broker: str | None, kind: str, state: str) -> list[dict[str, Any]]:
    """Send a control record for each campaign named, if the log knows all of them."""
    settings = attach(Settings.from_env(broker=broker))
    known = {row["campaign"]: row["state"] for row in from_log(settings)}
    if kind in LIFE_TYPES:  # policies hold or they do not, and what is over is not paused
        known = {name: was for name, was in known.items() if name != POLICY_NAME and was not in OVER}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "see 'campaigns list'"
            raise OperatorError(f"campaigns {command}: no such campaign runs (got '{name}'); {hint}")
    sender = Sender(settings, EVENTS)
    for name in names:
        if name == POLICY_NAME:
            send_everywhere(sender, POLICY_WITHDRAWN, {})
        else:
            send_everywhere(sender, kind, {"campaign": name})
    return [{"campaign": name, "state": state, "partitions": sender.partitions} for name in names]


for _command in life_commands(broker_option, _tell):
    campaigns.add_command(_command)


# ---------------------------------------------------------------- start


@campaigns.command()
@click.argument("names", metavar="RECIPE...", nargs=-1, required=True)
@click.option("--templates", metavar="DIR", help="Where the message templates are; default TIDINGS_TEMPLATES_DIR.")
@broker_option
@output_option
def start(names: tuple[str, ...], templates: str | None, broker: str | None, output: str) -> None:
    """Start recipes: campaigns that are ready made, in campaigns/recipes.

    \b
    A recipe is published as it is. To change one, copy it and its cases, give it another id, and publish that.
      welcome_chain   lost_cart   price_drop   birthday
      points_burning  win_back    purchase_poll  ab_control

    \b
    Examples:
      python -m tidings campaigns start lost_cart
      python -m tidings campaigns start welcome_chain birthday --broker local

    Exit codes: 0 live, 1 errors in a recipe or its templates, 2 wrong usage, 3 the broker is out of reach.
    """  # noqa: D301 click wants the character itself
    settings = Settings.from_env(broker=broker, templates_dir=templates)
    folder = settings.campaigns_dir / RECIPES
    known = {path.stem: path for path in (campaign_paths([folder]) if folder.is_dir() else ())}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(known)) or 'none'}"
            raise OperatorError(f"campaigns start: no recipe of that name in {folder} (got '{name}'); {hint}")
    paths = [known[name] for name in names]
    if not _sound(tuple(map(str, paths)), settings.templates_dir):
        sys.exit(1)
    sender = Sender(attach(settings), EVENTS)
    print_rows([_send(sender, path, {}) for path in paths], output)


# ---------------------------------------------------------------- list, show


@campaigns.command("list")
@broker_option
@click.option("--log", "only_log", is_flag=True, help="Read the log, even where a worker answers.")
@output_option
def list_campaigns(broker: str | None, only_log: bool, output: str) -> None:
    """List campaigns as a running worker has them, else as the log has them.

    The log keeps 30 days: what was published earlier and not since is known to the workers only.

    \b
    Examples:
      python -m tidings campaigns list
      python -m tidings campaigns list --log --output json
    """  # noqa: D301 click wants the character itself
    settings = Settings.from_env(broker=broker)
    rows = None if only_log else _from_worker(settings)
    if rows is None:
        rows = [{name: row[name] for name in COLUMNS} for row in from_log(attach(settings))]
    print_rows(rows, output, COLUMNS if output == "table" else None)


@campaigns.command()
@click.argument("name", metavar="CAMPAIGN")
@broker_option
@output_option
def show(name: str, broker: str | None, output: str) -> None:
    """Show the text of a campaign as the log has it last.

    \b
    Examples:
      python -m tidings campaigns show thank_you
      python -m tidings campaigns show thank_you --output json
    """  # noqa: D301 click wants the character itself
    rows = from_log(attach(Settings.from_env(broker=broker)))
    found = next((row for row in rows if row["campaign"] == name), None)
    if found is None:
        near = difflib.get_close_matches(name, [row["campaign"] for row in rows], n=1)
        hint = f"did you mean '{near[0]}'?" if near else "see 'campaigns list'"
        raise OperatorError(f"campaigns show: no such campaign in the log (got '{name}'); {hint}", exit_code=1)
    if output != "table":
        print_rows([found], output)
        return
    for key in ("version", "state", "partitions", "published_at", "path"):
        click.echo(f"# {key}: {found[key]}")
    click.echo(found["yaml"].rstrip("\n"))


def _from_worker(settings: Settings) -> list[dict[str, Any]] | None:
    try:
        page = ask(settings, "/campaigns")
    except OperatorError as error:
        click.echo(f"no worker was asked ({error}); reading the log", err=True)
        return None
    if page is None:
        return None
    count = len(page["partitions"])
    return [
        {
            "campaign": row["campaign"], "version": row["version"], "state": row["state"],
            "partitions": f"{len(row['states'])}/{count}", "published_at": None, "title": row["title"],
        }
        for row in page["campaigns"]
    ]  # fmt: skip
