"""`python -m tidings`."""

import tidings.layout  # noqa: F401 - first: ends with its own words before what follows imports a stranger's package
from tidings import compiled

compiled.use(compiled.wanted())  # before the first import of the core

from tidings.cli.main import run  # noqa: E402

if __name__ == "__main__":
    run()
