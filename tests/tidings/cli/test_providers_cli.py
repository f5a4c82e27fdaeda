import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from schemas.errors import OperatorError
from tidings.cli.main import cli

TEXT = """
providers:
  hook: {kind: webhook, url: "https://crm.example/h", secret: {env: HOOK_SECRET}}
  bot: {kind: telegram, token: {env: BOT_TOKEN}}
channels: {webhook: hook, bot: bot}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOOK_SECRET", "whsec_" + "QUFB" * 10)
    monkeypatch.setenv("BOT_TOKEN", "123:abc")
    path = tmp_path / "p.yaml"
    path.write_text(TEXT)
    return path


def test_it_shows_who_carries_what_and_no_secret(file: Path) -> None:
    done = CliRunner().invoke(cli, ["providers", str(file), "--output", "json"])
    rows = json.loads(done.output)
    assert done.exit_code == 0 and len(rows) == 6 and rows[0]["provider"] == "bot"
    assert "whsec" not in done.output and "123:abc" not in done.output


def test_it_takes_the_file_of_the_setting(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDINGS_PROVIDERS", str(file))
    assert CliRunner().invoke(cli, ["providers"]).exit_code == 0
    monkeypatch.delenv("TIDINGS_PROVIDERS")
    assert isinstance(CliRunner().invoke(cli, ["providers"]).exception, OperatorError)


def test_it_tells_a_secret_that_is_not_set(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOT_TOKEN")
    error = CliRunner().invoke(cli, ["providers", str(file)]).exception
    assert isinstance(error, OperatorError) and "BOT_TOKEN is not set" in str(error)
