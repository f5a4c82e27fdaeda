"""The docs say what the code does: every example is run, every table is compared. Links: tests/test_layout.py.

Fenced blocks and what is done with them, in the order of the page:

    pattern        each line is a pattern without errors (warnings may be)
    refused        each line `pattern  -- code`: loading it gives an error of that code
    expression     each line parses
    campaign       loads without errors; blocks that follow one another directly are run together
    policies       loads without findings, and holds for the events below
    cases          run against the campaign above
    events         NDJSON, a log of one partition, run by the campaigns above
    firings        NDJSON: what that log fired, each line a part of the firing; times may be RFC 3339
    decisions      the same for decisions
    attributions   the same for attributions
    producer       NDJSON: what a producer writes
    understood     NDJSON: what we read from it, line for line, in part; a refusal is {"refused": reason}
    console        lines `$ python -m tidings …`: the command exists and takes these options
"""

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from schemas.codec import decode_event
from schemas.commands import LANES
from schemas.errors import DecodeError
from schemas.findings import ERROR, errors
from schemas.instants import instant_ms
from schemas.policy import Policy
from scripts.doc_tables import MARKER, TABLES, renewed
from sinks.channels.checks import NEEDS
from sinks.channels.kinds import KINDS
from sinks.templates import Templates, check_template
from streams import otp
from streams.campaign_keys import KEYS, SEND_KEYS
from streams.campaigns import load_campaign
from streams.case_runs import check_case
from streams.cases import BECAUSE, read_cases
from streams.epoch import Epoch
from streams.patterns.check import check_pattern
from streams.patterns.conditions import parse_expression
from streams.patterns.durations import parse_duration
from streams.patterns.expressions import FUNCTIONS
from streams.patterns.grammar import AGGREGATES, COMPARISONS, RESERVED, WEEKDAYS
from streams.patterns.parser import parse_pattern, read_pattern
from streams.patterns.plan import Plan
from streams.policies.load import BUDGET_KEYS, CAP_KEYS, POLICY_KEYS, QUIET_KEYS, load_policy
from streams.replay import read_log, replay
from tests.sinks.channels.vendors import EC_PEM, RSA_PEM, WEBHOOK_SECRET, b64url
from tidings.cli.main import COMMANDS
from tidings.otp import load_rules
from tidings.providers import read_providers
from tidings.settings_table import documented
from tidings.web import otp as otp_web

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
OURS = (
    "architecture", "campaigns", "channels", "events", "flows", "glossary", "guarantees", "lateness", "patterns",
    "policies",
)  # fmt: skip
FENCE = re.compile(r"^```([a-z]+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TIMES = ("fired_at", "due", "due_ms", "decided_at_ms", "occurred_at_ms", "touched_at_ms", "converted_at_ms")
RUN = ("campaign", "policies", "cases", "events", "firings", "decisions", "attributions")
HOST = re.compile(r"\b(?:https?|smtps?|kafka|smtp\+starttls)://\[?([\w.-]+)")
OUR_HOSTS = re.compile(r"(.+\.)?example|127\.0\.0\.1|localhost|host|broker-\d")


class Block(msgspec.Struct, frozen=True):
    """A fenced block: its language, text and first line in the page."""

    page: str
    kind: str
    text: str
    line: int
    adjoins: bool  # nothing but blanks between it and the block before

    @property
    def place(self) -> str:
        return f"docs/{self.page}:{self.line}"

    @property
    def lines(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.strip()]


@cache
def page_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def our(name: str) -> str:
    return page_text(ROOT / "docs" / f"{name}.md")


@cache
def blocks(path: Path) -> tuple[Block, ...]:
    text = page_text(path)
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        between = text[end : match.start()]
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(path.name, match[1], match[2], line, bool(found) and not between.strip()))
        end = match.end()
    return tuple(found)


def blocks_of(*kinds: str) -> list[Any]:
    found = [b for path in PAGES if path.stem in OURS for b in blocks(path) if b.kind in kinds]
    return [pytest.param(block, id=block.place) for block in found]


# ---------------------------------------------------------------- the language


