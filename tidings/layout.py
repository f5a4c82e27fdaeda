"""Start-up guard: our packages come from our root.

Names such as `tables` and `agents` are generic, and other distributions install them as well (PyTables: `tables`,
openai-agents: `agents`). Python then takes whichever it finds first, without a word. Only finds, never imports, so
that it costs little at every start; `tests/test_layout.py` holds the slower checks.
"""

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("schemas", "tables", "streams", "sinks", "agents", "tidings")


def strangers(packages: Iterable[str] = PACKAGES, root: Path = ROOT) -> list[str]:
    """Describe each package that Python takes from elsewhere than `root`; empty when all are ours."""
    found = []
    for package in packages:
        places = _places(package)
        if not places:
            found.append(f"package '{package}' was not found; set PYTHONPATH={root}")
        elif places != [root / package]:
            others = ", ".join(str(place) for place in places if place != root / package)
            found.append(
                f"package '{package}' was loaded from {others}, not from {root / package}; "
                f"uninstall that distribution or set PYTHONPATH={root}"
            )
    return found


def _places(package: str) -> list[Path]:
    """Name the folders (or the file of a plain module) that an import of this name would read."""
    try:
        spec = find_spec(package)
    except ValueError:  # something put a module without a spec under this name
        return [Path(str(getattr(sys.modules[package], "__file__", None) or "(nowhere)"))]
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(place).resolve() for place in spec.submodule_search_locations]
    return [Path(spec.origin or "(nowhere)").resolve()]


# Our own error type lives in one of the guarded packages: with a stranger in its place, only SystemExit is left.
if strangers(["schemas"]):
    print("\n".join(strangers()), file=sys.stderr)  # nothing of ours can speak yet
    raise SystemExit(2)

from schemas.errors import OperatorError  # noqa: E402 - safe to import only after the lines above


def require_own_packages() -> None:
    """Refuse to start with somebody else's package under one of our names.

    Raises:
        OperatorError: which package, where it came from, what to do; one line for each.
    """
    wrong = strangers()
    if wrong:
        raise OperatorError("\n".join(wrong))
