"""`python -m tidings`."""

from tidings.cli.main import run

if __name__ == "__main__":
    run()
