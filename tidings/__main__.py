"""`python -m tidings`."""

import tidings.layout  # noqa: F401 - first: ends with its own words before what follows imports a stranger's package
from tidings.cli.main import run

if __name__ == "__main__":
    run()
