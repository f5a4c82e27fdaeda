"""Health check of a container: `python scripts/healthy.py`; exit code 0 is healthy.

Each worker leaves the address of its endpoints in TIDINGS_DATA_DIR/ROLE-N/web-url while it runs. Healthy means that
there is at least one, and that /health answers 200 at each: whatever the role, the port and the instance.
"""

import os
import sys
import urllib.request
from pathlib import Path

TIMEOUT_S = 4


def healthy(data_dir: Path) -> bool:
    """Ask every worker of this data directory."""
    places = [path.read_text(encoding="utf-8").strip() for path in data_dir.glob("*-*/web-url")]
    return bool(places) and all(answers(place) for place in places)


def answers(place: str) -> bool:
    """Tell whether /health answers there."""
    try:
        with urllib.request.urlopen(f"{place}/health", timeout=TIMEOUT_S) as answer:  # noqa: S310 - written by us
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(0 if healthy(Path(os.environ.get("TIDINGS_DATA_DIR", "data"))) else 1)