@pytest.mark.parametrize("block", blocks_of("pattern"))
def test_each_pattern_of_the_docs_is_without_errors(block: Block) -> None:
    for line in block.lines:
        parse_pattern(line)
        wrong = [p for p in check_pattern(read_pattern(line)) if p.severity == ERROR]
        assert not wrong, f"{block.place}: {line}: {wrong}"
        Plan(loaded(f"campaign: c\npattern: {json.dumps(line)}\n", block))


@pytest.mark.parametrize("block", blocks_of("refused"))
def test_each_pattern_called_refused_is_refused_for_the_reason_given(block: Block) -> None:
    for line in block.lines:
        text, _, code = line.rpartition("--")
        found = {p.code for p in check_pattern(read_pattern(text.strip())) if p.severity == ERROR}
        assert found == {code.strip()}, f"{block.place}: {text.strip()}: {found}"


@pytest.mark.parametrize("block", blocks_of("expression"))
def test_each_expression_of_the_docs_can_be_read(block: Block) -> None:
    for line in block.lines:
        parse_expression(line, frozenset("v"))


def test_each_word_of_the_language_is_in_the_page_of_the_language() -> None:
    words = {word for span in re.findall(r"`([^`\n]+)`", our("patterns")) for word in re.findall(r"[a-z]+", span)}
    assert (RESERVED | AGGREGATES | set(WEEKDAYS)) - words == set()
    assert {f"{name}()" for name in FUNCTIONS} - set(re.findall(r"`(\w+\(\))`", our("patterns"))) == set()
    assert {op for op in COMPARISONS if f"`{op}`" not in our("patterns")} == set()


def test_all_rules_of_the_semantics_are_named_and_each_once() -> None:
    """The page numbers its rules as the design does, so that code comments can be looked up there."""
    section = our("patterns").partition("## Settled readings")[2].partition("### Readings beyond")[0]
    numbers = [int(n) for n in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)]
    assert numbers == list(range(1, 70))


# ---------------------------------------------------------------- campaigns and logs


def loaded(text: str, block: Block) -> Any:
    campaign, findings = load_campaign(text, block.place)
    assert campaign is not None and not errors(findings), [str(f) for f in findings]
    return campaign


def runs_of(path: Path) -> Iterator[list[Block]]:
    """Cut a page into runs: campaigns, and what follows up to the next campaigns."""
    run: list[Block] = []
    for block in blocks(path):
        if block.kind not in RUN or (block.kind == "policies" and not run):
            continue  # policies without a campaign above are an example of the file
        if block.kind == "campaign" and run and not (block.adjoins and run[-1].kind == "campaign"):
            yield run
            run = []
        run.append(block)
    if run:
        yield run


def all_runs() -> list[Any]:
    found = [run for path in PAGES if path.stem in OURS for run in runs_of(path)]
    return [pytest.param(run, id=run[0].place) for run in found]


@pytest.mark.parametrize("run", all_runs())
def test_each_campaign_of_the_docs_does_what_the_page_says(run: list[Block]) -> None:
    plans = [Plan(loaded(block.text, block)) for block in run if block.kind == "campaign"]
    assert plans, f"{run[0].place}: there is no campaign above"
    epochs: list[Epoch] = []
    policy = None
    for block in run:
        if block.kind == "cases":
            run_cases(block, plans[-1])
        elif block.kind == "policies":
            policy = policies_of(block)
        elif block.kind == "events":
            epochs = list(replay(read_log(line.encode() for line in block.lines), plans, policy=policy))
            assert not [letter.message for epoch in epochs for letter in epoch.dead_letters], block.place
        elif block.kind != "campaign":
            compare(block, [item for epoch in epochs for item in getattr(epoch, block.kind)])


def policies_of(block: Block) -> Policy:
    policy, findings = load_policy(block.text, block.place)
    assert policy is not None and not findings, [str(f) for f in findings]
    return policy


@pytest.mark.parametrize("block", blocks_of("policies"))
def test_each_policy_file_of_the_docs_is_sound(block: Block) -> None:
    policies_of(block)


def test_each_key_of_a_policy_file_is_in_its_page() -> None:
    keys = {*POLICY_KEYS, *CAP_KEYS, *QUIET_KEYS, *BUDGET_KEYS}
    assert [key for key in keys if not re.search(rf"\b{key}\b:|`{key}`", our("policies"))] == []


