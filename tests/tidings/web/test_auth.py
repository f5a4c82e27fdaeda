import dataclasses
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from schemas.errors import OperatorError
from tidings.config import Settings
from tidings.web.auth import is_loopback, kept_secret, matches, token_for_asking, token_of


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"])
def test_only_this_machine_reaches_a_loopback_address(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "worker-1", "localhost.example", ""])
def test_any_other_address_counts_as_reachable_from_outside(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("header", ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret "])
def test_the_token_is_taken_whatever_the_case_of_the_scheme(header: str) -> None:
    assert matches("s3cret", header)


@pytest.mark.parametrize(
    "header",
    [None, "", "s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cretx", "Basic s3cret", "Bearer \udcff"],
)
def test_anything_else_is_refused(header: str | None) -> None:
    assert not matches("s3cret", header)


@pytest.mark.parametrize("header", [None, "", "Bearer ", "Bearer x"])
def test_without_a_token_nothing_matches(header: str | None) -> None:
    assert not matches("", header)


def test_a_worker_on_loopback_keeps_a_token_that_only_its_user_reads(tmp_path: Path) -> None:
    settings = dataclasses.replace(Settings(), data_dir=tmp_path / "data")
    token = token_of(settings)
    assert len(token) >= 32
    assert stat.S_IMODE((tmp_path / "data" / "web-token").stat().st_mode) == 0o600
    assert token_of(settings) == token
    assert token_for_asking(settings) == token
    assert os.listdir(tmp_path / "data") == ["web-token"]


def test_workers_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for attempt in range(20):
            assert len(set(pool.map(kept_secret, [tmp_path / str(attempt)] * 4))) == 1
    assert len(list(tmp_path.iterdir())) == 20


def test_the_setting_wins_over_the_file(tmp_path: Path) -> None:
    settings = dataclasses.replace(Settings(), data_dir=tmp_path, web_token="mine")
    assert (token_of(settings), token_for_asking(settings)) == ("mine", "mine")
    assert list(tmp_path.iterdir()) == []


def test_no_token_is_made_for_an_address_that_others_reach(tmp_path: Path) -> None:
    assert token_of(dataclasses.replace(Settings(), data_dir=tmp_path, web_host="0.0.0.0")) == ""
    assert list(tmp_path.iterdir()) == []


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "web-token"
    path.write_text("known")
    path.chmod(0o644)
    with pytest.raises(OperatorError, match=r"others can read this secret \(got mode 644\); delete it") as caught:
        kept_secret(path)
    assert "known" not in str(caught.value)


def test_an_empty_secret_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "web-token"
    path.touch(0o600)
    with pytest.raises(OperatorError, match="empty"):
        kept_secret(path)


def test_asking_without_any_token_names_both_ways_out(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="TIDINGS_WEB_TOKEN") as caught:
        token_for_asking(dataclasses.replace(Settings(), data_dir=tmp_path))
    assert caught.value.exit_code == 3
