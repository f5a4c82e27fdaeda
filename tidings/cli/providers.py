"""`providers`: who carries which channel in which lane, as the providers' file says."""

from pathlib import Path

import click

from schemas.commands import LANES
from schemas.errors import OperatorError
from tidings.cli.output import output_option, print_rows
from tidings.config import Settings
from tidings.providers import ProvidersFile


@click.command()
@click.argument("path", metavar="[FILE]", required=False)
@output_option
def providers(path: str | None, output: str) -> None:
    """Check the providers' file and show who carries what.

    Without FILE, the one that TIDINGS_PROVIDERS names. Nothing is called: keys are read, not tried.

    \b
    Examples:
      python -m tidings providers providers.yaml
      python -m tidings providers --output ndjson

    Exit codes: 0 nothing wrong, 2 faults in the file, all of them told.
    """  # noqa: D301 click wants the character itself
    named = path or Settings.from_env().providers
    if not named:
        raise OperatorError("TIDINGS_PROVIDERS: names no file (got nothing), so there is e-mail alone; see --help")
    config = ProvidersFile(Path(named)).current()
    print_rows(
        [
            {
                "lane": lane,
                "channel": channel,
                "order": number,
                "provider": spec.name,
                "kind": spec.kind,
                "connections": spec.bounds.connections,
                "per_second": spec.bounds.per_second,
            }
            for lane in LANES
            for channel, specs in sorted(config.channels(lane).items())
            for number, spec in enumerate(specs, 1)
        ],
        output,
    )