def run_cases(block: Block, plan: Plan) -> None:
    cases, findings = read_cases(block.text, block.place)
    assert cases and not findings, [str(f) for f in findings]
    wrong = [str(finding) for case in cases for finding in check_case(case, plan, block.place)]
    assert not wrong, wrong


def compare(block: Block, found: list[Any]) -> None:
    wanted = [json.loads(line) for line in block.lines]
    got = [part(msgspec.to_builtins(item), want) for item, want in zip(found, wanted, strict=False)]
    assert len(found) == len(wanted), f"{block.place}: {[msgspec.to_builtins(item) for item in found]}"
    assert got == [in_ms(want) for want in wanted], block.place


def in_ms(want: dict[str, Any]) -> dict[str, Any]:
    return {key: instant_ms(value) if key in TIMES and value is not None else value for key, value in want.items()}


def part(have: dict[str, Any], want: dict[str, Any]) -> dict[str, Any]:
    return {key: have.get(key, "(nothing)") for key in want}


def test_each_key_of_a_campaign_file_has_a_heading() -> None:
    headings = set(re.findall(r"^#+ `([^`]+)`", our("campaigns"), re.MULTILINE))
    assert set(KEYS) - headings == set()
    assert {f"send.{key}" for key in SEND_KEYS} - headings == set()


def test_each_reason_that_a_case_may_give_is_explained() -> None:
    assert [word for word in BECAUSE if f"`{word}`" not in our("campaigns")] == []


# ---------------------------------------------------------------- producers


