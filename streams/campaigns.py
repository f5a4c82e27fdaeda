"""Campaign files: YAML text to `Campaign` values, with everything that is wrong at once and in its place.

Pure: takes text, opens nothing. What a key may hold is in `streams/campaign_keys.py`; what a pattern may say in
`streams/patterns`.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from schemas.campaign import Campaign
from schemas.findings import ERROR, WARNING, Finding, errors
from schemas.ids import h128
from schemas.policy import PRIORITY
from streams import marks
from streams.campaign_keys import KEYS, Keys
from streams.entry_keys import read_dates, read_groups
from streams.flows.loading import FlowLoader
from streams.patterns.check import check_at_firing, check_pattern, check_where
from streams.patterns.check_logic import meaning
from streams.patterns.conditions import parse_expression
from streams.patterns.grammar import PatternError, Problem, with_slips
from streams.patterns.nodes import Absent, Delay, Expr, Pos
from streams.patterns.parser import Reading, read_pattern

MAX_FINDINGS = 100  # of one file; nobody reads more
VERSION_DIGITS = 16
LATER_KEYS = ("start_ms", "end_ms", "groups")
LATER_SEND_KEYS = {"topic": None, "priority": PRIORITY}

# Errors that say "this does nothing useful" of a text that still has one meaning. Publishing refuses them; a replay of
# a recorded log runs the campaign all the same and shows them as warnings.
LENIENT = frozenset(
    {
        "alias-early",
        "always-true",
        "attribute-not-everywhere",
        "bad-template",
        "compare-null",
        "constant",
        "contradictory-windows",
        "internal-event",
        "long-wait",
        "never-true",
        "no-effect",
        "no-event",
        "repeated-event",
        "unbounded-state",
        "unknown-attribute",
        "unknown-category",
        "unknown-channel",
        "unknown-event",
        "unknown-same",
        "unreachable-step",
        "where-without-step",
        "without-first",
    }
)


def load_campaign(text: str, path: str, *, lenient: bool = False) -> tuple[Campaign | None, tuple[Finding, ...]]:
    """Read one campaign file.

    Args:
        text: the file's text, YAML.
        path: names the file in findings; nothing is opened.
        lenient: let errors of the kinds in `LENIENT` be warnings.

    Returns:
        The campaign, or None when a finding of severity error forbids it, and all findings in the order of the file.
    """
    campaign, findings, _ = _load(text, path, lenient)
    return campaign, findings


def load_campaigns(
    files: Iterable[tuple[str, str]], *, lenient: bool = False
) -> tuple[tuple[Campaign, ...], tuple[Finding, ...]]:
    """Read several campaign files, given as (path, text).

    Returns:
        The campaigns without errors, in the order given, and all findings. Of two files with one id both are refused.
    """
    loaded: list[tuple[Campaign, Finding]] = []
    findings: list[Finding] = []
    places: dict[str, Finding] = {}
    double: set[str] = set()
    for path, text in files:
        campaign, found, place = _load(text, path, lenient)
        findings += found
        if place is None:
            continue
        name = place.message
        if name in places:
            first = places[name]
            message = f"campaign '{name}' is already at {first.path}:{first.line}:{first.column}"
            findings.append(
                Finding("duplicate-campaign", path, place.line, place.column, message, "give one another id")
            )
            double.add(name)
        places.setdefault(name, place)
        if campaign is not None:
            loaded.append((campaign, place))
    return tuple(campaign for campaign, _ in loaded if campaign.campaign not in double), tuple(findings)


def _load(text: str, path: str, lenient: bool) -> tuple[Campaign | None, tuple[Finding, ...], Finding | None]:
    """Load one file; the last value carries the campaign's id as message, with its place."""
    try:
        root = marks.read(text.removeprefix("\ufeff"))
    except marks.MarksError as error:
        found = Finding(error.code, path, error.pos.line, error.pos.column, error.message, error.hint)
        return None, (found,), None
    if root is None or (isinstance(root, marks.Scalar) and not root.text.strip()):
        return None, (Finding("empty", path, 0, 0, "the file is empty", "write at least campaign and pattern"),), None
    if not isinstance(root, marks.Mapping):
        message = "a campaign is written as 'key: value' lines"
        return (
            None,
            (Finding("no-mapping", path, root.pos.line, root.pos.column, message, "begin with campaign: …"),),
            None,
        )
    loader = _Loader(root, path, lenient)
    campaign = loader.load()
    findings = sorted(loader.keys.findings, key=lambda f: (f.line, f.column))
    if len(findings) > MAX_FINDINGS:
        findings.sort(key=lambda f: f.severity != ERROR)
        rest = len(findings) - MAX_FINDINGS
        findings = findings[:MAX_FINDINGS]
        findings.append(Finding("too-many", path, 0, 0, f"{rest} more findings are not shown", "correct these first"))
    return (None if errors(findings) else campaign), tuple(findings), loader.place_of_id()


def _soften(finding: Finding) -> Finding:
    return msgspec.structs.replace(finding, severity=WARNING) if finding.code in LENIENT else finding


