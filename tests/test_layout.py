"""The house rules that a program can judge. Every fault is one line: `path:line: what is wrong; do this`."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tidings.layout import PACKAGES, ROOT, require_own_packages, strangers

OURS = (*PACKAGES, "benchmarks", "tests")
PURE = ("schemas", "tables", "streams")
IMPURE_FILES = ("tables/declare.py", "tables/rocks.py")  # the tables' Faust declarations; the store on disk
MODULE_LINES_MAX = 500
TEST_MODULE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70

TAKE_TIME = "take milliseconds as an argument, the log is the clock"
TAKE_VALUE = "take the value as an argument, tidings/config.py reads the environment"
HASH_IDS = "hash stable ids, see schemas/ids.py"
TAKE_TEXT = "take text or bytes as an argument, the caller reads files"
CALL_FROM_AGENTS = "move it to agents/, the core is synchronous"
BANNED = {
    "time": TAKE_TIME,
    "datetime.datetime.now": TAKE_TIME,
    "datetime.datetime.utcnow": TAKE_TIME,
    "datetime.datetime.today": TAKE_TIME,
    "datetime.date.today": TAKE_TIME,
    "random": HASH_IDS,
    "secrets": HASH_IDS,
    "uuid": HASH_IDS,
    "hash": "use schemas/ids.py, hash() of text differs from process to process",
    "os": TAKE_VALUE,
    "pathlib": TAKE_TEXT,
    "open": TAKE_TEXT,
    "asyncio": CALL_FROM_AGENTS,
    "threading": CALL_FROM_AGENTS,
    "faust": CALL_FROM_AGENTS,
    "print": "return a value, tidings/ speaks to people",
}
MACHINE_PATH = re.compile(r"(?<![\w.$}/-])/(root|home/\w+|work|Users/\w+|tmp/\w+)/")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@cache
def modules() -> tuple[Path, ...]:
    """Every Python file that is ours."""
    return tuple(path for name in (*OURS, "scripts") for path in sorted((ROOT / name).rglob("*.py")))


@cache
def committed() -> tuple[Path, ...]:
    """Every text file that git keeps or would keep; all of the tree where there is no git."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        command = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True)
        if listed.returncode == 0:  # git refuses a clone that belongs to another user, as in some containers
            names = [name for name in listed.stdout.decode().split("\0") if name]
            return tuple(ROOT / name for name in names if (ROOT / name).is_file())
    top = [path for path in ROOT.iterdir() if path.name == ".ci" or not path.name.startswith((".", "data"))]
    return tuple(path for folder in top for path in [folder, *folder.rglob("*")] if path.is_file())


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def place(path: Path, line: int = 1) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def fail_with(faults: list[str]) -> None:
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


def test_no_module_is_longer_than_its_bound() -> None:
    faults = []
    for path in modules():
        most = TEST_MODULE_LINES_MAX if path.is_relative_to(ROOT / "tests") else MODULE_LINES_MAX
        count = len(path.read_text(encoding="utf-8").splitlines())
        if count > most:
            faults.append(f"{place(path)}: module has {count} lines, at most {most} are allowed; split it by duty")
    fail_with(faults)


def test_no_function_is_longer_than_its_bound() -> None:
    faults = []
    for path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = (node.end_lineno or node.lineno) - node.lineno + 1
                if count > FUNCTION_LINES_MAX:
                    faults.append(
                        f"{place(path, node.lineno)}: '{node.name}' has {count} lines, at most {FUNCTION_LINES_MAX} "
                        "are allowed; keep the branches, move the work into leaves"
                    )
    fail_with(faults)


def test_every_package_and_module_says_what_it_is_for() -> None:
    faults = [
        f"{place(path)}: module docstring is missing; say what it is for and what it must not do"
        for path in modules()
        if not path.is_relative_to(ROOT / "tests") and not ast.get_docstring(tree(path))
    ]
    fail_with(faults)


