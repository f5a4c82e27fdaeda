"""`check`: every finding of every campaign at once, its templates too, then all cases."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from schemas.campaign import Campaign
from schemas.errors import OperatorError
from schemas.findings import ERROR, WARNING, Finding
from schemas.flow import CascadeStep, SendStep
from sinks.channels.checks import check_message
from sinks.templates import TemplateFiles
from streams.campaigns import load_campaign, load_campaigns
from streams.case_runs import check_case
from streams.cases import read_cases
from streams.patterns.plan import Plan
from tidings.cli.output import output_option, print_rows
from tidings.cli.policies import policy_findings
from tidings.cli.progress import Bar
from tidings.config import Settings
from tidings.files import CASES_ENDINGS, YAML_ENDINGS, campaign_paths, cases_path, is_cases, read_text, read_texts

DUPLICATE = "duplicate-campaign"


class Report(msgspec.Struct):
    """What a check found. `cases`: how many were run; `failed`: how many of them differed."""

    campaigns: int = 0
    policies: int = 0
    cases: int = 0
    failed: int = 0
    findings: list[Finding] = []

    def count(self, severity: str) -> int:
        """Count the findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)


@click.command()
@click.argument("paths", metavar="[CAMPAIGN_OR_DIR]...", nargs=-1)
@click.option("--templates", metavar="DIR", help="Where the message templates are; default TIDINGS_TEMPLATES_DIR.")
@click.option("--strict", is_flag=True, help="Count warnings as errors.")
@output_option
def check(paths: tuple[str, ...], templates: str | None, strict: bool, output: str) -> None:
    """Check campaigns: their text, their templates, and their cases.

    A campaign NAME.yaml has its cases in NAME.cases.yaml beside it: events with times in, expected firings out, and
    what must not fire with the reason. Without paths, everything in campaigns/ is checked.

    \b
    Examples:
      python -m tidings check
      python -m tidings check campaigns/demo --strict
      python -m tidings check campaigns/demo/thank_you.yaml --output json

    Exit codes: 0 nothing wrong, 1 errors (with --strict also warnings), 2 wrong usage.
    """  # noqa: D301 click wants the character itself
    settings = Settings.from_env(templates_dir=templates)
    report = examine(paths or (str(settings.campaigns_dir),), settings.templates_dir)
    _print(report, output)
    if report.count(ERROR) or (strict and report.findings):
        sys.exit(1)


def examine(paths: tuple[str, ...], templates_dir: Path) -> Report:
    """Check campaigns with their templates and cases.

    Raises:
        OperatorError: a path does not exist, or there is no campaign there.
    """
    files = campaign_paths(_beside(Path(path)) for path in paths)
    policies, policy_found = policy_findings(paths)
    if not files and not policies:
        raise OperatorError(f"{', '.join(paths)}: no campaigns here (got no *.yaml); name a directory that has some")
    report = Report(campaigns=len(files), policies=policies, findings=policy_found)
    loader = TemplateFiles(templates_dir)
    texts = read_texts(files)
    _, together = load_campaigns(texts)
    doubles = [finding for finding in together if finding.code == DUPLICATE]
    with Bar("checking", len(files)) as bar:
        for number, (path, text) in enumerate(texts):
            bar.at(number, path)
            campaign, findings = load_campaign(text, path)
            report.findings += findings
            report.findings += [finding for finding in doubles if finding.path == path]
            if campaign is not None:
                report.findings += _template_findings(campaign, path, loader)
            _run_cases(Path(path), campaign, report)
    report.findings += _orphans(paths)
    report.findings = list(dict.fromkeys(report.findings))
    return report


def _beside(path: Path) -> Path:
    """Let a cases file stand for its campaign."""
    if not is_cases(path):
        return path
    stem = path.name.removesuffix(next(ending for ending in CASES_ENDINGS if path.name.endswith(ending)))
    beside = [path.with_name(stem + ending) for ending in (path.suffix, *YAML_ENDINGS)]
    return next((campaign for campaign in beside if campaign.is_file()), beside[0])


def _template_findings(campaign: Campaign, path: str, loader: TemplateFiles) -> tuple[Finding, ...]:
    sends = [] if campaign.send is None else [(campaign.send, campaign.send.template)]
    for step in campaign.flow.steps if campaign.flow is not None else ():
        if isinstance(step, SendStep):
            sends += [(step.send, name) for name in [v.template for v in step.variants] or [step.send.template]]
        elif isinstance(step, CascadeStep):
            sends += [(leg.send, leg.send.template) for leg in step.legs]
    found: list[Finding] = []
    for send, template in sends:
        faults = check_message(send.channel, template, loader, frozenset(send.data))
        found += faults
        if any(fault.code == "template-missing" for fault in faults):
            message = f"the template '{template}' of campaign '{campaign.campaign}' is not whole"
            found.append(Finding("no-template", path, 0, 0, message, f"see {loader.root}"))
    return tuple(found)


def _run_cases(path: Path, campaign: Campaign | None, report: Report) -> None:
    beside = cases_path(path)
    if not beside.is_file():
        message = f"the campaign has no cases file (got no {beside.name})"
        report.findings.append(Finding("no-cases", str(path), 0, 0, message, "write one beside it", WARNING))
        return
    cases, findings = read_cases(read_text(beside), str(beside))
    report.findings += findings
    if campaign is None:
        return
    plan = Plan(campaign)
    for case in cases:
        differences = check_case(case, plan, str(beside))
        report.cases += 1
        report.failed += bool(differences)
        report.findings += differences


def _orphans(paths: tuple[str, ...]) -> Iterator[Finding]:
    for directory in (Path(path) for path in paths if Path(path).is_dir()):
        for file in sorted(p for p in directory.rglob("*") if p.is_file() and is_cases(p)):
            campaign = _beside(file)
            if not campaign.is_file():
                message = f"these cases have no campaign beside them (got no {campaign.name})"
                yield Finding("orphan-cases", str(file), 0, 0, message, "rename or remove the file", WARNING)


def _print(report: Report, output: str) -> None:
    rows = [msgspec.to_builtins(finding) for finding in report.findings]
    if output == "ndjson":
        print_rows(rows, output)
        return
    counts: dict[str, Any] = {
        "campaigns": report.campaigns,
        "policies": report.policies,
        "cases": report.cases,
        "cases_failed": report.failed,
        "errors": report.count(ERROR),
        "warnings": report.count(WARNING),
    }
    if output == "json":
        print_rows([{**counts, "findings": rows}], output)
        return
    for finding in report.findings:
        click.echo(f"{finding.severity}: {finding}")
    click.echo(
        f"{_many(report.campaigns, 'campaign')}, "
        + (f"{_many(report.policies, 'policy file')}, " if report.policies else "")
        + f"{_many(report.cases, 'case')}"
        + (f" ({report.failed} failed)" if report.failed else "")
        + f": {_many(counts['errors'], 'error')}, {_many(counts['warnings'], 'warning')}"
    )


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count:,} {noun}s"