class _Loader:
    """Reads one mapping."""

    def __init__(self, root: marks.Mapping, path: str, lenient: bool) -> None:
        self.root = root
        self.path = path
        self.keys = Keys(root, path, KEYS)
        self.lenient = lenient
        self.reading: Reading | None = None

    def place_of_id(self) -> Finding | None:
        scalar = self.keys.found.get("campaign")
        if not isinstance(scalar, marks.Scalar):
            return None
        return Finding("campaign", self.path, scalar.pos.line, scalar.pos.column, scalar.text)

    def load(self) -> Campaign | None:
        keys = self.keys
        name = keys.identifier("campaign")
        pattern = self._pattern()
        where = self._expression("where")
        if_still = self._expression("if still")
        send = keys.send()
        data = self._data(keys.send_data)
        lateness = keys.lateness()
        flows = FlowLoader(keys, self.reading)
        flow, on_edit = flows.load()
        zone = keys.timezone()
        start_ms, end_ms = read_dates(keys, zone)
        campaign = Campaign(
            campaign=name or "",
            pattern=pattern or "",
            title=keys.text("title") or "",
            where=where[0] if where else None,
            if_still=if_still[0] if if_still else None,
            on_repeat=keys.on_repeat(),
            cooldown_ms=keys.duration("cooldown"),
            limit=keys.limit(),
            once=keys.flag("once"),
            per=keys.choice("per", ("member", "key")),
            lateness_ms=lateness,
            on_late=keys.choice("on_late", ("ignore", "cancel")),
            send=msgspec.structs.replace(send, data={key: text for key, (text, _) in data.items()}) if send else None,
            attribution_window_ms=keys.attribution(),
            timezone=zone,
            flow=flow,
            on_edit=on_edit,
            start_ms=start_ms,
            end_ms=end_ms,
            groups=read_groups(keys, name or ""),
            source=self.root.plain_value(),
        )
        keys.text("description")
        self._usefulness(campaign)
        if self.lenient:
            self.keys.findings[:] = [_soften(finding) for finding in self.keys.findings]
        if self.reading is None or self.reading.pattern is None or errors(self.keys.findings):
            return None
        trees = {
            "pattern": meaning(self.reading.pattern),
            "where": meaning(where[1]) if where else None,
            "if_still": meaning(if_still[1]) if if_still else None,
            "data": {key: meaning(expr) for key, (_, expr) in data.items()},
        }
        if flow is not None:
            trees["flow"] = flows.facts(flow)
        return msgspec.structs.replace(campaign, version=version_of(campaign, trees))

    def _pattern(self) -> str | None:
        scalar = self.keys.scalar("pattern", required=True)
        if scalar is None:
            return None
        self.reading = read_pattern(scalar.text)
        self._add(check_pattern(self.reading), scalar)
        return scalar.text.strip()

    def _expression(self, key: str) -> tuple[str, Expr] | None:
        scalar = self.keys.scalar(key)
        return self._parse(scalar, key) if scalar is not None else None

    def _data(self, entries: dict[str, marks.Scalar]) -> dict[str, tuple[str, Expr]]:
        parsed = {name: self._parse(scalar, f"send.data.{name}") for name, scalar in entries.items()}
        return {name: found for name, found in parsed.items() if found is not None}

    def _parse(self, scalar: marks.Scalar, key: str) -> tuple[str, Expr] | None:
        reading = self.reading
        slips: list[Problem] = []
        try:
            expr = parse_expression(scalar.text, reading.aliases if reading else frozenset(), slips)
        except PatternError as error:
            self._add(with_slips(slips, [error.problem()]), scalar)
            return None
        self._add(slips, scalar)
        if reading is not None and reading.pattern is not None and reading.complete:
            if key == "where":
                self._add(check_where(expr, reading.pattern), scalar)
            else:
                self._add(check_at_firing(expr, reading.pattern, key), scalar)
        return scalar.text.strip(), expr

    def _usefulness(self, campaign: Campaign) -> None:
        pattern = self.reading.pattern if self.reading else None
        if pattern is None:
            return
        waits = any(isinstance(step, Absent | Delay) for step in pattern.steps)
        if campaign.on_late == "cancel" and not any(isinstance(step, Absent) for step in pattern.steps):
            self.keys.add(
                "no-effect", "on_late", "on_late has no effect: the pattern waits for no absence", "remove it", WARNING
            )
        if campaign.on_repeat is not None and len(pattern.steps) == 1 and not waits:
            self.keys.add(
                "no-effect",
                "on_repeat",
                "on_repeat has no effect: a match of one step never waits",
                "remove it",
                WARNING,
            )
        if campaign.on_late == "cancel" and campaign.flow is not None:
            self.keys.add("no-effect", "on_late", "on_late calls back the message of a send", "write exit_on: …")
        if campaign.per == "key" and not pattern.same:
            self.keys.add("no-effect", "per", "per: key has no effect: the pattern has no same", "add same …", WARNING)
        if campaign.once and (campaign.cooldown_ms is not None or campaign.limit is not None):
            self.keys.add(
                "no-effect", "once", "once leaves nothing for cooldown or limit to do", "keep one of them", WARNING
            )

    def _add(self, problems: Iterable[Problem], scalar: marks.Scalar) -> None:
        for problem in problems:
            pos: Pos = scalar.place(problem.pos)
            self.keys.findings.append(
                Finding(problem.code, self.path, pos.line, pos.column, problem.message, problem.hint, problem.severity)
            )


def version_of(campaign: Campaign, trees: dict[str, Any]) -> str:
    """Hash what a campaign means to 16 hex digits: formatting, comments, titles and owners do not count.

    `trees` are the meanings of the texts (`check_logic.meaning`), which replace the texts themselves.
    """
    facts: dict[str, Any] = msgspec.to_builtins(campaign)
    for name in ("version", "title", "source", "pattern", "where", "if_still", "flow", "on_edit"):
        facts.pop(name, None)
    for name in LATER_KEYS:  # campaigns that do not use them keep the version they had
        if not facts[name]:
            del facts[name]
    if facts.get("send"):
        facts["send"] = {**facts["send"], "data": None}
        for name, default in LATER_SEND_KEYS.items():  # likewise
            if facts["send"][name] == default:
                del facts["send"][name]
    return h128(msgspec.json.encode([facts, trees], order="deterministic").decode())[:VERSION_DIGITS]