def test_each_record_of_a_producer_is_understood_as_the_page_says() -> None:
    found = [b for path in PAGES if path.stem in OURS for b in blocks(path) if b.kind in ("producer", "understood")]
    assert [b.kind for b in found] == ["producer", "understood"] * (len(found) // 2)
    for given, wanted in zip(found[::2], found[1::2], strict=True):
        assert len(given.lines) == len(wanted.lines), given.place
        for line, expected in zip(given.lines, wanted.lines, strict=True):
            want = json.loads(expected)
            assert part(understood(line), want) == in_ms(want), f"{wanted.place}: {line}"


def understood(line: str) -> dict[str, Any]:
    try:
        return msgspec.structs.asdict(decode_event(line.encode()))
    except DecodeError as error:
        return {"refused": error.reason}


def constants(path: Path, name: str, place: int) -> set[str]:
    """Collect the texts given as the `place`-th argument of calls of `name` in a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        called = getattr(node, "func", None)
        if isinstance(node, ast.Call) and name in (getattr(called, "id", ""), getattr(called, "attr", "")):
            given = node.args[place] if len(node.args) > place else None
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                found.add(given.value)
    return found


def test_each_reason_of_a_dead_letter_is_explained() -> None:
    sources = [*(ROOT / "schemas").glob("*.py"), *(ROOT / "sinks").glob("*.py")]
    reasons = set().union(*(constants(path, "DecodeError", 0) for path in sources))
    reasons |= constants(ROOT / "streams/engine.py", "_refuse", 1)
    assert {reason for reason in reasons if f"`{reason}`" not in our("events")} == set()
    assert {"not-json", "too-large", "bad-campaign", "campaign-failed"} <= reasons


# ---------------------------------------------------------------- providers

SECRETS = {"APNS_KEY": EC_PEM, "CRM_SECRET": WEBHOOK_SECRET, "VAPID_PRIVATE_KEY": b64url(bytes(31) + b"\x07")}


@pytest.mark.parametrize("block", blocks_of("providers"))
def test_each_providers_file_of_the_docs_is_without_faults(block: Block) -> None:
    account = json.dumps({"project_id": "p", "client_email": "a@shop.example", "private_key": RSA_PEM})
    env = SECRETS | {"FCM_SERVICE_ACCOUNT": account}
    found = read_providers(block.text, block.place, lambda name: env.get(name, "s3cret"))
    kinds = {spec.kind for lane in LANES for specs in found.channels(lane).values() for spec in specs}
    assert kinds == set(KINDS), "the page shows one of each kind"


def test_each_channel_of_the_language_has_its_files_on_the_page() -> None:
    rows = our("channels").partition("## Templates")[2].partition("###")[0]
    for channel, needs in NEEDS.items():
        (row,) = [line for line in rows.splitlines() if line.startswith("|") and f"`{channel}`" in line.split("|")[1]]
        assert all(f"`.{part}.j2`" in row.split("|")[2] for part in needs.required), channel
        assert all(f"`.{part}.j2`" in row.split("|")[3] for part in needs.optional), channel


# ---------------------------------------------------------------- templates


def test_each_page_of_the_docs_is_rendered_as_shown(tmp_path: Path) -> None:
    shown = blocks(ROOT / "docs" / "email.md")
    triples = [shown[n : n + 3] for n, block in enumerate(shown) if block.kind in ("jinja", "mjml")]
    assert {part.kind for part, _, _ in triples} == {"jinja", "mjml"}
    for part, values, html in triples:
        assert (values.kind, html.kind) == ("values", "html"), part.place
        name = f"x{part.line}"
        for ending, text in (("subject", "s"), ("txt", "t"), ({"jinja": "html"}.get(part.kind, part.kind), part.text)):
            (tmp_path / f"{name}.{ending}.j2").write_text(text)
        given = json.loads(values.text)
        templates = Templates(tmp_path)
        found = check_template(name, templates.files, frozenset(given["data"]) | {"old"})
        assert not found, f"{part.place}: {found}"
        page = str(templates.render(name, given).html).replace("\u00a0", " ")
        for line in html.lines:
            assert line in page, f"{html.place}: {line}\n{page}"


def test_the_one_time_codes_of_the_docs_are_answered_as_shown() -> None:
    text, requests, answers = blocks(ROOT / "docs" / "one-time-codes.md")[1:4]
    rules = load_rules(text.text, text.place)
    known: dict[str, bytes] = {}
    asked = 0
    for line, want in zip(requests.lines, answers.lines, strict=True):
        given = json.loads(line)
        now = 1_800_000_000_000 + parse_duration(given.pop("at"))
        if given.pop("post") == "/otp":
            ident = f"c{asked + 1}"
            step = otp.request(
                rules, known.get, otp.Ask(**given), challenge_id=ident, code="482913", provider="x", secret=b"k" * 16,
                now_ms=now,
            )  # fmt: skip
            asked += step.result == "granted"
            status, body = otp_web.asked(step, ident)
        else:
            step = otp.verify(rules, known.get, otp.Try(**given), secret=b"k" * 16, now_ms=now)
            status, body = otp_web.judged(step)
        known |= step.changes
        assert part({"status": status, **body}, json.loads(want)) == json.loads(want), f"{requests.place}: {line}"


def test_each_result_of_a_one_time_code_is_explained() -> None:
    table = page_text(ROOT / "docs" / "one-time-codes.md")
    text = (ROOT / "streams" / "otp.py").read_text(encoding="utf-8")
    results = set(re.findall(r'Step\("([a-z_]+)"', text)) | set(re.findall(r'"([a-z]+_limit)"', text))
    results |= {otp.USED, otp.LOCKED, "invalid_address", "no_member"}
    assert len(results) > 15
    assert [name for name in results - {"granted"} if f"`{name}`" not in table] == []


# ---------------------------------------------------------------- words


def returned(path: Path, *names: str) -> set[str]:
    """Collect the texts that functions of a module return, alone or first of a tuple."""
    found = set()
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef) and function.name in names:
            for node in ast.walk(function):
                value = node.value if isinstance(node, ast.Return) else None
                value = value.elts[0] if isinstance(value, ast.Tuple) else value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    found.add(value.value)
    return found


def test_each_reason_of_a_decision_is_in_the_glossary() -> None:
    decide, engine = ROOT / "streams/decide.py", ROOT / "streams/engine.py"
    reasons = returned(decide, "_refusal") | returned(ROOT / "streams/caps.py", "refused_by")
    for name in ("judge", "contact"):
        path = ROOT / f"streams/policies/{name}.py"
        reasons |= constants(path, "Suppressed", 0) | constants(path, "Held", 1)
        reasons |= returned(path, "_topic_refusal", "_channel_refusal", "contact_refusal", "_dead_refusal")
    reasons |= {"frequency_cap", "priority_lost"}
    reasons |= (
        constants(decide, "Suppressed", 0) | constants(decide, "decision_of", 2) | constants(engine, "describe", 2)
    )
    outcomes = constants(decide, "decision_of", 1) | constants(engine, "describe", 1)
    run = ROOT / "streams/flows/run.py"
    reasons |= constants(run, "Suppressed", 0)
    reasons |= constants(run, "_say", 2) | constants(run, "_end", 2) | constants(run, "_drop", 3)
    outcomes |= constants(run, "_say", 1) | constants(run, "_end", 1)
    known = {"if_still", "once", "no_consent", "topic_off", "no_send", "instances_full", "budget", "quiet_hours"}
    assert known <= reasons
    assert {word for word in reasons | outcomes if f"`{word}`" not in our("glossary")} == set()


def test_each_reason_of_a_receipt_is_in_the_glossary() -> None:
    sources = [ROOT / "agents/send_one.py", ROOT / "sinks/email.py", *(ROOT / "sinks/channels").glob("*.py")]
    reasons = set().union(*(constants(path, "Outcome", 2) | constants(path, "ContentError", 0) for path in sources))
    reasons |= set().union(*(constants(path, "Verdict", 1) for path in sources))
    reasons |= constants(ROOT / "sinks/email.py", "_refused", 2) | constants(ROOT / "sinks/email.py", "_Step", 2)
    reasons -= {""}
    assert {"recipient_refused", "too_old", "throttled", "too_many_parts"} <= reasons
    assert {word for word in reasons if f"`{word}`" not in our("glossary")} == set()


# ---------------------------------------------------------------- tables, links, commands


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_generated_tables_are_as_the_code_has_them(path: Path) -> None:
    text = page_text(path)
    assert text.count("<!-- table:") == len(MARKER.findall(text)), "a marker without its end"
    assert renewed(text) == text, "run: python scripts/doc_tables.py"


def test_each_generated_table_is_in_some_page() -> None:
    shown = {name for path in PAGES for _, name, _, _ in MARKER.findall(page_text(path))}
    assert set(TABLES) - shown == set()


def test_each_setting_has_a_row() -> None:
    rows = {line.split("|")[1].strip() for path in PAGES for line in page_text(path).splitlines() if line[:1] == "|"}
    assert [row["name"] for row in documented() if f"`{row['name']}`" not in rows] == []


def test_pages_that_the_code_names_exist() -> None:
    missing = set()
    for folder in ("agents", "schemas", "sinks", "streams", "tables", "tidings", "tests", "scripts", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            named = re.findall(r"\bdocs/([a-z_-]+\.md)\b", path.read_text(encoding="utf-8"))
            missing |= {(path.name, name) for name in named if not (ROOT / "docs" / name).exists()}
    assert missing == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_only_hosts_of_examples_are_in_the_docs(path: Path) -> None:
    assert [host for host in HOST.findall(page_text(path)) if not OUR_HOSTS.fullmatch(host)] == []


@pytest.mark.parametrize("block", blocks_of("console"))
def test_commands_of_the_docs_exist_and_take_these_options(block: Block) -> None:
    said = [line for line in block.lines if line.startswith("$ python -m tidings")]
    assert said, f"{block.place}: no line '$ python -m tidings …'"
    for line in said:
        words = shlex.split(line.split(" | ")[0].split(" > ")[0].removeprefix("$ python -m tidings"), comments=True)
        parse(words, line)


def parse(words: list[str], line: str) -> None:
    module, name, _ = COMMANDS[words[0]]
    command: click.Command = getattr(importlib.import_module(module), name)
    context = click.Context(command, info_name=words[0])
    rest = words[1:]
    while isinstance(command, click.Group):
        found = command.get_command(context, rest[0])
        assert found is not None, line
        context, command, rest = click.Context(found, parent=context, info_name=rest[0]), found, rest[1:]
    command.make_parser(context).parse_args(rest)  # raises on an option that the command does not have


def test_each_test_that_the_docs_name_exists() -> None:
    named = {found for path in PAGES for found in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page_text(path))}
    assert named
    for file, name in sorted(named):
        assert re.search(rf"^(async )?def {name}\(", page_text(ROOT / file), re.MULTILINE), f"{file}::{name}"


def test_each_file_that_the_docs_name_exists() -> None:
    folders = "agents|schemas|sinks|streams|tables|tidings|tests|scripts|benchmarks|docs"
    named = {found for path in PAGES for found in re.findall(rf"`((?:{folders})/[\w./-]*)`", page_text(path))}
    assert {name for name in named if not (ROOT / name).exists()} == set()
