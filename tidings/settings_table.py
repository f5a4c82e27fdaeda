"""Every setting as a row: the table of docs/operating.md is made from it."""

import dataclasses
from pathlib import Path

from tidings.config import PREFIX, Settings


def documented() -> list[dict[str, str]]:
    """Describe every setting in order: name, unit, default, reason. The table of the docs is made from it."""
    return [
        {
            "name": PREFIX + f.name.upper(),
            "unit": f.metadata["unit"],
            "default": str(f.default).replace(str(Path.home()), "~") if f.default != "" else "(empty)",
            "reason": f.metadata["reason"],
        }
        for f in dataclasses.fields(Settings)
    ]
