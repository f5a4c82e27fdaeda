"""The demo's one report, and the checks that decide its exit code."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from schemas.campaign import DEFAULT_LATENESS_MS
from tidings.demo.verify import Agreement, Log

FUNNEL = """
SELECT campaign, decided, held, suppressed, sent, delivered, opened, clicked, orders_attributed AS ordered,
       complained, unsubscribed, failed, value_by_currency['EUR'] AS value_eur
FROM campaign_funnel ORDER BY campaign
"""
SUPPRESSED = """
SELECT campaign, reason, n AS suppressed
FROM campaign_funnel ARRAY JOIN mapKeys(suppressed_by_reason) AS reason, mapValues(suppressed_by_reason) AS n
ORDER BY campaign, n DESC
"""
CASCADES = """
SELECT campaign, step, count() AS cascades, sum(sent) AS messages, countIf(delivered = 0) AS not_delivered,
       countIf(delivered = 1) AS delivered_once, countIf(delivered > 1) AS delivered_twice
FROM cascades GROUP BY campaign, step ORDER BY campaign, step
"""
NUMBERS = """
SELECT (SELECT uniqExact(command_id) FROM messages WHERE kind = 'send') AS commands,
       (SELECT uniqExact(decision_id) FROM decisions) AS decisions,
       (SELECT uniqExact(attribution_id) FROM attributions) AS attributions,
       (SELECT uniqExact(command_id) FROM receipts WHERE status = 'sent' AND channel = 'email') AS sent,
       (SELECT uniqExact(event_id) FROM receipts WHERE status = 'clicked' AND machine = 0) AS clicked,
       (SELECT count() FROM (SELECT log_partition, log_offset FROM events)) AS events
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that the report tells. `funnel`, `tables`, `numbers`: rows of ClickHouse, asked over its SQL endpoint.

    `taken`, `told`: messages of the company for Viber and text messages, and what it told of them. `done`: what members
    did about mails.
    """

    produced: Mapping[str, int]
    log: Log
    agreement: Agreement
    mails: int
    mails_repeated: int
    funnel: Sequence[Mapping[str, Any]]
    numbers: Mapping[str, int]
    seconds: float
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    taken: int = 0
    told: int = 0
    done: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """Two numbers that must be equal."""

    name: str
    left: int
    right: int
    holds: bool

    def __str__(self) -> str:
        """Say it for people: `replay agrees: 12 = 12 commands`."""
        word, sign = ("agrees", "=") if self.holds else ("DISAGREES", "≠" if self.left != self.right else "(other ids)")
        place, _, what = self.name.partition("/")
        return f"{place} {word}: {self.left:,} {sign} {self.right:,} {what}"


def checks(outcome: Outcome) -> list[Check]:
    """List what must agree."""
    log, found, numbers = outcome.log, outcome.agreement, outcome.numbers
    commands = len(log.commands)
    by_mail = sum(command.channel == "email" for command in log.commands.values())
    sent = Counter(channel for kind, channel, _ in log.receipts.values() if kind == "delivery.sent")
    clicked = Counter(machine for kind, _, machine in log.receipts.values() if kind == "engagement.clicked")
    done = outcome.done
    return [
        Check(
            "replay/commands, live and replayed, by id",
            len(found.live_commands),
            len(found.replay_commands),
            found.live_commands == found.replay_commands and commands > 0,
        ),
        Check(
            "replay/attributions, by id",
            len(found.live_attributions),
            len(found.replay_attributions),
            found.live_attributions == found.replay_attributions,
        ),
        _equal("SMTP/mails received, commands to send", outcome.mails, by_mail),
        _equal("SMTP/mails received twice", outcome.mails_repeated, 0),
        _equal("receipts/'sent' by mail, mails received", sent["email"], outcome.mails),
        _equal("Viber and SMS/messages taken, 'sent' of them", outcome.taken, sent["viber"] + sent["sms"]),
        _equal("Viber and SMS/receipts told, on the log", outcome.told, len(log.told)),
        _equal("redirect/links followed by people, 'clicked' by people", done.get("followed", 0), clicked[False]),
        _equal("redirect/links followed by scanners, 'clicked' by machines", done.get("scanned", 0), clicked[True]),
        _equal("unsubscribe/POSTs of mail programs, consents revoked", done.get("left", 0), len(log.left)),
        _equal(
            "complaints/reports read, 'complained'",
            done.get("complained", 0),
            sum(kind == "engagement.complained" for kind, _, _ in log.receipts.values()),
        ),
        _equal("ClickHouse/commands, topic", numbers["commands"], commands),
        _equal("ClickHouse/decisions, topic", numbers["decisions"], len(log.decisions)),
        _equal("ClickHouse/attributions, topic", numbers["attributions"], len(log.attributions)),
        _equal("ClickHouse/receipts 'sent', mails received", numbers["sent"], outcome.mails),
        _equal("ClickHouse/'clicked' by people, topic", numbers["clicked"], clicked[False]),
        _equal("dead letters/topic, bad records produced", sum(log.dead_letters.values()), outcome.produced["bad"]),
    ]


def _equal(name: str, left: int, right: int) -> Check:
    return Check(name, left, right, left == right)


def print_report(outcome: Outcome, console: Console, note: str) -> bool:
    """Print everything; tells whether all checks hold."""
    log = outcome.log
    produced = outcome.produced
    outcomes = Counter((d.outcome, d.reason) for d in log.decisions.values())
    console.print()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    table.add_row("events", f"{sum(produced.values()):,}", "produced: " + _listed(produced))
    decided = Counter({f"{o} {r}": n for (o, r), n in outcomes.items() if o not in ("suppressed",)})
    table.add_row("decisions", f"{len(log.decisions):,}", _listed(decided))
    suppressed = {reason: n for (o, reason), n in outcomes.items() if o == "suppressed"}
    table.add_row("suppressed", f"{sum(suppressed.values()):,}", _listed(suppressed))
    table.add_row("e-mails", f"{outcome.mails:,}", f"received over SMTP; {outcome.mails_repeated} twice")
    taken = Counter(command.channel for command in log.commands.values() if command.channel != "email")
    table.add_row("Viber and SMS", f"{outcome.taken:,}", f"taken by the company; asked for: {_listed(taken)}")
    receipts = {kind: n for kind, n in log.types.items() if kind.startswith(("delivery.", "engagement."))}
    table.add_row("receipts", f"{sum(receipts.values()):,}", _listed(receipts))
    value = sum(a.value or 0 for a in log.attributions.values())
    table.add_row("attributions", f"{len(log.attributions):,}", f"orders after a mail, worth {value:,.2f} EUR")
    table.add_row("dead letters", f"{sum(log.dead_letters.values()):,}", _listed(log.dead_letters))
    for name, values, what in _latencies(log):
        shown = f"p50 {_percentile(values, 50):,} ms   p99 {_percentile(values, 99):,} ms" if values else "none"
        table.add_row(name, f"{len(values):,}", f"{shown}   {what}")
    console.print(table, highlight=False)
    console.print()
    for title, rows in {"campaign_funnel": outcome.funnel, **outcome.tables}.items():
        _print_rows(f"{title}, by SQL", rows, console)
        console.print()
    listed = checks(outcome)
    for check in listed:
        console.print(str(check), style="green" if check.holds else "bold red", highlight=False)
    console.print()
    console.print(f"{outcome.seconds:.1f} s. {note}", highlight=False)
    return all(check.holds for check in listed)


def _latencies(log: Log) -> list[tuple[str, list[int], str]]:
    """From the topics' own times: commands carry the append time of the record that decided them."""
    positive: list[int] = []
    absent: list[int] = []
    for decision in log.decisions.values():
        at_ms = log.commanded_at_ms.get(decision.command_id)
        if at_ms is None or decision.outcome != "eligible":
            continue
        if decision.due_ms is None:
            positive.append(max(0, at_ms - decision.caused_at_ms))
        else:
            # What starts the wait may itself come late; nothing can fire before it is read.
            possible_ms = max(decision.due_ms + DEFAULT_LATENESS_MS, log.appended_at_ms.get(decision.anchor, 0))
            absent.append(max(0, at_ms - possible_ms))
    return [
        ("append → command", positive, "where an event completes the pattern"),
        ("due → command", absent, "where absence does, beyond due + 5 s of allowed lateness"),
    ]


def _percentile(values: Sequence[int], percent: int) -> int:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in sorted(counts.items(), key=lambda item: -item[1]) if n) or "none"


def _print_rows(title: str, rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False, title=title, title_justify="left")
    for name, value in rows[0].items() if rows else ():
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*map(_shown, row.values()))
    console.print(table, highlight=False)


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}" if isinstance(value, float) else str(value)
