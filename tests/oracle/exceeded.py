"""Were bounds kept? Counted from what went out and the log alone: no verdict is asked for, none is looked at.

For every message that went out: each cap, budget, quiet hour and shared address of the policies then in force. A rule
counts from the record on that brought it, while its words stay: what it knew of the time before only makes it stricter.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import yaml

from tests.oracle.definitions import Read
from tests.oracle.evaluate import Walk
from tests.oracle.policies import (
    Message,
    Rules,
    calendar,
    cap_of,
    in_span,
    in_window,
    last_profile,
    matches,
    member_zone,
    never_came,
    same_address,
    span_ms,
)

Published = tuple[int, Rules | None]
"""The offset of a record about policies, and what holds from it on."""


def exceeded(
    events: Sequence[Mapping[str, Any]], sent: Sequence[Mapping[str, Any]], partition: int
) -> tuple[list[str], int]:
    """List the bounds that messages broke, and how often one was looked at.

    Args:
        events: the lines of one partition's log, control records too; the offset is the index.
        sent: what went out, in order: `offset`, `timers` (before the record itself) and the fields of the command.
        partition: its number.
    """
    walk = Walk([], False)
    published: list[Published] = [(-1, None)]
    for offset, event in enumerate(events):
        walk.read(offset, event)
        if event["type"] == "policy.published":
            data = event["data"]
            published.append((offset, Rules(yaml.safe_load(data["yaml"]), partition, data["partitions"])))
        elif event["type"] == "policy.withdrawn":
            published.append((offset, None))
    went = [_message(line, walk.history[line["member_id"]]) for line in sent]
    found, looked = [], 0
    for number, m in enumerate(went):
        here = [(offset, rules) for offset, rules in published if offset < m.offset]
        rules = here[-1][1]
        for text, kept in _judged(m, rules, here, went[: number + 1]) if rules is not None else ():
            looked += 1
            if not kept:
                found.append(f"{text}: {m.firing['command_id']} of {m.member_id} at {m.clock}")
    return found, looked


def _message(line: Mapping[str, Any], own: Sequence[Read]) -> Message:
    past = tuple(x for x in own if x.offset < line["offset"] + (not line["timers"]))
    group = f"{line['instance_id']} {line['step'].partition('.')[0]}" if "." in line["step"] else ""
    send = {"channel": line["channel"], "category": line["category"]}
    m = Message(dict(line), send, line["decided_at_ms"], line["offset"], line["timers"], past)
    m.group = group
    return m


def _judged(m: Message, rules: Rules, here: Sequence[Published], went: Sequence[Message]) -> Iterator[tuple[str, bool]]:
    policy, plain = rules.policy, m.category != "transactional"
    zone = member_zone(last_profile(m.past), policy)
    for cap in [cap for cap in policy.get("caps", ()) if plain and matches(m, cap)]:
        count, span, period = cap_of(cap)
        words = _words(cap)
        since = _since(here, lambda known, words=words: any(_words(c) == words for c in known.policy.get("caps", ())))
        counted = {
            x.name
            for x in went
            if x.member_id == m.member_id
            and x.offset > since
            and x.category != "transactional"
            and matches(x, cap)
            and not never_came(x, m.past)
            and in_span(x.clock, m.clock, span, period, zone)
        }
        yield f"cap {cap}, {len(counted)} messages", len(counted) <= count
    for hours in policy.get("quiet_hours", ()) if plain else ():
        if m.send["channel"] in hours.get("channels", [m.send["channel"]]):
            yield f"quiet hours {hours}", not in_window(hours, m.clock, zone)
    for budget in [budget for budget in policy.get("budgets", ()) if matches(m, budget)]:
        since = _since(here, lambda known, b=budget: b in known.policy.get("budgets", ()) and _alike(known, rules))
        mine = [x for x in went if x.offset > since and matches(x, budget)]
        spent = sum(_period(x, budget, rules) == _period(m, budget, rules) for x in mine)
        yield f"budget {budget}, {spent} messages of {rules.share(budget)}", spent <= rules.share(budget)
    window = policy.get("dedupe", {}).get("address")
    if window:
        since = _since(here, lambda known: known.policy.get("dedupe", {}).get("address") == window)
        others = [x for x in went if x.offset > since and x.member_id != m.member_id and same_address(x, m)]
        yield f"address of another member within {window}", all(m.clock - x.clock >= span_ms(window) for x in others)


def _words(cap: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in cap.items() if key != "reserve"}


def _alike(one: Rules, other: Rules) -> bool:
    return (one.zone, one.partitions) == (other.zone, other.partitions)


def _since(here: Sequence[Published], holds: Any) -> int:
    """The offset of the first of the latest records in a row that have a rule."""
    since = here[-1][0]
    for offset, rules in reversed(here):
        if rules is None or not holds(rules):
            break
        since = offset
    return since


def _period(x: Message, budget: Mapping[str, Any], rules: Rules) -> Any:
    rest = budget["limit"].partition(" ")[2]
    return rest if rest == "in all" else calendar(rest.removeprefix("per calendar "), x.clock, ZoneInfo(rules.zone))
