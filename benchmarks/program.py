"""Runs a program of this package with the core as the product has it, compiled where it was built.

`python -m benchmarks.program NAME ARGUMENTS`, e.g. `worker_rate`. By itself such a module would import the core, as
plain Python, before it could be asked for.
"""

import runpy
import sys

from tidings import compiled

if __name__ == "__main__":
    compiled.use(compiled.wanted())
    name = sys.argv.pop(1)
    runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
