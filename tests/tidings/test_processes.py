import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.errors import OperatorError
from tests.helpers.workers import ROOT, until
from tidings.config import Settings
from tidings.processes import Child, Children, Program, only_one

SLEEPER = Program("sleeper", ("topics", "show", "--help"))


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    with only_one(tmp_path / "x.lock", "a test") as descriptor:
        yield descriptor


def python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Let a child run this code in place of the product."""
    (tmp_path / "stand-in").mkdir()
    (tmp_path / "stand-in" / "tidings.py").write_text(code)
    monkeypatch.chdir(tmp_path / "stand-in")


def child_of(tmp_path: Path, lock: int) -> Child:
    return Child(SLEEPER, Settings(data_dir=tmp_path / "data"), tmp_path / "logs", lock)


def looked(children: Children, *fatal: int) -> bool:
    children.watch(fatal)
    return True


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_child_that_ends_is_started_again_after_a_pause_that_doubles(tmp_path, monkeypatch, lock):
    python(monkeypatch, tmp_path, "import sys; print('went wrong', flush=True); sys.exit(7)")
    said: list[str] = []
    child = child_of(tmp_path, lock)
    with Children([child], restart=True, say=said.append) as children:
        children.start()
        until(lambda: looked(children) and child.starts >= 3, "two restarts", 20)
    assert "exit code 7" in said[0] and "starts again in 0.5 s" in said[0] and "went wrong" in said[0]
    assert "starts again in 1 s" in said[2]


def test_a_child_that_ends_where_none_may_ends_the_command_with_its_last_words(tmp_path, monkeypatch, lock):
    python(monkeypatch, tmp_path, "import sys; print('no such port'); sys.exit(3)")
    with (
        Children([child_of(tmp_path, lock)], restart=True, say=print) as children,
        pytest.raises(OperatorError, match="no such port") as caught,
    ):
        children.start()
        until(lambda: looked(children, 3) and False, "the end", 20)
    assert caught.value.exit_code == 3


def test_a_child_gets_the_settings_and_no_other_variables_of_ours(tmp_path, monkeypatch, lock):
    python(monkeypatch, tmp_path, "import os; print(sorted(n for n in os.environ if n.startswith('TIDINGS_')))")
    monkeypatch.setenv("TIDINGS_SMTP", "smtp://elsewhere:25")
    child = child_of(tmp_path, lock)
    with Children([child], restart=True, say=print) as children:
        children.start()
        until(lambda: "TIDINGS" in child.last_words(1), "its output", 20)
    assert child.last_words(1) == "['TIDINGS_DATA_DIR']"


def test_stop_asks_and_waits(tmp_path, monkeypatch, lock):
    python(
        monkeypatch, tmp_path,
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (print('tidied up'), sys.exit(0)))\n"
        "print('runs', flush=True)\ntime.sleep(60)",
    )  # fmt: skip
    child = child_of(tmp_path, lock)
    with Children([child], restart=True, say=print) as children:
        children.start()
        until(lambda: child.last_words(1) == "runs", "its start", 20)
        began = time.monotonic()
    assert time.monotonic() - began < 5 and child.last_words(1) == "tidied up" and not alive(child.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_children_end_when_their_parent_is_killed_and_hold_its_lock_until_then(tmp_path, monkeypatch):
    python(monkeypatch, tmp_path, "import time; time.sleep(60)")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True, stdout=subprocess.PIPE, cwd=tmp_path / "stand-in",
    )  # fmt: skip
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.send_signal(signal.SIGKILL)
    with only_one(tmp_path / "x.lock", "a test"):  # waits for them
        assert not alive(pid)


PARENT = """
import sys, time
sys.path.append(sys.path.pop(0))
from pathlib import Path
from tests.tidings.test_processes import child_of, only_one
home = Path(sys.argv[1])
with only_one(home / "x.lock", "a test") as lock:
    child = child_of(home, lock)
    child.start()
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_only_one_holds_a_lock_and_the_other_is_told_who_has_it(tmp_path):
    with (
        only_one(tmp_path / "x.lock", "'up'"),
        pytest.raises(OperatorError, match=rf"'up' already runs .*got pid {os.getpid()}"),
        only_one(tmp_path / "x.lock", "'up'"),
    ):
        pass
    with only_one(tmp_path / "x.lock", "'up'"):
        pass


def test_a_log_that_grew_long_is_moved_aside(tmp_path, monkeypatch, lock):
    monkeypatch.setattr("tidings.processes.LOG_BYTES_MAX", 10)
    child = child_of(tmp_path, lock)
    child.log_path.parent.mkdir()
    child.log_path.write_text("more than ten bytes\n")
    child.trim_log()
    assert child.log_path.read_text() == "" and child.log_path.with_suffix(".log.1").read_text().startswith("more")
