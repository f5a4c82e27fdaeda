"""Tables of the docs that are facts of the code: written between markers, compared by tests/test_docs.py.

    python scripts/doc_tables.py          writes docs/*.md anew where a table has changed
    python scripts/doc_tables.py --check  says which would change, and ends with 1 if any would

A marker is a line `<!-- table: NAME -->`; the table ends at the line `<!-- end -->`.
"""

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402 - found only after the lines above

from agents.batching import HELD_BYTES_MAX, MAX_BATCH_BYTES, MAX_BATCH_RECORDS  # noqa: E402
from agents.engine_worker import EPOCH_BYTES, EPOCH_RECORDS, EPOCHS_IN_FLIGHT  # noqa: E402
from agents.topics import DAY_MS, TOPICS  # noqa: E402
from schemas import campaign, codec, policy, reading  # noqa: E402
from schemas.attributes import ATTRIBUTES, ITEM  # noqa: E402
from schemas.segment import NAMES  # noqa: E402
from schemas.taxonomy import EVENT_TYPES  # noqa: E402
from sinks import sandbox, templates  # noqa: E402
from sinks.channels.kinds import KINDS  # noqa: E402
from sinks.retry import Backoff  # noqa: E402
from streams import campaign_keys, history, marks  # noqa: E402
from streams.flows import cascade_keys, loading  # noqa: E402
from streams.flows import check as flow_check  # noqa: E402
from streams.patterns import check, durations, expressions, grammar, parser, plan, windows  # noqa: E402
from streams.patterns.durations import format_duration  # noqa: E402
from streams.policies import load, share  # noqa: E402
from tables import member_state  # noqa: E402
from tidings.settings_table import documented  # noqa: E402

