"""The words of an explanation, made from its JSON alone: short, plain, for whoever wrote the campaign."""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

SHOWN = 5  # events that did nothing, named one by one; the JSON holds more
_ENDS = {
    "expired": "ended: its time ran out",
    "evicted": "ended: pushed out, too many instances lived at once",
    "withdrawn": "ended: the campaign was withdrawn",
}
_LIFE = {
    "scheduled": "it begins nothing before its start",
    "ended": "it begins nothing any more; what runs goes on",
    "paused": "it begins nothing, and its messages wait until it is resumed",
    "draining": "it begins nothing; what runs goes on",
    "stopped": "it begins nothing, and what ran has ended",
}
_COUNTED = {
    "after_window": "after the step's end",
    "before_window": "before the step's begin",
    "duplicate": "read twice",
    "failed": "campaign failed",
    "gathering": "not enough yet",
    "predicate": "condition false",
    "repeat": "a match still ran",
    "same_differs": "about something else",
    "same_missing": "attribute of 'same' missing",
    "too_old": "too old",
    "where": "where false",
    "without": "blocked by 'without'",
}
_SUPPRESSED = {
    "cooldown": "cooldown",
    "limit": "limit reached",
    "once": "fires only once",
    "if_still": "'if still' no longer held",
    "no_consent": "no consent",
    "topic_off": "the member turned the topic off",
    "frequency_cap": "frequency cap",
    "priority_lost": "a message of higher priority has the slot",
    "quiet_hours_cancel": "quiet hours",
    "control": "the member is in the control group",
    "holdout": "the member is in the holdout group",
    "expired": "too late to be of use",
    "budget": "the budget is spent",
    "no_address": "no address",
    "invalid_address": "the address cannot be used",
    "duplicate": "this very match had fired before",
    "campaign_failed": "the campaign failed, see the dead letters",
}
_ARBITRATED = frozenset({"frequency_cap", "priority_lost", "quiet_hours_cancel", "control", "expired"})


def narrate(told: Json) -> str:
    """Tell an explanation in lines of text."""
    return "\n".join(_lines(told))


def _lines(told: Json) -> Iterator[str]:
    read = told["read"]
    member, seen = told["member_id"], f"{_many(read['records'], 'record')} of {_many(read['members'], 'member')}"
    if not told["known"]:
        yield f"member {member}: not found. The log holds {seen}, none of this member."
        return
    yield f"member {member}, as of {_when(told['as_of'])}: {_many(read['events'], 'event')} in a log of {seen}"
    for name, words in (("duplicates", "read twice"), ("too_old", "too old (over 7d when read)")):
        if read[name]:
            yield f"  {read[name]} of them {words}"
    if told["policies"] and told["policies"]["not_asked"]:
        yield f"  not asked here, for it takes all members' records: {', '.join(told['policies']['not_asked'])}"
    if not told["campaigns"]:
        yield "no campaign runs"
    for campaign in told["campaigns"]:
        yield ""
        yield from _campaign(campaign)


def _campaign(campaign: Json) -> Iterator[str]:
    yield f"{campaign['campaign']}: {campaign['state'].replace('_', ' ')}"
    yield f"  pattern: {campaign['pattern']}"
    if campaign["suspended_at"]:
        yield f"  stopped at {_when(campaign['suspended_at'])}: it failed too often; publish it again once it is mended"
    if campaign["life"] in _LIFE:
        yield f"  {campaign['life']}: {_LIFE[campaign['life']]}"
    if campaign["earlier_instances"]:
        yield f"  {_many(campaign['earlier_instances'], 'earlier match', 'earlier matches')} not shown"
    for life in campaign["instances"]:
        yield from (f"  {line}" for line in _life(life, campaign["caps"]))
    if campaign["next_date"] is not None:
        yield f"  {_date(campaign['next_date'])}"
    yield from (f"  {line}" for line in _not_started(campaign))


def _date(date: Json) -> str:
    if date["fires_at"]:
        return f"waits for {date['step']}: {_when(date['due'])}; fires at {_when(date['fires_at'])}"
    attribute = date["attribute"]
    return f"no date to wait for: {attribute} is missing or past" if attribute else "no date to wait for any more"


