"""The peers' own homes under `.cache/peers`: a venv each from a hash-pinned lock, Flink's Kafka connector by Maven."""

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import ROOT
from schemas.errors import OperatorError

HERE = Path(__file__).parent / "peers"
HOMES = ROOT / ".cache" / "peers"
CONNECTOR = "flink-sql-connector-kafka-5.0.0-2.2.jar"
CONNECTOR_SHA256 = "5605c691d11a501382c383fecba37a7a552467da5ab7ba904ef5d6f3d62c5616"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
INSTALL_S_MAX = 1_800  # Flink is 300 MB to fetch


@dataclass(frozen=True)
class Peer:
    """One engine: its name in tables, where it runs, how it is started, what it needs on PATH."""

    name: str
    home: str  # "" = our own venv
    program: str
    needs: tuple[str, ...] = ()
    slow: bool = False  # takes a share of the log only

    def missing(self) -> list[str]:
        """Name the programs that are not on PATH."""
        return [need for need in self.needs if shutil.which(need) is None]

    def prepare(self) -> None:
        """Make its home, once.

        Raises:
            OperatorError: its packages or jars could not be fetched.
        """
        if self.home:
            _venv(self.home)
        if self.home == "flink":
            _connector()
        if self.program.endswith(".java"):
            _compile(self.program)

    def command(self, bootstrap: str, events: str, commands: str, place: Path) -> list[str]:
        """Return the words that start it."""
        words = [bootstrap, events, commands, str(place)]
        if self.program.endswith(".java"):
            classes = f"{HOMES / 'flink' / 'classes'}:{_flink_lib()}/*:{HOMES / CONNECTOR}"
            # Flink 2 on Java 17 serialises through reflection.
            opens = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in ("lang", "util", "time")]
            return ["java", "-Xmx2g", *opens, "-cp", classes, self.program.removesuffix(".java"), *words]
        python = str(HOMES / self.home / "bin" / "python") if self.home else sys.executable
        jar = [str(HOMES / CONNECTOR)] if self.home == "flink" else []
        return [python, str(HERE / self.program), *words, *jar]


PEERS = (
    Peer("Faust, one write per event", "", "faust_plain.py", slow=True),
    Peer("Quix Streams", "quix", "quix.py"),
    Peer("Bytewax", "bytewax", "bytewax_flow.py"),
    Peer("Flink SQL (PyFlink)", "flink", "flink_sql.py", ("java", "mvn")),
    Peer("Flink CEP (JVM)", "flink", "FlinkCep.java", ("java", "javac", "mvn")),
)


def _run(words: list[str], what: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=INSTALL_S_MAX)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OperatorError(f"beside_peers: {what} failed (got {error}); leave it out or try again") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing said"]
        raise OperatorError(f"beside_peers: {what} failed (got: {said[0]}); leave it out or try again")


def _venv(name: str) -> None:
    lock, home = HERE / f"{name}.lock", HOMES / name
    stamp = home / "installed.lock"
    if stamp.exists() and stamp.read_bytes() == lock.read_bytes():
        return
    shutil.rmtree(home, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(home)], f"the venv of {name}")
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--require-hashes", "-r", str(lock)], f"installing {name}")
    shutil.copyfile(lock, stamp)


def _connector() -> None:
    jar = HOMES / CONNECTOR
    if not jar.exists():
        version = CONNECTOR.removeprefix("flink-sql-connector-kafka-").removesuffix(".jar")
        artifact = f"-Dartifact=org.apache.flink:flink-sql-connector-kafka:{version}"
        _run(["mvn", "-q", "-B", COPY, artifact, f"-DoutputDirectory={HOMES}"], "fetching Flink's Kafka connector")
    found = hashlib.sha256(jar.read_bytes()).hexdigest()
    if found != CONNECTOR_SHA256:
        raise OperatorError(f"{jar}: other bytes than pinned (got SHA-256 {found}); delete it and run again")


def _flink_lib() -> Path:
    return next((HOMES / "flink" / "lib").glob("python3*")) / "site-packages" / "pyflink" / "lib"


def _compile(program: str) -> None:
    classes = HOMES / "flink" / "classes"
    classes.mkdir(exist_ok=True)
    path = f"{_flink_lib()}/*:{HOMES / CONNECTOR}"
    _run(["javac", "-nowarn", "-d", str(classes), "-cp", path, str(HERE / program)], f"compiling {program}")