MARKER = re.compile(r"(<!-- table: ([a-z-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

Row = tuple[str, ...]


def _table(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`"


# ---------------------------------------------------------------- architecture


def topics() -> str:
    """List every topic with what the broker is told about it."""
    rows = []
    for spec in TOPICS:
        kept = spec.config.get("retention.ms")
        cleanup = spec.config["cleanup.policy"].replace(",", " + ")
        rows.append(
            (
                _code(spec.name),
                spec.key,
                spec.value,
                spec.config.get("message.timestamp.type", "the broker's default"),
                cleanup + (f", {int(kept) // DAY_MS} d" if kept else ""),
                f"{int(spec.config['max.message.bytes']):,} B" if "max.message.bytes" in spec.config else "default",
            )
        )
    return _table(("Topic", "Key", "Value", "Timestamps", "Kept", "Largest record"), rows)


# ---------------------------------------------------------------- channels


def provider_kinds() -> str:
    """List the kinds of providers with their settings."""
    rows = []
    for name, kind in KINDS.items():
        needed = [field.name for field in msgspec.structs.fields(kind.settings) if field.required]
        others = [field.name for field in msgspec.structs.fields(kind.settings) if not field.required]
        marked = [_code(word) + (" (secret)" if word in kind.secrets else "") for word in needed]
        spare = [_code(word) + (" (secret)" if word in kind.secrets else "") for word in others]
        rows.append((_code(name), kind.meaning, ", ".join(marked), ", ".join(spare) or "none"))
    return _table(("Kind", "What", "Settings", "and if wanted"), rows)


# ---------------------------------------------------------------- events


def event_types() -> str:
    """List every event type with its meaning and attributes."""
    rows = []
    for name, found in EVENT_TYPES.items():
        words = " ".join(_code(word) for word in found.attributes)
        rows.append((_code(name), found.meaning, (words + " and any other" if found.open else words) or "none"))
    return _table(("Type", "Meaning", "Attributes of `data`"), rows)


def attributes() -> str:
    """List every attribute with its kind and meaning."""
    return _table(
        ("Attribute", "Kind", "Meaning"),
        [(_code(name), found.kind, found.meaning) for name, found in sorted(ATTRIBUTES.items())],
    )


def item_attributes() -> str:
    """List the attributes of one line of an order."""
    return " ".join(_code(name) for name in ITEM) + "\n"


def segment_names() -> str:
    """List the Segment names that are mapped."""
    return _table(("`track` event", "Our type"), [(name, _code(kind)) for name, kind in NAMES.items()])


# ---------------------------------------------------------------- bounds


def pattern_bounds() -> str:
    """List what bounds a pattern and its state, with what happens at the bound."""
    whole: list[tuple[str, object, str]] = [
        ("Steps of a pattern", check.MAX_STEPS, "refused"),
        ("`n` of `n+`", check.MAX_COUNT, "refused"),
        ("`within`, of a step or of the whole match", format_duration(check.MAX_WINDOW_MS), "refused"),
        ("`for` and `after` before a warning", format_duration(check.LONG_WAIT_MS), "warned"),
        ("Any span", format_duration(durations.LONGEST_MS), "refused"),
        ("Default `within` where none is written", format_duration(plan.DEFAULT_WITHIN_MS), "warned"),
        ("Paths of `same`", parser.MAX_SAME, "refused"),
        ("`without` of one step", parser.MAX_WITHOUT, "refused"),
        ("Characters of a pattern or expression", f"{grammar.MAX_TEXT:,}", "refused"),
        ("Brackets and `not` inside one another", grammar.MAX_DEPTH, "refused"),
        ("Entries of one list", grammar.MAX_LIST, "refused"),
        ("Digits of a number", grammar.MAX_DIGITS, "refused"),
        ("Age of an event that moves patterns", format_duration(plan.MAX_AGE_MS), "older ones only count, counted"),
        ("Event ids remembered per member", member_state.RECENT_IDS_MAX, "an older repeat is a new event"),
        (
            "Live instances per campaign and member",
            member_state.INSTANCES_PER_PLAN_MAX,
            "the earliest due goes, a decision `evicted`",
        ),
        ("Live instances per member", member_state.INSTANCES_MAX, "the earliest due goes, a decision `evicted`"),
        ("Occurrences of one kind remembered per member", member_state.HISTORY_MAX, "the oldest read goes, counted"),
        ("Correlation keys counted per campaign and member", member_state.KEYS_MAX, "the one idle longest goes"),
        ("Entries of an aggregate kept exactly", windows.EXACT_MAX, f"then {windows.BUCKETS} buckets of the window"),
        ("Values of `distinct` kept", windows.EXACT_MAX, "the oldest goes"),
        ("Occurrences per event of a first `all of`", windows.SET_ENTRIES_MAX, "the oldest read goes"),
        ("Sets tried for one record of `all of`", f"{windows.SEARCH_MAX:,}", "no match"),
        ("Firings remembered for late events, per campaign", member_state.FIRED_MAX, "the oldest goes"),
        ("Fired instance ids remembered beside them", member_state.FIRED_IDS_MAX, "sinks drop the repeat by its id"),
        ("Decisions on a member's page beside them", member_state.NOTES_MAX, "the oldest goes; all are in `decisions`"),
        ("Touches per member", member_state.TOUCHES_MAX, "the oldest goes"),
    ]
    return _table(("What", "Bound", "At the bound"), [(a, str(b), c) for a, b, c in whole])


def campaign_bounds() -> str:
    """List what bounds a campaign file."""
    rows: list[tuple[str, object]] = [
        ("Size of a file", f"{marks.MAX_BYTES // 1024} KiB"),
        ("Levels of YAML", marks.MAX_DEPTH),
        ("`parallel`", f"1 to {campaign_keys.MAX_PARALLEL}"),
        ("Count of `limit`", f"1 to {campaign_keys.MAX_LIMIT:,}"),
        (
            "`lateness`",
            f"{format_duration(campaign.DEFAULT_LATENESS_MS)} to {format_duration(campaign_keys.MAX_LATENESS_MS)}",
        ),
        ("`lifetime` unless written", format_duration(campaign.DEFAULT_LIFETIME_MS)),
        ("`attribution.window` unless written", format_duration(campaign.DEFAULT_ATTRIBUTION_WINDOW_MS)),
    ]
    return _table(("What", "Bound or default"), [(a, str(b)) for a, b in rows])


def flow_bounds() -> str:
    """List what bounds a flow and its journeys."""
    rows: list[tuple[str, object, str]] = [
        ("Steps of a flow", loading.MAX_STEPS, "refused"),
        ("Ways of a branch or split, variants of a message", loading.MAX_WAYS, "refused"),
        ("Legs of a cascade", f"{cascade_keys.MIN_LEGS} to {cascade_keys.MAX_LEGS}", "refused"),
        ("A wait, a leg's time", format_duration(flow_check.MAX_WAIT_MS), "refused"),
        ("A weight", f"1 to {loading.MAX_WEIGHT:,}", "refused"),
        ("Running journeys per member", member_state.JOURNEYS_MAX, "the next one is not begun: `journeys_full`"),
    ]
    return _table(("What", "Bound", "At the bound"), [(a, str(b), c) for a, b, c in rows])


def policy_bounds() -> str:
    """List what bounds a policy file and what the arbiter remembers."""
    rows: list[tuple[str, object]] = [
        ("Caps", load.MAX_CAPS),
        ("Count of a cap", f"1 to {load.MAX_CAP_COUNT}"),
        ("Rolling span of a cap", f"up to {format_duration(load.MAX_CAP_SPAN_MS)}"),
        ("Quiet hours", load.MAX_WINDOWS),
        ("Budgets", load.MAX_BUDGETS),
        ("Count of a budget", f"1 to {load.MAX_BUDGET:,}"),
        ("`dedupe.address`", f"up to {format_duration(load.MAX_DEDUPE_MS)}"),
        ("Addresses remembered per partition", f"{share.ADDRESSES_MAX:,}"),
        ("Dead addresses remembered per member", member_state.DEAD_MAX),
        ("Topics with a word of their own per channel", history.TOPICS_MAX),
        ("`priority`", f"0 to {policy.PRIORITY_MAX}, {policy.PRIORITY} unless written"),
    ]
    return _table(("What", "Bound or default"), [(a, str(b)) for a, b in rows])


def template_bounds() -> str:
    """List what bounds a template."""
    rows: list[tuple[str, object]] = [
        ("Size of a file", f"{sandbox.MAX_SOURCE // 1024} KiB"),
        ("Subject", f"{templates.MAX_SUBJECT} characters, then cut with …"),
        ("Rendered part", f"{sandbox.MAX_OUTPUT // 1024} Ki characters"),
        ("Text made by a filter, `~` or `+`", f"{sandbox.MAX_TEXT // 1024} Ki characters"),
        ("Work of one part", f"{sandbox.MAX_STEPS:,} steps"),
        ("Syntax nodes of a file", f"{sandbox.MAX_NODES:,}"),
    ]
    return _table(("What", "Bound"), [(a, str(b)) for a, b in rows])


def epoch_bounds() -> str:
    """List the sizes that the engine's worker works with."""
    rows = [
        ("Records of one batch (one fetch of one partition)", f"at most {MAX_BATCH_RECORDS:,}"),
        ("Records of one epoch", f"what has piled up, to {EPOCH_RECORDS:,}, plus at most one batch"),
        ("Bytes of one batch", f"{MAX_BATCH_BYTES >> 20} MiB"),
        ("Bytes of what one epoch gathers", f"{EPOCH_BYTES >> 20} MiB, plus at most one batch"),
        ("Bytes fetched and not yet durable, over all partitions", f"{HELD_BYTES_MAX >> 20} MiB, plus one fetch"),
        ("Epochs of a partition under way", f"{EPOCHS_IN_FLIGHT}: one being made durable, one computed ahead"),
        ("Size of an event", f"{codec.MAX_BYTES // 1024} KiB"),
        ("Length of an id", f"{reading.MAX_ID} characters"),
        ("Attempts to send a mail", f"{Backoff().attempts}, or until its lifetime ends"),
    ]
    return _table(("What", "How much"), rows)


def functions() -> str:
    """List the functions of expressions with their numbers of arguments."""
    rows = []
    for name, (fewest, most) in expressions.FUNCTIONS.items():
        rows.append((_code(f"{name}()"), str(fewest) if fewest == most else f"{fewest} to {most}"))
    return _table(("Function", "Values"), rows)


def settings() -> str:
    """List every setting."""
    return _table(
        ("Variable", "Unit", "Default", "Why"),
        [(_code(row["name"]), row["unit"], _code(row["default"]), row["reason"]) for row in documented()],
    )


TABLES: dict[str, Callable[[], str]] = {
    "topics": topics,
    "provider-kinds": provider_kinds,
    "event-types": event_types,
    "attributes": attributes,
    "item-attributes": item_attributes,
    "segment-names": segment_names,
    "pattern-bounds": pattern_bounds,
    "campaign-bounds": campaign_bounds,
    "flow-bounds": flow_bounds,
    "policy-bounds": policy_bounds,
    "template-bounds": template_bounds,
    "epoch-bounds": epoch_bounds,
    "functions": functions,
    "settings": settings,
}


def renewed(text: str) -> str:
    """Give a page back with every marked table as the code has it now.

    Raises:
        KeyError: a marker names no table.
    """
    return MARKER.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[4]}", text)


def main(argv: list[str]) -> int:
    """Renew or check the pages; returns the exit code."""
    stale = 0
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        fresh = renewed(text)
        if fresh == text:
            continue
        stale += 1
        if "--check" in argv:
            print(f"docs/{page.name}: a table is not as the code has it; run: python scripts/doc_tables.py")
        else:
            page.write_text(fresh, encoding="utf-8")
            print(f"docs/{page.name}: renewed")
    return 1 if stale and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
