"""The demo's one report, and the checks that decide its exit code."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from schemas.campaign import DEFAULT_LATENESS_MS
from tidings.demo.verify import Agreement, Log

FUNNEL = """
SELECT campaign, decided, eligible, suppressed, commanded, sent, clicked, failed, orders_attributed,
       value_by_currency['EUR'] AS value_eur
FROM campaign_funnel ORDER BY campaign
"""
NUMBERS = """
SELECT (SELECT uniqExact(command_id) FROM messages WHERE kind = 'send') AS commands,
       (SELECT uniqExact(decision_id) FROM decisions) AS decisions,
       (SELECT uniqExact(attribution_id) FROM attributions) AS attributions,
       (SELECT uniqExact(command_id) FROM receipts WHERE status = 'sent') AS sent,
       (SELECT count() FROM (SELECT log_partition, log_offset FROM events)) AS events
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that the report tells. `funnel`, `numbers`: rows of ClickHouse, asked over its SQL endpoint."""

    produced: Mapping[str, int]
    log: Log
    agreement: Agreement
    mails: int
    mails_repeated: int
    funnel: Sequence[Mapping[str, Any]]
    numbers: Mapping[str, int]
    seconds: float


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
        _equal("SMTP/mails received, commands to send", outcome.mails, commands),
        _equal("SMTP/mails received twice", outcome.mails_repeated, 0),
        _equal("receipts/'sent', mails received", log.types["delivery.sent"], outcome.mails),
        _equal("ClickHouse/commands, topic", numbers["commands"], commands),
        _equal("ClickHouse/decisions, topic", numbers["decisions"], len(log.decisions)),
        _equal("ClickHouse/attributions, topic", numbers["attributions"], len(log.attributions)),
        _equal("ClickHouse/receipts 'sent', mails received", numbers["sent"], outcome.mails),
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
    _print_rows(outcome.funnel, console)
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


def _print_rows(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False, title="campaign_funnel, by SQL", title_justify="left")
    for name in rows[0] if rows else ():
        table.add_column(name, justify="left" if name == "campaign" else "right")
    for row in rows:
        table.add_row(*map(_shown, row.values()))
    console.print(table, highlight=False)


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}" if isinstance(value, float) else str(value)
