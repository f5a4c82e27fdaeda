"""Rebuild requirements.lock (what runs) and requirements-dev.lock (that and the tools) from pyproject.toml.

Called by `make lock`, inside .venv. The locks fit every platform and Python that we support, hold the hashes of all
public files, and name no index, host or path: they install from whatever index the reader's pip or uv is set to.
uv, because it takes the hashes from the index where pip-tools may download each file of each platform (gigabytes).
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from uv import find_uv_bin

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = ["--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate", "--no-config"]
HEADER = "# {what}. Made from pyproject.toml by `make lock`; do not edit.\n"


def compile_lock(requirements: list[str], target: Path, what: str, extra: list[str]) -> None:
    """Resolve `requirements` into `target`, keeping the versions it already holds where they still fit."""
    print(f"resolving {target.name}", flush=True)
    env = {key: value for key, value in os.environ.items() if key != "UV_FIND_LINKS"}  # local wheels hash differently
    env.setdefault("UV_NATIVE_TLS", "1")  # trust what pip trusts: the machine's authorities
    command = [find_uv_bin(), "pip", "compile", *OPTIONS, *extra, "--output-file", str(target), "-"]
    subprocess.run(
        command, check=True, env=env, cwd=ROOT, input="\n".join(requirements).encode(), stdout=subprocess.DEVNULL
    )
    target.write_text(HEADER.format(what=what) + target.read_text(encoding="utf-8"), encoding="utf-8")


def main() -> None:
    """Rebuild both locks; `--upgrade` takes the newest versions that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    runtime = project["project"]["dependencies"]
    tools = project["dependency-groups"]["dev"]
    extra = ["--python-version", project["project"]["requires-python"].removeprefix(">="), *sys.argv[1:]]
    lock = ROOT / "requirements.lock"
    compile_lock(runtime, lock, "What runs", extra)
    # The constraint makes the second lock a superset of the first, version for version.
    extra += ["--constraint", str(lock)]
    compile_lock(runtime + tools, ROOT / "requirements-dev.lock", "What runs, and the tools of a developer", extra)


if __name__ == "__main__":
    main()
