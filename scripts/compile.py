"""Compile the core with mypyc: `.venv/bin/python scripts/compile.py`. Needs a C compiler and the developer's packages.

Pure Python is the reference and stays beside it; tests/streams/test_compiled.py holds the two to the same bytes.
Does nothing where a build of the present sources by the present mypyc is there.
"""

import contextlib
import os
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tidings.compiled import BUILT, DONE, key  # noqa: E402 - the root must be on the path first

NEW = ".new-"  # what a build is called until it is done
ABANDONED_S = 3_600  # a build takes minutes: one this old was killed
KEPT = 4  # builds of other sources kept beside the new one: other checkouts may share the folder
# The way of an event through the core. Structs of msgspec cannot be compiled: their modules stay out.
MODULES = (
    "schemas/codec.py",
    "schemas/ids.py",
    "schemas/instants.py",
    "schemas/log.py",
    "schemas/partitioning.py",
    "schemas/reading.py",
    "streams/arbiter.py",
    "streams/attribution.py",
    "streams/breaker.py",
    "streams/caps.py",
    "streams/dates.py",
    "streams/decide.py",
    "streams/engine.py",
    "streams/flows/acts.py",
    "streams/flows/awaited.py",
    "streams/flows/cascade.py",
    "streams/flows/plan.py",
    "streams/flows/receipts.py",
    "streams/flows/run.py",
    "streams/flows/times.py",
    "streams/flows/told.py",
    "streams/history.py",
    "streams/intake.py",
    "streams/late.py",
    "streams/life.py",
    "streams/memory.py",
    "streams/patterns/expressions.py",
    "streams/patterns/match.py",
    "streams/patterns/moment.py",
    "streams/patterns/plan.py",
    "streams/patterns/start.py",
    "streams/patterns/wait.py",
    "streams/patterns/waiting.py",
    "streams/patterns/windows.py",
    "streams/registry.py",
    "streams/place.py",
    "streams/policies/caps.py",
    "streams/policies/contact.py",
    "streams/policies/groups.py",
    "streams/policies/judge.py",
    "streams/policies/local_time.py",
    "streams/policies/receipts.py",
    "streams/policies/share.py",
    "streams/replay.py",
    "streams/routes.py",
    "streams/schedule.py",
    "streams/timers.py",
    "streams/views.py",
    "tables/codec.py",
    "tables/digests.py",
    "tables/hot.py",
    "tables/journey_codec.py",
    "tables/member_state.py",
    "tables/plan_codec.py",
)


def main() -> None:
    """Build, unless it is done."""
    place, maker = BUILT / key(), f"mypy {version('mypy')}"
    if is_made_by(maker, place):
        print("compile: the core is compiled already")
        return
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        sys.exit(f"compile: no C compiler (got '{compiler}'); install gcc, or go on without: pure Python does the same")
    BUILT.mkdir(parents=True, exist_ok=True)
    sweep(BUILT, time.time())
    started, log = time.monotonic(), BUILT / "build.log"
    print(f"compile: {len(MODULES)} modules, a minute or two …", flush=True)
    with tempfile.TemporaryDirectory(dir=BUILT, prefix=NEW) as new:
        try:
            build(Path(new), log)
        except (Exception, SystemExit) as error:
            message = f"compile: failed ({type(error).__name__}); see {log.relative_to(ROOT)}; pure Python goes on"
            sys.exit(message)
        if key() != place.name:
            sys.exit("compile: a source changed meanwhile; run it again")
        (Path(new) / "lib" / DONE).write_text(maker)
        with contextlib.suppress(OSError):  # somebody else was faster
            if place.is_dir():  # by another mypyc, or interrupted; processes that run it go on with what they have open
                place.rename(Path(new) / "old")
            (Path(new) / "lib").rename(place)
    older = sorted((path for path in BUILT.iterdir() if (path / DONE).is_file()), key=lambda path: path.stat().st_mtime)
    for path in older[: -1 - KEPT]:
        shutil.rmtree(path, ignore_errors=True)
    print(f"compile: done in {time.monotonic() - started:.0f} s")


def is_made_by(maker: str, place: Path) -> bool:
    """Tell whether a build is there, done, and by this version of mypyc."""
    return (place / DONE).is_file() and (place / DONE).read_text() == maker


def sweep(built: Path, now: float) -> None:
    """Remove what builds left that were killed."""
    for path in built.glob(f"{NEW}*"):
        with contextlib.suppress(OSError):  # its own process has removed it meanwhile
            if path.stat().st_mtime < now - ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)


def build(new: Path, log: Path) -> None:
    """Compile into `new`/lib; everything that mypyc and the C compiler say goes to the log."""
    os.chdir(ROOT)
    with log.open("w") as out, into(out):
        from mypyc.build import mypycify  # imports setuptools
        from setuptools import Distribution

        options = ["--config-file", "pyproject.toml", "--cache-dir", str(BUILT / "mypy")]
        extensions = mypycify([*options, *MODULES], opt_level="2", debug_level="0", target_dir=str(new / "c"))
        command = Distribution({"name": "tidings", "ext_modules": extensions}).get_command_obj("build_ext")
        command.build_lib, command.build_temp = str(new / "lib"), str(new / "o")
        command.ensure_finalized()
        command.run()


@contextlib.contextmanager
def into(out: TextIO) -> Iterator[None]:
    """Have this process, and the C compilers it starts, write to a file."""
    sys.stdout.flush()
    real = {number: os.dup(number) for number in (1, 2)}
    for number in real:
        os.dup2(out.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, kept in real.items():
            os.dup2(kept, number)
            os.close(kept)


if __name__ == "__main__":
    main()
