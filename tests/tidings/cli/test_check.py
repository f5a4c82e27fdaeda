import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from schemas.errors import OperatorError
from tidings.cli.check import check

ROOT = Path(__file__).parents[3]
CAMPAIGN = "campaign: browse\npattern: catalog.product.viewed then no order.created for 2h, same product_id\n"
CASES = """
- name: nobody orders
  events:
    - {at: 10:00, type: catalog.product.viewed, id: v1, product_id: p1}
  until: 13:00
  expect:
    - {fires: 12:00, anchor: v1}
"""


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(check, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "browse.yaml").write_text(CAMPAIGN)
    (tmp_path / "browse.cases.yaml").write_text(CASES)
    return tmp_path


def test_every_shipped_campaign_has_cases_and_all_of_them_hold():
    result = run(ROOT / "campaigns", "--strict", "--templates", ROOT / "campaigns" / "templates")
    assert result.exit_code == 0, result.output


def test_good_ones_are_counted(place):
    result = run(place)
    assert (result.exit_code, result.output) == (0, "1 campaign, 1 case: 0 errors, 0 warnings\n")


def test_a_difference_says_what_happened_and_why(place):
    (place / "browse.cases.yaml").write_text(CASES.replace("- {fires: 12:00, anchor: v1}", "[]"))
    result = run(place)
    assert result.exit_code == 1
    assert (
        "browse.cases.yaml:2:3: case 'nobody orders': expected no message, but 'browse' fired at 12:00 for v1"
        " (catalog.product.viewed, product_id p1): no order.created with product_id p1 was read before 12:00:05"
    ) in result.output
    assert "1 campaign, 1 case (1 failed): 1 error, 0 warnings" in result.output


def test_all_findings_of_all_files_come_at_once(place):
    (place / "bad.yaml").write_text("campaign: Bad\npattern: order.created then then\n")
    (place / "double.yaml").write_text(CAMPAIGN)
    (place / "browse.cases.yaml").write_text(CASES.replace("fires: 12:00", "fires: never"))
    output = run(place).output
    assert "bad.yaml:1:11" in output
    assert "bad.yaml:2:" in output
    assert "double.yaml:1:11: campaign 'browse' is already at" in output
    assert "browse.cases.yaml:7:15: this is no time (got 'never')" in output


def test_a_campaign_without_cases_is_a_warning_and_an_error_when_strict(place):
    (place / "browse.cases.yaml").unlink()
    assert run(place).exit_code == 0
    result = run(place, "--strict")
    assert result.exit_code == 1
    assert "warning: " in result.output
    assert "no cases file" in result.output


def test_cases_without_a_campaign_are_a_warning(place):
    (place / "gone.cases.yaml").write_text(CASES)
    assert "no campaign beside them" in run(place).output


def test_a_cases_file_stands_for_its_campaign(place):
    assert "1 campaign, 1 case" in run(place / "browse.cases.yaml").output


def test_templates_are_checked_against_the_names_the_campaign_gives(place):
    templates = place / "templates"
    templates.mkdir()
    (place / "browse.yaml").write_text(CAMPAIGN + "send: {channel: email, template: t}\n")
    assert "the template 't' of campaign 'browse' is not whole" in run(place, "--templates", templates).output
    (templates / "t.subject.j2").write_text("About {{ data.product_id }}")
    (templates / "t.txt.j2").write_text("Look again.")
    result = run(place, "--templates", templates)
    assert result.exit_code == 1
    assert "send.data gives no 'product_id'" in result.output


def test_output_for_programs(place):
    (place / "browse.cases.yaml").write_text(CASES.replace("fires: 12:00", "fires: 12:30"))
    (report,) = json.loads(run(place, "--output", "json").output)
    assert (report["campaigns"], report["cases"], report["cases_failed"], report["errors"]) == (1, 1, 1, 1)
    (row,) = [json.loads(line) for line in run(place, "--output", "ndjson").output.splitlines()]
    assert row == report["findings"][0]
    assert (row["code"], row["line"]) == ("case-failed", 7)


def test_nothing_there_is_wrong_usage(tmp_path):
    with pytest.raises(OperatorError, match="no campaigns here"):
        run(tmp_path)
    with pytest.raises(OperatorError, match="no such file or directory"):
        run(tmp_path / "nothing")


def test_help_shows_an_example():
    assert "python -m tidings check" in run("--help").output
