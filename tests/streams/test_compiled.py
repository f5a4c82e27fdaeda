"""The compiled core says what plain Python says, byte for byte; a build of other sources is never used."""

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES

import pytest

from tidings import compiled

SEEDS = 150
COMPILER = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]


def run(*words: str, form: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    environment["TIDINGS_COMPILED"] = form
    done = subprocess.run(
        [sys.executable, *words], cwd=compiled.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.xdist_group("compiled")
def test_compiled_and_plain_python_say_the_same_bytes():
    if shutil.which(COMPILER) is None:  # .ci/run installs one and compiles before the tests
        pytest.skip(f"no C compiler (looked for {COMPILER})")
    run("scripts/compile.py", form="0")
    fast = run("-m", "tests.helpers.said", "0", str(SEEDS), form="1")
    plain = run("-m", "tests.helpers.said", "0", str(SEEDS), form="0")
    assert fast[0] == "compiled"
    assert plain[0] == "pure Python"
    assert fast[1:] == plain[1:]
    assert sum(line.endswith("refused") for line in plain) < SEEDS // 5


def checkout(root):
    """Lay out what `key` reads, and a build that holds one module."""
    for package in compiled.SOURCES:
        (root / package).mkdir(parents=True)
        (root / package / "code.py").write_text("NUMBER = 1\n")
    (root / "scripts").mkdir()
    (root / "scripts" / "compile.py").write_text("")
    place = root / ".cache" / "compiled" / compiled.key(root)
    (place / "streams").mkdir(parents=True)
    (place / "streams" / ("no_such_module" + EXTENSION_SUFFIXES[0])).touch()
    (place / compiled.DONE).touch()
    return place


@pytest.fixture
def script():
    return runpy.run_path(str(compiled.ROOT / "scripts" / "compile.py"))


@pytest.mark.parametrize(("written", "made"), [("mypy 2", True), ("mypy 1", False), ("", False), (None, False)])
def test_a_build_of_another_mypyc_is_made_anew(tmp_path, script, written, made):
    if written is not None:
        (tmp_path / compiled.DONE).write_text(written)
    assert script["is_made_by"]("mypy 2", tmp_path) is made


def test_what_a_killed_build_left_is_removed_and_nothing_else(tmp_path, script):
    for name in (".new-killed", ".new-running", "0123abcd"):
        (tmp_path / name / "c").mkdir(parents=True)
    now = (tmp_path / ".new-running").stat().st_mtime
    for name in (".new-killed", "0123abcd"):
        os.utime(tmp_path / name, (0, 0))
    script["sweep"](tmp_path, now)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new-running", "0123abcd"]


@pytest.fixture
def untouched(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(compiled, "_in_use", set())


def test_a_build_of_the_present_sources_is_used(tmp_path, untouched):
    checkout(tmp_path)
    assert compiled.use(True, tmp_path)
    assert compiled.spelled() == "compiled"


@pytest.mark.parametrize("package", compiled.SOURCES)
def test_a_build_of_other_sources_is_not_used(tmp_path, untouched, package):
    checkout(tmp_path)
    (tmp_path / package / "code.py").write_text("NUMBER = 2\n")
    assert not compiled.use(True, tmp_path)
    assert compiled.spelled() == "pure Python"


def test_a_build_that_was_interrupted_is_not_used(tmp_path, untouched):
    (checkout(tmp_path) / compiled.DONE).unlink()
    assert not compiled.use(True, tmp_path)


def test_a_build_is_not_used_where_the_setting_says_so(tmp_path, untouched):
    checkout(tmp_path)
    assert not compiled.use(False, tmp_path)


def test_a_build_is_not_used_beside_modules_that_are_loaded_already(tmp_path, untouched):
    place = checkout(tmp_path)
    (place / "streams" / ("engine" + EXTENSION_SUFFIXES[0])).touch()
    import streams.engine  # noqa: F401 - loaded by any test before, but let it not depend on that

    assert not compiled.use(True, tmp_path)
