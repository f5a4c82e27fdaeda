"""Files that people hand us: campaigns in directories; events as NDJSON, Segment NDJSON or REES46 CSV, also gzip."""

import csv
import gzip
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from schemas.codec import encode_event
from schemas.errors import DecodeError, OperatorError
from schemas.rees46 import COLUMNS, event_from_row

AUTO, ENVELOPE, SEGMENT, REES46 = "auto", "envelope", "segment", "rees46"
FORMATS = (AUTO, ENVELOPE, SEGMENT, REES46)
YAML_ENDINGS = (".yaml", ".yml")
CASES_ENDINGS = (".cases.yaml", ".cases.yml")
POLICY_NAMES = ("policies.yaml", "policies.yml")
GZIP_MAGIC = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"


# ---------------------------------------------------------------- campaigns


def campaign_paths(paths: Iterable[str | Path]) -> list[Path]:
    """List campaign files: those named, and every *.yaml and *.yml below each directory named.

    Cases files and policies are left out. Each file once, in the order given, those of a directory by name. Hidden
    files and directories are passed over.

    Raises:
        OperatorError: a path does not exist.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
            for file in sorted(p for p in inside if p.suffix in YAML_ENDINGS and not is_cases(p) and not is_policy(p)):
                found.setdefault(file.resolve(), file)
        elif path.is_file():
            if not is_policy(path):
                found.setdefault(path.resolve(), path)
        else:
            raise OperatorError(f"{path}: no such file or directory; name a campaign file or a directory of them")
    return list(found.values())


def policy_paths(paths: Iterable[str | Path]) -> list[Path]:
    """List policy files: those named, and every `policies.yaml` below each directory named. Each file once."""
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in inside:
            if is_policy(file) and file.is_file() and not _hidden(file.relative_to(path) if file != path else Path()):
                found.setdefault(file.resolve(), file)
    return list(found.values())


def is_policy(path: Path) -> bool:
    """Tell whether this is a policy file by its name."""
    return path.name in POLICY_NAMES


def is_cases(path: Path) -> bool:
    """Tell whether this is a cases file by its name."""
    return path.name.endswith(CASES_ENDINGS)


def cases_path(campaign: Path) -> Path:
    """Name the cases file beside a campaign: `win-back.yaml` has `win-back.cases.yaml`."""
    endings = [f".cases{campaign.suffix}", *CASES_ENDINGS]
    beside = [campaign.with_name(campaign.stem + ending) for ending in endings]
    return next((path for path in beside if path.is_file()), beside[-2])


def read_text(path: Path) -> str:
    """Read a file of text.

    Raises:
        OperatorError: it cannot be opened, or is not UTF-8.
    """
    try:
        return path.read_text("utf-8")
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror or error}); check the path and its rights"
        raise OperatorError(message) from None
    except UnicodeDecodeError as error:
        raise OperatorError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None


def read_texts(paths: Iterable[Path]) -> list[tuple[str, str]]:
    """Read files as (path, text), as `load_campaigns` wants them."""
    return [(str(path), read_text(path)) for path in paths]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


# ---------------------------------------------------------------- events


class EventFile:
    """One file of events, opened for one reading; `-` is standard input. A context manager.

    `refused`: (line, reason) of rows of a CSV that are no events; their place in the log stays, empty.
    """

    def __init__(self, path: str, kind: str = AUTO) -> None:
        """Open it.

        Raises:
            OperatorError: it cannot be opened.
        """
        self.name = "stdin" if path == "-" else path
        self.refused: list[tuple[int, str]] = []
        self._raw = self._open(path)
        self.size = Path(path).stat().st_size if path != "-" and Path(path).is_file() else 0
        head: Any = self._raw if hasattr(self._raw, "peek") else io.BufferedReader(self._raw)
        self._file: Any = head
        try:
            if head.peek(2)[:2] == GZIP_MAGIC:
                self._file = io.BufferedReader(gzip.GzipFile(fileobj=head))
            start = self._file.peek(64)[:64].removeprefix(BOM)
        except (OSError, EOFError) as error:
            raise self._broken(error) from None
        self.csv = kind == REES46 or (kind == AUTO and start.startswith(b"event_time,"))

    def __enter__(self) -> "EventFile":
        """Return it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it, but for standard input."""
        if self._raw is not sys.stdin.buffer:
            self._raw.close()

    def position(self) -> int:
        """Return how many bytes of `size` were read, for a progress bar; 0 for standard input."""
        return self._raw.tell() if self.size else 0

    def line_of(self, index: int) -> int:
        """Return the line, from 1, of the record at a zero-based index; exact unless a CSV has line breaks in cells."""
        return index + (2 if self.csv else 1)

    def lines(self) -> Iterator[bytes]:
        """Yield one JSON text per record, empty for a row that is none, without judging what they hold.

        Raises:
            OperatorError: the file is damaged, or no REES46 export.
        """
        try:
            if self.csv:
                yield from self._rows()
                return
            first = self._file.readline()
            if first:
                yield first.removeprefix(BOM)
            yield from self._file
        except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
            raise self._broken(error) from None

    def _open(self, path: str) -> IO[bytes]:
        try:
            return sys.stdin.buffer if path == "-" else Path(path).open("rb")  # noqa: SIM115 closed by __exit__
        except OSError as error:
            message = f"{path}: cannot be opened ({error.strerror or error}); name a file of events, or - for stdin"
            raise OperatorError(message) from None

    def _rows(self) -> Iterator[bytes]:
        text = io.TextIOWrapper(self._file, "utf-8-sig", newline="")
        try:
            reader = csv.DictReader(text)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise OperatorError(
                    f"{self.name}:1: no REES46 export, columns are missing (got no {', '.join(missing)});"
                    " give its first line as it came, or another --format"
                )
            for index, row in enumerate(reader):
                try:
                    yield encode_event(event_from_row(row, index))
                except DecodeError as error:
                    self.refused.append((reader.line_num, error.message))
                    yield b""
        finally:
            text.detach()  # closing is ours, and not of standard input

    def _broken(self, error: Exception) -> OperatorError:
        return OperatorError(f"{self.name}: cannot be read to its end ({error}); get a whole copy of it")


class EventFiles:
    """Several files read one after the other as one log; offset = zero-based record over all of them."""

    def __init__(self, paths: Iterable[str], kind: str = AUTO) -> None:
        self._paths = list(paths)
        self._kind = kind
        self._starts: list[tuple[int, EventFile]] = []
        self._before = 0
        self.size = sum(Path(path).stat().st_size for path in self._paths if path != "-" and Path(path).is_file())
        self.count = 0

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of all files in the order given."""
        for path in self._paths:
            with EventFile(path, self._kind) as file:
                self._starts.append((self.count, file))
                for line in file.lines():
                    self.count += 1
                    yield line
                self._before += file.size

    def position(self) -> int:
        """Return how many bytes of `size` were read."""
        try:
            return self._before + (self._starts[-1][1].position() if self._starts else 0)
        except ValueError:  # the last one is closed: counted in `_before`
            return self._before

    def place(self, offset: int) -> str:
        """Name the place of a record for people: `log.ndjson:17`."""
        start, file = next(pair for pair in reversed(self._starts) if pair[0] <= offset)
        return f"{file.name}:{file.line_of(offset - start)}"

    def refused(self) -> list[str]:
        """List the rows that are no events: `shop.csv:17: reason`."""
        return [f"{file.name}:{line}: {reason}" for _, file in self._starts for line, reason in file.refused]
