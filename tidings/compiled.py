"""The core compiled to machine code, where it was built: `make compiled`, `scripts/compile.py`.

The same sources, read by mypyc. What was built lies in `.cache/compiled/<key>`, apart from the sources; `key` is a
hash of every source it was made from, and of the interpreter. After any edit the key is another one, so what is older
is never found, and plain Python runs. Which mypyc made it is in its file `done`: production has none to compare with.
Must be called before the core is imported.
"""

import hashlib
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

from tidings.config import environment_value

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / ".cache" / "compiled"
SOURCES = ("schemas", "tables", "streams")
DONE = "done"  # written last, with the name of its maker: a build that was interrupted is none
_in_use: set[str] = set()


def key(root: Path = ROOT) -> str:
    """Name the build that fits these sources and this interpreter."""
    found = hashlib.blake2b(f"{sys.version} {sysconfig.get_platform()}".encode(), digest_size=12)
    files = [path for package in SOURCES for path in sorted((root / package).rglob("*.py"))]
    for path in [*files, root / "scripts" / "compile.py"]:
        content = path.read_bytes()
        found.update(f"{path.relative_to(root)} {len(content)} ".encode() + content)
    return found.hexdigest()


def wanted() -> bool:
    """Tell whether TIDINGS_COMPILED leaves it on."""
    return environment_value("TIDINGS_COMPILED") != "0"


def built() -> bool:
    """Tell whether a build fits these sources."""
    return (BUILT / key() / DONE).is_file()


def use(wanted: bool, root: Path = ROOT) -> bool:
    """Have the core imported from its build, if one fits the sources. Returns whether it will be."""
    built = root / ".cache" / "compiled"
    if not wanted or in_use() or not built.is_dir():
        return in_use()
    place = built / key(root)
    if (place / DONE).is_file():
        files = {_name(path.relative_to(place)): path for path in place.rglob("*" + EXTENSION_SUFFIXES[0])}
        if not any(name in sys.modules for name in files):  # half of each would be neither
            sys.meta_path.insert(0, _Finder(files))
            _in_use.update(files)
    return in_use()


def in_use() -> bool:
    """Tell whether the core is compiled in this process."""
    return bool(_in_use)


def spelled() -> str:
    """Name what runs, for people."""
    return "compiled" if in_use() else "pure Python"


def _name(path: Path) -> str:
    return ".".join([*path.parts[:-1], path.name.removesuffix(EXTENSION_SUFFIXES[0])])


class _Finder:
    """Finds the modules of one build."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as `importlib.abc.MetaPathFinder` does."""
        file = self._files.get(name)
        return None if file is None else spec_from_file_location(name, file)
