"""The providers' file: every fault at once, secrets from the environment alone, a bad edit changes nothing."""

import os
from pathlib import Path

import pytest

from schemas.errors import OperatorError
from sinks.channels.kinds import Bounds
from tidings.providers import ProvidersFile, read_providers

GOOD = """
providers:
  sms-main:
    {kind: twilio, account_sid: AC1, auth_token: {env: SMS_TOKEN}, sender: Shop, connections: 4, per_second: 30}
  sms-spare: {kind: http, url: "https://sms.example/send", fields: {to: "{to}", text: "{text}"}}
  bot: {kind: telegram, token: {env: BOT}}
  mail: {kind: smtp, url: "smtp://127.0.0.1:25"}
channels:
  sms: [sms-main, sms-spare]
  bot: bot
  email: [mail]
lanes:
  transactional: {sms: sms-spare}
"""
ENV = {"SMS_TOKEN": "s3cret", "BOT": "123:abc"}


def test_every_lane_has_the_channels_and_its_own_where_it_says_so() -> None:
    config = read_providers(GOOD, "p.yaml", ENV.get)
    names = {
        lane: {channel: [spec.name for spec in specs] for channel, specs in config.channels(lane).items()}
        for lane in ("trigger", "bulk", "transactional")
    }
    assert names["trigger"] == names["bulk"] == {"sms": ["sms-main", "sms-spare"], "bot": ["bot"], "email": ["mail"]}
    assert names["transactional"] == {"sms": ["sms-spare"], "bot": ["bot"], "email": ["mail"]}
    main = config.channels("trigger")["sms"][0]
    assert main.settings.auth_token == "s3cret" and main.bounds == Bounds(4, 30.0)  # type: ignore[attr-defined]
    assert "s3cret" not in repr(config)


def test_the_same_text_gives_equal_providers() -> None:
    assert read_providers(GOOD, "p.yaml", ENV.get) == read_providers(GOOD, "p.yaml", ENV.get)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("kind: twilio", "kind: twillio", "providers.sms-main: kind: there is no kind 'twillio'; kinds are apns"),
        ("{env: SMS_TOKEN}", "s3cret", "providers.sms-main: auth_token: a secret must not be in the file"),
        ("{env: SMS_TOKEN}", "{env: NOPE}", "environment variable NOPE is not set"),
        ("{env: SMS_TOKEN}", "{env: TIDINGS_SMS}", "names with TIDINGS_ are settings"),
        ("sender: Shop", "sander: Shop", "sander"),
        ("account_sid: AC1", "account_sid: 1", "Expected `str`, got `int`"),
        ("connections: 4", "connections: 0", "connections: from 1 to 1000"),
        ('"{text}"', '"{txt}"', "no such place"),
        ("  bot: bot", "  bott: bot", "channels: no such channel (got 'bott')"),
        ("  bot: bot", "  bot: robot", "channels.bot: no such provider (got robot); there are: bot, mail"),
        ("  email: [mail]", "  email: [bot]", "kind smtp is for email alone (got bot)"),
        ("  transactional:", "  fast:", "lanes: no such lane (got 'fast')"),
        ("channels:", "channel:", "must have providers, channels"),
        ("lanes:", "lanes: [", "not YAML"),
        ("  bot: bot", "  bot: []", "must be a list of providers"),
    ],
)
def test_a_fault_is_named_with_its_place(old: str, new: str, words: str) -> None:
    with pytest.raises(OperatorError) as caught:
        read_providers(GOOD.replace(old, new, 1), "p.yaml", ENV.get)
    assert words in str(caught.value) and str(caught.value).startswith("p.yaml") and "s3cret" not in str(caught.value)


def test_all_faults_are_told_at_once() -> None:
    text = GOOD.replace("kind: twilio", "kind: x").replace("  bot: bot", "  bot: y").replace("transactional", "z")
    with pytest.raises(OperatorError) as caught:
        read_providers(text, "p.yaml", ENV.get)
    assert len(str(caught.value).splitlines()) >= 3


def test_an_edit_is_taken_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(GOOD)
    file = ProvidersFile(path, ENV.get)
    first = file.current()
    assert file.current() is first
    path.write_text(GOOD.replace("[sms-main, sms-spare]", "[sms-spare]"))
    os.utime(path, ns=(1, 1))
    second = file.current()
    assert [spec.name for spec in second.channels("trigger")["sms"]] == ["sms-spare"]
    path.write_text("providers: [")
    os.utime(path, ns=(2, 2))
    assert file.current() is second
    path.unlink()
    assert file.current() is second


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="TIDINGS_PROVIDERS"):
        ProvidersFile(tmp_path / "none.yaml", ENV.get)
    assert ProvidersFile(None).current().channels("trigger") == {}