def _not_started(campaign: Json) -> Iterator[str]:
    """Say why events of the first step's types started nothing; those before the newest start are old news."""
    lives, misses = campaign["instances"], campaign["did_not_start"]
    if not lives:
        for name in campaign["never_read"]:
            yield f"no event of type {name} was read for this member"
    if lives and lives[-1]["steps"]:
        began = lives[-1]["steps"][0]["known_at"]
        misses = [miss for miss in misses if miss["event"]["read_at"] > began]
    counts = campaign["did_not_start_counts"]
    if not lives and sum(counts.values()) > SHOWN:
        yield f"{_many(sum(counts.values()), 'event')} started nothing: {_counted(counts)}; the last {SHOWN}:"
    for miss in misses[-SHOWN:]:
        yield f"not started by {_event(miss['event'])}: {_why(miss)}"


# ---------------------------------------------------------------- one instance


def _life(life: Json, caps: Json) -> Iterator[str]:
    same = f" for {_values(life['correlation'])}" if life["correlation"] else ""
    yield f"match{same}, begun by {life['anchor']}:"
    for step in life["steps"]:
        yield f"  {_step(step, life['step_count'])}"
    if life["awaits"]:
        yield f"  {_awaits(life['awaits'], life['step_count'])}"
    misses = life["did_not_count"]
    counts = life["did_not_count_counts"]
    if sum(counts.values()) > SHOWN:
        yield f"  {_many(sum(counts.values()), 'event')} did not count: {_counted(counts)}; the last {SHOWN}:"
    for miss in misses[-SHOWN:]:
        yield f"  did not count: {_event(miss['event'])}: {_why(miss)}"
    yield from (f"  {line}" for line in _end(life, caps))


def _step(step: Json, count: int) -> str:
    head = f"step {step['number']} of {count}, {step['step']}:"
    if step["event"] is None:
        words = {"absence": "nothing came by", "wait": "over at", "date": "came at"}[step["kind"]]
        return f"{head} {words} {_when(step['at'])}, decided at {_when(step['known_at'])}"
    values = f", {_values(step['values'])}" if step["values"] else ""
    others = f", with {', '.join(step['with'])}" if step["with"] else ""
    return f"{head} {_event(step['event'])}{values}{others}"


def _awaits(awaits: Json, count: int) -> str:
    head = f"step {awaits['number']} of {count}, {awaits['step']}:"
    if awaits["kind"] == "event":
        give_up = f"gives up at {_when(awaits['decided_at'])}"
        return f"{head} waits until {_when(awaits['by'])}, {give_up}{_have(awaits['have'])}"
    then = "fires" if awaits["last"] else "goes on"
    unless = " unless it comes before then" if awaits["kind"] == "absence" else ""
    return f"{head} until {_when(awaits['by'])}; {then} at {_when(awaits['decided_at'])}{unless}"


def _have(have: Json | None) -> str:
    if have is None:
        return ""
    if "need" in have:
        return f"; has {have['have']} of {have['need']}"
    return f"; is {have['value']:g}, must be {have['test']} {have['threshold']:g}"


def _end(life: Json, caps: Json) -> Iterator[str]:
    ended, result = life["ended"], life["result"]
    if ended is None:
        if result == "withdrawn":
            yield _ENDS[result]
        return
    if result == "fired":
        yield from _fired(life, ended)
    elif result == "suppressed":
        yield f"did not send at {_when(ended['at'])}: {_suppressed(ended, caps)}"
    elif result in ("cancelled", "killed"):
        verb = "cancelled by" if result == "cancelled" else "ended by 'without':"
        yield f"{verb} {_event(ended['by'])}{_seen_in(ended['checks'])}"
    elif result == "replaced":
        yield f"begun anew by {_event(ended['by'])}" if ended["by"] else "begun anew by a later event"
    elif result == "expired":
        yield f"{_ENDS[result]} at {_when(ended['due'])}, known at {_when(ended['at'])}: {ended['step']} did not come"
    else:
        yield f"{_ENDS.get(result, result)}, at {_when(ended['at'])}"
    if life["late"]:
        then = "; the sender was told to cancel" if life["late"]["cancel_sent"] else ""
        yield f"too late to stop it: {_event(life['late'])}, read at {_when(life['late']['read_at'])}{then}"


def _fired(life: Json, ended: Json) -> Iterator[str]:
    command = life["command"]
    if life["journey"] is not None:
        yield f"fired at {_when(ended['at'])}; its journey:"
        if ended["how"] == "completed" and ended["reason"] == "quiet_hours":  # a plain send that was held at once
            yield f"  {_when(ended['at'])}: held: {ended['reason']}"
            yield from (f"    {line}" for line in _arbitrated(ended.get("arbiter") or {}))
        yield from (f"  {line}" for line in _journey(life["journey"]))
        return
    if command is None:
        yield f"fired at {_when(ended['at'])}; the campaign sends nothing"
        return
    yield f"fired at {_when(ended['at'])}, {command['channel']} command {command['command_id']}"
    yield from _arbitrated(ended.get("arbiter") or {})
    if not command["receipts"]:
        yield "no delivery receipt in the log yet"
    yield from map(_receipt, command["receipts"])


