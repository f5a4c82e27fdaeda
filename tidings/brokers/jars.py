"""The jars of broker 'local': resolved once by Maven from the pinned POM, checked by hash at each start.

Maven takes its repositories from its own defaults and the user's settings; none is named here. What it brings must be,
to the byte, what `kafka.sha256` lists, wherever it came from.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from schemas.errors import OperatorError
from tidings.brokers.waiting import Waiting

HERE = Path(__file__).parent
POM = HERE / "kafka.pom.xml"
LOCK = HERE / "kafka.sha256"
# A first resolution fetches about 45 MB in 60 files; ten minutes is a slow link, not a broken one.
RESOLVE_S_MAX = 600
WAYS_OUT = (
    "install Java 17 or later and Maven (Debian: apt-get install openjdk-17-jre-headless maven),"
    " or set TIDINGS_BROKER=memory (keeps nothing) or TIDINGS_BROKER=host:port of a Kafka that runs"
)


def find_program(name: str) -> str:
    """Return the path of `java` or `mvn`.

    Raises:
        OperatorError: it is not installed; names both ways out.
    """
    found = shutil.which(name)
    if found is None:
        raise OperatorError(f"broker 'local': needs '{name}' (got nothing on PATH); {WAYS_OUT}", exit_code=3)
    return found


def expected() -> dict[str, str]:
    """Return SHA-256 by file name, as pinned."""
    pairs = (line.split(maxsplit=1) for line in LOCK.read_text("ascii").splitlines() if line)
    return {name: digest for digest, name in pairs}


def differences(folder: Path, pinned: Mapping[str, str]) -> list[str]:
    """Name the jars that are missing, additional or other than pinned. Reads all of them: about 0.1 s."""
    present = {path.name: path for path in folder.glob("*.jar")} if folder.is_dir() else {}
    wrong = [name for name, path in present.items() if _digest(path) != pinned.get(name)]
    return sorted(wrong + [name for name in pinned if name not in present])


def ensure_jars(cache_dir: Path) -> Path:
    """Return the folder that holds exactly the pinned jars; ask Maven only if it does not yet.

    Raises:
        OperatorError: Maven is missing, fails, or brings something else than pinned.
    """
    pinned = expected()
    # Named after its contents: another version never meets these files, and two checkouts share them.
    folder = cache_dir / f"kafka-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]}"
    if not differences(folder, pinned):
        return folder
    find_program("java")
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".kafka-", dir=cache_dir) as scratch:
        fresh = Path(scratch) / "jars"
        resolve(fresh)
        wrong = differences(fresh, pinned)
        if wrong:
            raise OperatorError(
                f"{POM.name}: Maven brought other jars than {LOCK.name} pins (got {', '.join(wrong[:5])});"
                " check Maven's mirror settings, or remove the artifact from the local repository and try again",
                exit_code=3,
            )
        if folder.exists():  # damaged: replaced as a whole, never repaired in place
            shutil.rmtree(folder)
        try:
            fresh.rename(folder)
        except OSError:
            # Another process was faster; what counts is what lies there.
            if differences(folder, pinned):
                raise
    return folder


def resolve(target: Path) -> None:
    """Let Maven copy what the POM names, and what that needs, into `target`.

    Raises:
        OperatorError: Maven is missing or failed; its last error is quoted.
    """
    command = [find_program("mvn"), "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={target}"]
    fetched, errors = 0, [""]
    with (
        Waiting("broker 'local': resolving Kafka's jars with Maven, this once") as waiting,
        tempfile.NamedTemporaryFile("w", prefix="maven-", suffix=".log") as written,
        # Opened a second time: one shared file position would let our reading move Maven's writing.
        Path(written.name).open(errors="replace") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT) as maven,  # noqa: S603
    ):
        code: int | None = None
        while code is None:
            try:
                code = maven.wait(timeout=0.25)
            except subprocess.TimeoutExpired:
                if waiting.elapsed_s > RESOLVE_S_MAX:
                    maven.kill()
                    errors.append(f"no end after {RESOLVE_S_MAX} s")
            for line in log:
                fetched += "Downloaded from" in line and ".jar" in line
                if line.startswith("[ERROR] "):
                    errors.append(line.removeprefix("[ERROR] ").strip())
            waiting.tick(f"{fetched} jars fetched")
    if code != 0:
        reason = next((line for line in errors if line), "no message")[:400]
        raise OperatorError(
            f"{POM.name}: Maven could not resolve Kafka's jars (got exit code {code}: {reason});"
            " check the network and Maven's settings, or set TIDINGS_BROKER=memory or TIDINGS_BROKER=host:port",
            exit_code=3,
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":  # prints a new kafka.sha256
    with tempfile.TemporaryDirectory() as place:
        resolve(Path(place))
        for jar in sorted(Path(place).glob("*.jar")):
            sys.stdout.write(f"{_digest(jar)}  {jar.name}\n")