def names_used(module: ast.Module) -> Iterator[tuple[int, str]]:
    """List (line, dotted name) of every import, and of every read of a name as its import spells it."""
    spelled: dict[str, str] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                spelled[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                spelled[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield node.lineno, f"{node.module}.{alias.name}"
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            parts = ast.unparse(node).split(".")
            if all(part.isidentifier() for part in parts):
                yield node.lineno, ".".join([spelled.get(parts[0], parts[0]), *parts[1:]])


def banned_in(module: ast.Module, path: Path) -> list[str]:
    defined = {n.name for n in ast.walk(module) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    defined |= {n.id for n in ast.walk(module) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    defined |= {n.arg for n in ast.walk(module) if isinstance(n, ast.arg)}  # a parameter called `time` is no clock
    imported = {part for n in ast.walk(module) if isinstance(n, ast.Import | ast.ImportFrom) for part in bound_by(n)}
    faults = set()
    for line, name in names_used(module):
        if name.split(".")[0] in defined - imported:
            continue
        for ban, remedy in BANNED.items():
            if name == ban or name.startswith(ban + "."):
                faults.add((line, f"{place(path, line)}: {ban} is banned here; {remedy}"))
    return [fault for _, fault in sorted(faults)]


def bound_by(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [(alias.asname or alias.name).split(".")[0] for alias in node.names]


def test_pure_packages_know_no_clock_chance_environment_or_file() -> None:
    faults = []
    for path in modules():
        name = path.relative_to(ROOT).as_posix()
        if name.split("/")[0] in PURE and name not in IMPURE_FILES:
            faults.extend(banned_in(tree(path), path))
    fail_with(faults)


@pytest.mark.parametrize(
    ("text", "ban"),
    [
        ("import time\n", "time"),
        ("from time import monotonic\n", "time"),
        ("from datetime import datetime as d\nd.now()\n", "datetime.datetime.now"),
        ("import datetime\ndatetime.datetime.now()\n", "datetime.datetime.now"),
        ("import os as system\nsystem.environ\n", "os"),
        ("open('x')\n", "open"),
        ("hash('x')\n", "hash"),
    ],
)
def test_a_planted_breach_of_purity_is_found(text: str, ban: str) -> None:
    faults = banned_in(ast.parse(text), ROOT / "streams" / "planted.py")
    assert any(f": {ban} is banned here; " in fault for fault in faults)


@pytest.mark.parametrize(
    "text",
    [
        "from streams.time import parse\nparse('1h')\n",
        "def f(time: int) -> int:\n    return time\n",
        "from datetime import datetime\ndatetime.fromisoformat('x')\n",
        "class C:\n    def open(self) -> None: ...\nC().open()\n",
    ],
)
def test_what_only_looks_like_a_breach_is_left_alone(text: str) -> None:
    assert banned_in(ast.parse(text), ROOT / "streams" / "fine.py") == []


def test_our_packages_come_from_our_root() -> None:
    require_own_packages()
    assert strangers() == []


def test_no_installed_distribution_holds_one_of_our_names() -> None:
    installed = importlib.metadata.packages_distributions()
    fail_with(
        [
            f"package '{name}' is installed by {', '.join(installed[name])}; uninstall it, or lock without it"
            for name in (*OURS, "scripts")
            if name in installed
        ]
    )


@pytest.mark.parametrize("package", PACKAGES[:-1])
def test_a_squatter_before_our_root_stops_the_start(tmp_path: Path, package: str) -> None:
    squatter = tmp_path / package
    squatter.mkdir()
    (squatter / "__init__.py").write_text("")
    script = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "from tidings.layout import require_own_packages\n"
        "require_own_packages()"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode != 0
    assert f"package '{package}' was loaded from {squatter.resolve()}, not from {ROOT / package}; " in done.stderr
    assert f"set PYTHONPATH={ROOT}" in done.stderr


@pytest.mark.parametrize("package", PACKAGES[:-1])
def test_a_squatter_on_pythonpath_ends_every_command_with_our_words(tmp_path: Path, package: str) -> None:
    squatter = tmp_path / "site" / package
    squatter.mkdir(parents=True)
    (squatter / "__init__.py").write_text("raise RuntimeError('a stranger was imported')\n")
    done = subprocess.run(
        [sys.executable, "-m", "tidings", "--help"],
        capture_output=True, text=True, timeout=60, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(squatter.parent), str(ROOT)])},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"package '{package}' was loaded from {squatter.resolve()}, not from {ROOT / package}; "
        f"uninstall that distribution or set PYTHONPATH={ROOT}\n"
    )


def test_a_package_that_is_nowhere_is_named(tmp_path: Path) -> None:
    assert strangers(["no_such_package"], tmp_path) == [
        f"package 'no_such_package' was not found; set PYTHONPATH={tmp_path}"
    ]


def test_a_folder_without_init_that_shares_a_name_is_a_stranger(tmp_path: Path) -> None:
    (tmp_path / "half_a_package").mkdir()
    sys.path.insert(0, str(tmp_path))
    try:
        (fault,) = strangers(["half_a_package"])
    finally:
        sys.path.remove(str(tmp_path))
    assert str(tmp_path / "half_a_package") in fault


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_pins_by_hash_and_names_no_place(name: str) -> None:
    faults, pinned = [], 0
    for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip().removesuffix("\\").strip()
        if re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][\w.+!-]*( ; [\w .'\"<>=!()]+)?", text):
            pinned += 1
        elif not re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", text) and not (
            number == 1 and text.startswith("# What runs")
        ):
            faults.append(f"{name}:{number}: neither a pin nor a sha256 (got {text[:60]!r}); run 'make lock'")
    fail_with(faults)
    assert pinned > 20


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {line.split(" \\")[0]: line for line in lines if "==" in line and not line.startswith("#")}


def test_the_developers_lock_holds_the_runtime_lock_version_for_version() -> None:
    missing = pins("requirements.lock").keys() - pins("requirements-dev.lock").keys()
    assert not missing, "run 'make lock'"


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.split(r"[\[<>=~!;]", text)[0].strip() for text in wanted}
    locked = {pin.split("==")[0] for pin in pins("requirements-dev.lock")}
    assert names - locked == set(), "run 'make lock'"
    assert "build-system" not in project, "our generic names must not end up in a wheel, see pyproject.toml"


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    faults = []
    for path in committed():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not a text file
        for number, line in enumerate(text.splitlines(), 1):
            match = MACHINE_PATH.search(line)
            if match and path != Path(__file__):
                faults.append(
                    f"{place(path, number)}: path of a machine (got {match[0]!r}); use a relative path or a setting"
                )
    fail_with(faults)


def test_links_in_the_documents_lead_somewhere() -> None:
    faults = []
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for target in LINK.findall(line):
                file, _, heading = target.partition("#")
                if re.match(r"[a-z]+:", target):
                    continue
                aim = (path.parent / file) if file else path
                if not aim.exists():
                    faults.append(f"{place(path, number)}: link to '{target}' leads nowhere; mend or remove it")
                elif heading and aim.suffix == ".md" and heading not in anchors(aim):
                    faults.append(f"{place(path, number)}: '{file or path.name}' has no heading '#{heading}'; mend it")
    fail_with(faults)


def anchors(path: Path) -> set[str]:
    """Spell each heading as GitHub does."""
    titles = re.findall(r"^#+ +(.+?) *$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