def _receipt(receipt: Json) -> str:
    why = " ".join(str(receipt[name]) for name in ("code", "reason") if receipt[name])
    by = " by a machine" if receipt["machine"] else ""
    return f"{receipt['axis']}: {receipt['status']}{by} at {_when(receipt['at'])}{f' ({why})' if why else ''}"


def _journey(journey: Json) -> Iterator[str]:
    for step in journey["steps"]:
        where = f"step {step['step']}, " if step["step"] else ""
        by = f", because of {step['by']}" if step["by"] else ""
        if step["outcome"] == "eligible":
            variant = f", variant {step['variant']}" if step["variant"] else ""
            yield f"{where}{_when(step['at'])}: {step['channel']} command {step['command_id']}{variant}"
            yield from (f"  {line}" for line in _arbitrated(step["arbiter"] or {}))
            yield from (f"  {_receipt(receipt)}" for receipt in step["receipts"])
        elif step["outcome"] == "assigned":
            said = "the cascade ends:" if step["reason"] == "cascade" else "goes the way"
            yield f"{where}{_when(step['at'])}: {said} '{step['variant']}'{by}"
        elif step["outcome"] == "noted":
            yield f"{where}{_when(step['at'])}: delivered by {' and '.join(step['inputs'].get('channels', ()))}{by}"
        elif step["outcome"] == "suppressed":
            yield f"{where}{_when(step['at'])}: did not send: {_SUPPRESSED.get(step['reason'], step['reason'])}"
            yield from (f"  {line}" for line in _arbitrated(step["arbiter"] or {}))
        elif step["outcome"] == "held":
            yield f"{where}{_when(step['at'])}: held: {step['reason']}"
            yield from (f"  {line}" for line in _arbitrated(step["arbiter"] or {}))
        else:
            yield f"{where}{_when(step['at'])}: {step['outcome']}, {step['reason']}{by}"
    stands = journey["stands_at"]
    if stands is not None:
        unless = " unless it comes before then" if stands["event"] else ""
        until = f"until {_when(stands['until'])}; goes on at {_when(stands['decided_at'])}{unless}"
        since, what = _when(stands["since"]), stands["waits_for"]
        yield f"stands at step {stands['step']} since {since}, waits for {what}: {until}"


def _suppressed(ended: Json, caps: Json) -> str:
    reason, cap, contact = ended["reason"], ended["cap"], ended["contact"]
    words = _SUPPRESSED.get(reason, str(reason))
    fired = f"fired at {', '.join(map(_when, cap['fired_at']))}" if cap else ""
    free = f"free again at {_when(cap['free_again_at'])}" if cap else ""
    if reason == "cooldown" and cap:
        return f"{words} of {caps['cooldown']}, {fired}, {free}"
    if reason == "limit" and cap:
        limit = f"{caps['limit']['count']} per {caps['limit']['per']}"
        return f"{words} ({limit}), {fired}, {free}"
    if reason == "once" and cap:
        return f"{words}, {fired}"
    arbiter = ended.get("arbiter")
    if arbiter and reason in _ARBITRATED:
        return f"{words}{''.join(f'; {line}' for line in _arbitrated(arbiter))}"
    if reason == "if_still":
        return f"{words}: {_failing(ended['checks'])}"
    if reason == "no_consent":
        return (
            f"{words} for {contact['channel']}: member.consent.{contact['channel']} is {_spelled(contact['consent'])}"
        )
    if reason == "topic_off":
        return f"{words}: {contact['channel']}, topic '{contact['topic']}'"
    if contact:
        because = f", {contact['because'].replace('_', ' ')} at {_when(contact['since'])}" if contact["because"] else ""
        return f"{words}: member.{contact['attribute']}{because}"
    return words


