"""`receipts import`: mails that report about ours become events, once; all others are counted and left out."""

import json
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from schemas.codec import decode_event
from schemas.errors import OperatorError
from schemas.events import Event
from tests.helpers.workers import read_topic
from tests.sinks.test_reports import MAIL, SECRET, arf, dsn
from tidings.brokers.memory import MemoryBroker
from tidings.cli.receipts import receipts


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TIDINGS_UNSUBSCRIBE_SECRET", SECRET.decode())
    monkeypatch.setenv("TIDINGS_DATA_DIR", str(tmp_path / "data"))
    with MemoryBroker({"events": 2}) as running:
        yield running.bootstrap


def run(broker: str, *paths: str, stdin: bytes | None = None) -> Result:
    args = ["import", *paths, "--broker", broker, "--output", "json"]
    return CliRunner().invoke(receipts, args, input=stdin, catch_exceptions=False)


def events(broker: str) -> list[Event]:
    messages = read_topic(broker, "events", 2)
    assert all(message.key() == b"m1" for message in messages)
    return [decode_event(message.value()) for message in messages]


def test_a_maildir_is_read_and_reading_it_again_makes_no_new_event(broker: str, tmp_path: Path) -> None:
    new = tmp_path / "Maildir" / "new"
    new.mkdir(parents=True)
    forged = MAIL.replace(b"X-Tidings-Reference: ", b"X-Tidings-Reference: A")
    delayed = dsn().replace(b"failed", b"delayed")
    for name, raw in {"1": dsn(), "2": arf(), "3": MAIL, "4": dsn(returned=forged), "5": delayed, ".x": arf()}.items():
        (new / name).write_bytes(raw)
    result = run(broker, str(tmp_path / "Maildir"))
    (row,) = json.loads(result.stdout)
    assert result.exit_code == 0 and row == {
        "mails": 5, "bounced": 1, "complained": 1, "delivered": 0, "nothing_new": 1, "unknown": 1, "no_report": 1,
        "events": 3, "failed": 0,
    }  # fmt: skip
    assert "4: reports about a mail without a token that we signed (got Message-ID of command cccc" in result.stderr
    assert "@" not in result.stderr
    run(broker, str(new / "1"), str(new / "2"))
    written = events(broker)
    kinds = ["consent.revoked", "delivery.bounced", "engagement.complained"]
    assert len(written) == 6 and sorted(event.type for event in written) == sorted(kinds * 2)
    assert len({event.event_id for event in written}) == 3


def test_one_mail_is_taken_from_stdin_with_its_own_date_if_that_can_be(broker: str) -> None:
    now = int(time.time())
    for date in (formatdate(now - 3_600), formatdate(now + 3_600), "Wed, 15 Nov 2003 08:00:00 +0100", "soon"):
        raw = dsn().replace(b"Wed, 15 Nov 2023 08:00:00 +0100", date.encode(), 1)
        assert run(broker, "-", stdin=raw).exit_code == 0
    first, *others = sorted(event.occurred_at_ms for event in events(broker))
    assert first == (now - 3_600) * 1000 and len(others) == 3
    assert all(now * 1000 <= at <= time.time() * 1000 for at in others)


def test_without_the_secret_that_signed_nothing_is_read(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIDINGS_UNSUBSCRIBE_SECRET")
    with pytest.raises(OperatorError, match="TIDINGS_UNSUBSCRIBE_SECRET: needed to know our own mails again"):
        run(broker, "-", stdin=dsn())
    assert not (tmp_path / "data").exists()
    with pytest.raises(OperatorError, match="not readable"):
        monkeypatch.setenv("TIDINGS_UNSUBSCRIBE_SECRET", SECRET.decode())
        run(broker, str(tmp_path / "none.eml"))
