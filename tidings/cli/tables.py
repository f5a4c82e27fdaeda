"""`tables`: the local copies of member records, which the changelog can always give back."""

import shutil
from pathlib import Path

import click

from schemas.errors import OperatorError, StateError
from tables.declare import DIRECTORY, TABLE_FILE
from tables.rocks import DirectoryLock
from tidings.config import Settings

REMOVED = ".removed"  # renamed first: a deletion that is cut off leaves nothing that a worker would open


@click.group()
def tables() -> None:
    """Look after the member records that engine workers keep on this machine.

    \b
    Examples:
      python -m tidings tables rebuild
      python -m tidings tables rebuild --partition 3 --yes
    """


@tables.command()
@click.option(
    "--partition", type=click.IntRange(0), multiple=True, help="Only this one; may be repeated. Default: all."
)
@click.option(
    "--instance", type=click.IntRange(0, 19), multiple=True,
    help="Only of this engine worker; may be repeated. Default: all on this data directory.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask.")
def rebuild(partition: tuple[int, ...], instance: tuple[int, ...], yes: bool) -> None:
    """Delete local copies of member records; the next start of the worker reads them back from the changelog.

    For a store that is damaged or was written by a newer build. The worker must be stopped. Nothing is lost as long as
    the changelog's topic is there; reading it back takes minutes per million members.

    \b
    Examples:
      python -m tidings tables rebuild --partition 3
      python -m tidings tables rebuild --instance 1 --yes

    Exit codes: 0 deleted, 1 nothing there or answered no, 2 a worker uses the directory.
    """
    settings = Settings.from_env()
    found = {home: _stores(home, partition) for home in _homes(settings.data_dir, instance)}
    count = sum(len(stores) for stores in found.values())
    if not count:
        raise OperatorError(
            f"tables: nothing to rebuild (got no such store below {settings.data_dir}/engine-*); "
            "check TIDINGS_DATA_DIR, --instance and --partition",
            exit_code=1,
        )
    for stores in found.values():
        for store in stores:
            click.echo(f"{store}  {_bytes(store):,} bytes")
    if not yes:
        click.confirm(f"Delete {count} and rebuild from the changelog at the next start?", abort=True)
    for home, stores in found.items():
        _delete(home, stores)
    click.echo(f"{count} deleted; start the worker, /ready tells how far it is")


def _homes(data_dir: Path, instances: tuple[int, ...]) -> list[Path]:
    if instances:
        return [data_dir / f"engine-{number}" for number in instances]
    return sorted(data_dir.glob("engine-[0-9]*"))


def _stores(home: Path, partitions: tuple[int, ...]) -> list[Path]:
    place = home / DIRECTORY
    if partitions:
        named = [place / TABLE_FILE.format(partition=number) for number in partitions]
        return [path for path in named if path.exists()]
    return sorted(path for path in place.glob(TABLE_FILE.format(partition="*")) if path.suffix != REMOVED)


def _bytes(store: Path) -> int:
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


def _delete(home: Path, stores: list[Path]) -> None:
    locks: list[DirectoryLock] = []
    try:
        try:
            for place in (home, home / DIRECTORY):  # as a worker does: the role's lock, then the stores'
                locks.append(DirectoryLock(place))
        except StateError as error:
            raise OperatorError(f"{error}; nothing was deleted there") from None
        for store in stores:
            aside = store.with_suffix(REMOVED)
            shutil.rmtree(aside, ignore_errors=True)
            store.rename(aside)
            shutil.rmtree(aside)
    except OSError as error:
        raise OperatorError(
            f"{error.filename or home}: cannot be deleted (got {error.strerror}); check its rights"
        ) from None
    finally:
        for lock in locks:
            lock.release()