def _arbitrated(arbiter: Json) -> Iterator[str]:
    """Tell the arithmetic of the arbiter."""
    group, quiet = arbiter.get("control_group"), arbiter.get("quiet_hours")
    if group:
        yield f"bucket {group['bucket']:,} of {group['of']:,}, the control group is {group['percent']:g} % of them"
    if quiet:
        local = f"{quiet['local']} in {quiet['zone']}"
        free = f", free at {_when(quiet['free_at'])}" if quiet["free_at"] else ""
        yield f"quiet {', '.join(quiet['windows'])}, it was {local}{free}"
    for row in arbiter.get("caps", ()):
        sent = f" at {', '.join(map(_when, row['sent_at']))}" if row.get("sent_at") else ""
        free = f", free again at {_when(row['free_at'])}" if row.get("free_at") else ""
        yield f"{row['used']} of {row['allowed']} sent{sent} ({row['cap']}){free}"


# ---------------------------------------------------------------- why not


def _why(miss: Json) -> str:
    """Say in a few words why an event did nothing."""
    facts, why = miss["facts"], miss["why"]
    if why in ("predicate", "where"):
        return f"{'where: ' if why == 'where' else ''}{_failing(miss['checks'])}"
    if why == "same_missing":
        return f"the event has no {', '.join(facts['missing'])}"
    if why == "same_differs":
        return f"{_values(facts['values'])}, this match is for {_values(facts['wanted'])}"
    if why == "gathering":
        return _gathering(facts)
    if why == "repeat":
        return _repeat(facts)
    if why == "without":
        return f"blocked by 'without': {_event(facts['by'])}" if facts.get("by") else "blocked by 'without'"
    return {
        "duplicate": "an event with this id was read before",
        "too_old": "too old, it happened more than 7d before it was read",
        "before_window": f"it happened before {_when(facts.get('from'))}, when this step began",
        "after_window": f"it happened at or after {_when(facts.get('until'))}, when this step ended",
        "failed": "the campaign failed on this event; see the dead letters",
    }.get(why, "it moved nothing")


def _gathering(facts: Json) -> str:
    if "need" not in facts:
        if facts["value"] is None:
            return f"the event has no {facts['missing']}"
        wanted = f"{facts['test']} {facts['threshold']:g} within {facts['within']}"
        return f"the {facts['fn']} is {facts['value']:g}, must be {wanted}"
    missing = f", missing {', '.join(facts['missing'])}" if facts.get("missing") else ""
    return f"{facts['have']} of {facts['need']} within {facts['within']}{missing}"


def _repeat(facts: Json) -> str:
    if facts["on_repeat"] == "keep":
        return f"the match begun by {facts['anchor']} still ran (on_repeat: keep)"
    if facts["on_repeat"] == "parallel":
        return f"{_many(facts['live'], 'match', 'matches')} already ran (on_repeat: parallel)"
    return f"the match begun by {facts['anchor']} is newer"


def _failing(checks: list[Json]) -> str:
    """Name the leaves to which false conditions are due, with their values."""
    found = [leaf for check in checks for leaf in _leaves(check)]
    return "; ".join(dict.fromkeys(found)) or "the condition does not hold"


def _leaves(check: Json) -> list[str]:
    if check["holds"]:
        return []
    if check["kind"] in ("and", "or"):
        return [leaf for part in check["parts"] for leaf in _leaves(part)]
    if check["kind"] == "not":
        return [f"{check['text']} is false: {_values(_all_values(check))}"]
    note = f" ({check['note']})" if check.get("note") else ""
    values = _values(check["values"])
    return [f"{check['text']} is false{': ' + values if values else ''}{note}"]


def _seen_in(checks: list[Json]) -> str:
    values = {path: value for check in checks for path, value in _all_values(check).items()}
    return f", {_values(values)}" if values else ""


def _all_values(check: Json) -> Json:
    found = dict(check.get("values", {}))
    for part in check.get("parts", ()):
        found.update(_all_values(part))
    return found


# ---------------------------------------------------------------- small words


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {_COUNTED.get(why, why)}" for why, count in sorted(counts.items()))


def _event(event: Json) -> str:
    if event["type"] is None:
        return str(event["event_id"])
    if not event["type"]:
        return f"{event['event_id']} at {_when(event['at'])}"
    return f"{event['type']} {event['event_id']} at {_when(event['at'])}"


def _when(text: str | None) -> str:
    """Shorten an instant: whole seconds need no milliseconds."""
    return "?" if text is None else text.replace(".000Z", "Z")


def _values(values: Json) -> str:
    return ", ".join(f"{path} = {_spelled(value)}" for path, value in values.items())


def _spelled(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"({', '.join(_spelled(v) for v in value)})"
    return f"'{value}'" if isinstance(value, str) else f"{value:.15g}" if isinstance(value, float) else str(value)


def _many(count: int, one: str, more: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"
