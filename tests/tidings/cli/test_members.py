import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner

from schemas.errors import OperatorError
from tidings.cli.members import members
from tidings.web.pages import member_page
from tidings.web.routes import Probes, error_answer, install, json_answer

AT = 1_795_255_200_123
VIEW: dict[str, Any] = {
    "member_id": "m 1/ü", "profile": {"tier": "gold", "consent": {"email": True}}, "dates": [],
    "instances": [
        {"campaign": "cart", "version": "v1", "correlation": "p1", "anchor": "e1", "step": 1, "due": AT, "until": None,
         "fires_at": AT + 5_000, "matched": []},
    ],
    "decisions": [{"at": AT, "campaign": "cart", "outcome": "suppressed", "reason": "no_consent", "instance_id": "i"}],
    "touches": [],
}  # fmt: skip


@pytest.fixture
def worker() -> Iterator[str]:
    """An engine's endpoints that know one member; the token is `t`."""
    loop = asyncio.new_event_loop()

    async def member(request: web.Request) -> web.Response:
        asked = request.match_info["member_id"]
        if asked == "moving":
            return error_answer(503, "members, partition 1", "no worker has this partition ready", "ask again")
        known = asked == VIEW["member_id"]
        return json_answer(member_page(VIEW, 1, AT)) if known else error_answer(404, "members", "unknown", "check")

    async def begin() -> web.AppRunner:
        app = web.Application()
        install(app, Probes("engine", lambda: None, list), "t")
        app.router.add_get("/members/{member_id:.+}", member)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    runner = loop.run_until_complete(begin())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIDINGS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TIDINGS_WEB_TOKEN", "t")
    return tmp_path


def show(*args: str) -> str:
    result = CliRunner().invoke(members, ["show", *args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refusal(*args: str) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        CliRunner().invoke(members, ["show", *args], catch_exceptions=False)
    return caught.value


def test_the_table_tells_profile_instances_with_due_times_and_decisions(worker: str) -> None:
    text = show("m 1/ü", "--url", worker)
    assert text.startswith("member m 1/ü, partition 1, clock 2026-11-21T10:00:00.123Z\n")
    for words in ("tier", "gold", '{"email":true}', "2026-11-21T10:00:05.123Z", "no_consent"):
        assert words in text, words


@pytest.mark.parametrize("output", ["json", "ndjson"])
def test_json_is_what_the_worker_says(worker: str, output: str) -> None:
    text = show("m 1/ü", "--url", worker, "--output", output)
    assert json.loads(text) == member_page(VIEW, 1, AT)
    assert (text.count("\n") == 1) == (output == "ndjson")


def test_the_worker_of_this_data_directory_is_found_past_one_that_was_killed(worker: str, place: Path) -> None:
    for instance, url in (("engine-0", "http://127.0.0.1:1"), ("engine-1", worker)):
        (place / instance).mkdir()
        (place / instance / "web-url").write_text(url)
    assert "gold" in show("m 1/ü")


def test_the_token_kept_by_the_worker_is_used(worker: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDINGS_WEB_TOKEN")
    (place / "web-token").touch(0o600)
    (place / "web-token").write_text("t")
    assert "gold" in show("m 1/ü", "--url", worker)


def test_an_unknown_member_ends_with_1(worker: str) -> None:
    error = refusal("nobody", "--url", worker)
    assert (error.exit_code, str(error)) == (1, "members: no record of this member (got 'nobody'); check the id")


def test_a_wrong_token_ends_with_2(worker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDINGS_WEB_TOKEN", "wrong")
    error = refusal("m1", "--url", worker)
    assert error.exit_code == 2
    assert "the token is wrong (got 401); set TIDINGS_WEB_TOKEN" in str(error)


def test_a_partition_on_the_move_ends_with_3_and_the_workers_words(worker: str) -> None:
    error = refusal("moving", "--url", worker)
    assert (error.exit_code, str(error)) == (
        3,
        "members, partition 1: no worker has this partition ready; ask again",
    )


def test_no_worker_ends_with_3(place: Path) -> None:
    error = refusal("m1", "--url", "http://127.0.0.1:1")
    assert error.exit_code == 3
    assert "nothing answers (got ConnectionRefusedError)" in str(error)


@pytest.mark.parametrize("url", ["127.0.0.1:6066", "ftp://x", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    assert "give http://host:port" in str(refusal("m1", "--url", url))
